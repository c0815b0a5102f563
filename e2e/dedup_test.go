//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

const mib = 1 << 20

// size is full where everything is to run, small otherwise.
func size(small, full int64) int64 {
	if bed.Full() {
		return full
	}
	return small
}

func TestChangingOneTensorMovesAboutThatTensor(t *testing.T) {
	dir := t.TempDir()
	tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "out")
	total := size(64*mib, 512*mib)
	tensors := must[[]gen.Tensor](t)(gen.Model(tree, total, 1))
	w := wired(t, kind())
	first := push(t, w.Addr+"/team/m:v1", tree)
	pull(t, w.Addr+"/team/m:v1", "-o", out)

	changed := tensors[len(tensors)/2]
	for changed.Size < 1*mib {
		changed = tensors[len(tensors)/2+1]
	}
	check(t, gen.ChangeTensors(tree, []gen.Tensor{changed}, 99))
	up := w.Up()
	second := push(t, w.Addr+"/team/m:v2", tree)
	up = w.Up() - up
	down := w.Down()
	p := pull(t, w.Addr+"/team/m:v2", "-o", out)
	down = w.Down() - down
	same(t, tree, out)
	t.Logf("model of %d bytes (stored %d); a tensor of %d changed: push moved %d bytes (%d says mpack), pull %d (%d)",
		first.Read, first.Stored, changed.Size, up, second.Sent, down, p.Fetched)
	// What the tensor compresses to (BF16 weights: 0.67), the chunks of 1 MiB at its edges, and an index. Push may store the rest of
	// the two layers at its edges again, where less than half of one would be used.
	limit := changed.Size*7/10 + mib + mib/2
	if up > limit+16*mib {
		t.Errorf("push moved %d bytes for a tensor of %d, want at most %d", up, changed.Size, limit+16*mib)
	}
	if down > limit {
		t.Errorf("pull moved %d bytes for a tensor of %d, want at most %d", down, changed.Size, limit)
	}
}

func TestMovedTensorsAndRenamedFilesMoveNothing(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	_, err := gen.Model(tree, 64*mib, 1)
	check(t, err)
	w := wired(t, kind())
	push(t, w.Addr+"/team/m:v1", tree)
	shards, _ := filepath.Glob(filepath.Join(tree, "*.safetensors"))
	for i, s := range shards {
		check(t, os.Rename(s, filepath.Join(tree, fmt.Sprintf("weights-%d.safetensors", len(shards)-i))))
	}
	up := w.Up()
	push(t, w.Addr+"/team/m:v2", tree)
	up = w.Up() - up
	t.Logf("push after renaming the shards: %d bytes", up)
	if up > mib+mib/2 {
		t.Errorf("push moved %d bytes for renamed files", up)
	}
}

// jsonl pushes a log of records and returns where it lies, and the wire.
func jsonl(t *testing.T) (w *bed.Wire, name string, first pushed) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "data.jsonl")
	check(t, gen.JSONL(name, size(100*mib, 1000_000_000), 1))
	w = wired(t, kind())
	return w, name, push(t, w.Addr+"/team/c:v1", filepath.Dir(name))
}

func TestAppendingOnePercentMovesAboutOnePercent(t *testing.T) {
	w, name, first := jsonl(t)
	out := filepath.Join(t.TempDir(), "out")
	pull(t, w.Addr+"/team/c:v1", "-o", out)
	same(t, filepath.Dir(name), out)
	check(t, gen.Append(name, first.Read/100, 2))
	up := w.Up()
	second := push(t, w.Addr+"/team/c:v2", filepath.Dir(name))
	up = w.Up() - up
	down := w.Down()
	pull(t, w.Addr+"/team/c:v2", "-o", out)
	down = w.Down() - down
	same(t, filepath.Dir(name), out)
	index := indexSize(t, w.Addr+"/team/c:v2")
	t.Logf("JSONL of %d bytes (stored %d), %d appended: push moved %d bytes, pull %d; the index is %d of either", first.Read, first.Stored, second.Read-first.Read, up, down, index)
	// The same share of the stored bytes, the chunk that was cut off by the old end (1 MiB at most, before compression), and the index.
	limit := first.Stored/100 + mib/2 + index + 64<<10
	if up > limit || down > limit {
		t.Errorf("push moved %d bytes and pull %d; want at most %d", up, down, limit)
	}
}

func TestInsertingALineAtTheStartMovesAboutOneLayer(t *testing.T) {
	w, name, first := jsonl(t)
	check(t, gen.InsertLine(name, `{"id":-1,"text":"a line before all others"}`))
	up := w.Up()
	second := push(t, w.Addr+"/team/c:v2", filepath.Dir(name))
	up = w.Up() - up
	bare := w.Up()
	none := push(t, "--base", "none", w.Addr+"/team/c:v3", filepath.Dir(name))
	bare = w.Up() - bare
	index := indexSize(t, w.Addr+"/team/c:v2")
	t.Logf("JSONL of %d bytes (stored %d), a line inserted: push moved %d bytes (%d says mpack), with --base none %d (%d); the index is %d",
		first.Read, first.Stored, up, second.Sent, bare, none.Sent, index)
	// Against the base a chunk or two; without one the layer they lie in, of at most 64 MiB.
	if limit := 2*int64(mib) + index; up > limit {
		t.Errorf("push moved %d bytes, want at most %d", up, limit)
	}
	if limit := 64*mib + index; bare > limit {
		t.Errorf("without a base push moved %d bytes, want at most %d", bare, limit)
	}
}

// indexSize returns the size of an artifact's index.
func indexSize(t *testing.T, ref string) int64 {
	t.Helper()
	layout := filepath.Join(t.TempDir(), "l")
	mpack(t, "copy", "-q", ref, "oci:"+layout+":x")
	b, err := os.ReadFile(filepath.Join(layout, "index.json"))
	check(t, err)
	var ix struct{ Manifests []struct{ Digest string } }
	check(t, json.Unmarshal(b, &ix))
	blob := func(d string) []byte {
		b, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", string(bytes.TrimPrefix([]byte(d), []byte("sha256:")))))
		check(t, err)
		return b
	}
	var m manifest
	check(t, json.Unmarshal(blob(ix.Manifests[0].Digest), &m))
	return m.Layers[0].Size
}

func TestRepeatedContentIsStoredOnce(t *testing.T) {
	dir := t.TempDir()
	check(t, gen.GGUF(filepath.Join(dir, "a", "model.gguf"), 24*mib, 1))
	check(t, gen.GGUF(filepath.Join(dir, "b", "copy.gguf"), 24*mib, 1))
	p := push(t, "oci:"+filepath.Join(t.TempDir(), "l")+":v1", dir)
	t.Logf("read %d, stored %d", p.Read, p.Stored)
	if p.Stored > p.Read*6/10 {
		t.Errorf("stored %d bytes of %d that are there twice", p.Stored, p.Read)
	}
}

func TestSeedDirectorySavesTheDownload(t *testing.T) {
	dir := t.TempDir()
	tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "out")
	_, err := gen.Model(tree, 64*mib, 1)
	check(t, err)
	w := wired(t, kind())
	push(t, w.Addr+"/team/m:v1", tree)
	down := w.Down()
	p := pull(t, w.Addr+"/team/m:v1", "-o", out, "--seed", tree)
	down = w.Down() - down
	same(t, tree, out)
	t.Logf("pull with a seed that holds all: %d bytes over the wire, %d local", down, p.Local)
	if down > mib {
		t.Errorf("%d bytes over the wire, though the seed had all", down)
	}
}

func TestWeightsOfTheFullSize(t *testing.T) {
	full(t)
	dir := t.TempDir()
	tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "out")
	_, err := gen.Model(tree, 2200*mib, 1)
	check(t, err)
	addr := registry(t, bed.Distribution, bed.RegistryOptions{}).Addr
	const workers = 4
	first := push(t, "--concurrency", fmt.Sprint(workers), addr+"/team/m:v1", tree)
	again := push(t, addr+"/team/m:v1", tree)
	p := pull(t, "--concurrency", fmt.Sprint(workers), addr+"/team/m:v1", "-o", out)
	same(t, tree, out)
	t.Logf("read %d, stored %d (%.1f %%); push %v, %v CPU, %d MiB; again %v; pull %v, %v CPU, %d MiB", first.Read, first.Stored,
		100*float64(first.Stored)/float64(first.Read), first.Wall, first.CPU, first.PeakRSS/mib, again.Wall, p.Wall, p.CPU, p.PeakRSS/mib)
	if again.Sent != 0 {
		t.Errorf("the second push sent %d bytes", again.Sent)
	}
	if limit := int64(64+16*workers) * mib; p.PeakRSS > limit {
		t.Errorf("pull took %d MiB of memory at its peak, want at most %d", p.PeakRSS/mib, limit/mib)
	}
	check(t, os.RemoveAll(out))
	one := pull(t, "--concurrency", "1", addr+"/team/m:v1", "-o", out)
	t.Logf("pull with one worker: %v, %d MiB", one.Wall, one.PeakRSS/mib)
	if limit := int64(64+16) * mib; one.PeakRSS > limit {
		t.Errorf("pull with one worker took %d MiB of memory at its peak, want at most %d", one.PeakRSS/mib, limit/mib)
	}
}

func TestCorpusOfManySmallFiles(t *testing.T) {
	dir := t.TempDir()
	tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "out")
	n := int(size(5000, 100_000))
	check(t, gen.Corpus(tree, n, 1))
	w := wired(t, kind())
	first := push(t, w.Addr+"/team/c:v1", tree)
	p := pull(t, w.Addr+"/team/c:v1", "-o", out)
	same(t, tree, out)
	t.Logf("%d files: read %d, stored %d; push %v, %d MiB; pull %v, %d MiB", n, first.Read, first.Stored, first.Wall, first.PeakRSS/mib, p.Wall, p.PeakRSS/mib)
	if p.Written != n {
		t.Errorf("wrote %d files, want %d", p.Written, n)
	}
	if limit := int64(64+16*4) * mib; p.PeakRSS > limit {
		t.Errorf("pull took %d MiB of memory at its peak, want at most %d", p.PeakRSS/mib, limit/mib)
	}
	down := w.Down()
	repeat := pull(t, w.Addr+"/team/c:v1", "-o", out)
	if repeat.Written != 0 || repeat.Fetched != 0 {
		t.Errorf("the second pull wrote %d files and fetched %d bytes (%d over the wire)", repeat.Written, repeat.Fetched, w.Down()-down)
	}
}
