//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// difference is what diff --format json says.
type difference struct {
	Files   []struct{ Path, Change, From string }
	Tensors []struct {
		Name, Change, DType string
		Shape               []int64
		Size, NewBytes      int64
	}
	Bytes, NewBytes, FetchBytes int64
	NewChunks                   int
}

func diff(t *testing.T, a, b string) difference {
	t.Helper()
	var d difference
	parse(t, mpack(t, "diff", "--format", "json", a, b).Stdout, &d)
	return d
}

// What diff says a pull fetches, a pull fetches; and a directory is as good as
// what was packed from it.
func TestDiffNamesFilesAndTensorsAndTellsWhatAPullFetches(t *testing.T) {
	dir := t.TempDir()
	tree, out, before := filepath.Join(dir, "tree"), filepath.Join(dir, "out"), filepath.Join(dir, "before")
	tensors := must[[]gen.Tensor](t)(gen.Model(tree, 32*mib, 1))
	repository := registry(t, kind(), bed.RegistryOptions{}).Addr + "/team/m"
	push(t, repository+":v1", tree)
	pull(t, repository+":v1", "-o", out)
	check(t, os.CopyFS(before, os.DirFS(tree)))
	changed := tensors[len(tensors)/2]
	check(t, gen.ChangeTensors(tree, []gen.Tensor{changed}, 5))
	check(t, os.WriteFile(filepath.Join(tree, "new.txt"), []byte("new"), 0o644))
	check(t, os.Rename(filepath.Join(tree, "config.json"), filepath.Join(tree, "renamed.json")))
	push(t, repository+":v2", tree)

	d := diff(t, repository+":v1", repository+":v2")
	for _, want := range []string{"new.txt added", "renamed.json renamed config.json"} {
		if !slices.ContainsFunc(d.Files, func(f struct{ Path, Change, From string }) bool {
			return strings.TrimSpace(f.Path+" "+f.Change+" "+f.From) == want
		}) {
			t.Errorf("no %q among %v", want, d.Files)
		}
	}
	if len(d.Tensors) != 1 || d.Tensors[0].Change != "changed" || d.Tensors[0].DType != "BF16" || d.Tensors[0].Size != changed.Size || d.Tensors[0].NewBytes < changed.Size/2 {
		t.Errorf("one tensor of %d bytes has changed, not %+v", changed.Size, d.Tensors)
	}
	if p := pull(t, repository+":v2", "-o", out); p.Fetched > d.FetchBytes || p.Fetched < d.FetchBytes*9/10 { // files that are there in part spare it some
		t.Errorf("diff says that a pull fetches %d bytes, it fetched %d", d.FetchBytes, p.Fetched)
	}
	for _, pair := range [][2]string{{before, repository + ":v2"}, {repository + ":v1", tree}, {before, tree}} {
		if e := diff(t, pair[0], pair[1]); len(e.Files) != len(d.Files) || len(e.Tensors) != 1 || e.NewBytes != d.NewBytes || e.NewChunks != d.NewChunks {
			t.Errorf("%v: %+v, of the artifacts %+v", pair, e, d)
		}
	}
	if text := mpack(t, "diff", repository+":v2", tree).Stdout; text != "no difference\n" {
		t.Errorf("diff with the directory that was packed: %s", text)
	}
	fails(t, 2, []string{"no directory"}, "diff", filepath.Join(dir, "none"), tree)
}

// Three versions of a repository: what each added and where it comes from, what
// only the old ones hold on to, and a version rewritten without that.
func TestLogGcAndRepack(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	repository := addr + "/team/c"
	check(t, gen.JSONL(filepath.Join(tree, "a.jsonl"), 30*mib, 1))
	check(t, os.WriteFile(filepath.Join(tree, "mpack.yaml"), []byte("baseModels: example/base\ncorpora: [example/web]\nrevision: 0123abc\n"), 0o644))
	push(t, "--kind", "corpus", "--annotation", "team=data", "--created", "2026-01-01T00:00:00Z", repository+":one", tree)
	check(t, gen.JSONL(filepath.Join(tree, "b.jsonl"), 8*mib, 2))
	push(t, "--kind", "corpus", "--created", "2026-02-01T00:00:00Z", repository+":two", tree)
	// Of the first file a bit more than half stays, so that the layers of the first version are still listed.
	check(t, os.Truncate(filepath.Join(tree, "a.jsonl"), 18*mib))
	private, _ := keyPair(t)
	ok(t, withPassword(t, "push", "--kind", "corpus", "--created", "2026-03-01T00:00:00Z", "--provenance", "--key", private, "--tlog-upload=false", repository+":three", tree))

	var about struct {
		ArtifactType string
		Annotations  map[string]string
	}
	parse(t, mpack(t, "inspect", "--format", "json", repository+":one").Stdout, &about)
	if about.ArtifactType != "application/vnd.mpack.corpus.v1" || about.Annotations["team"] != "data" || about.Annotations["org.opencontainers.image.created"] != "2026-01-01T00:00:00Z" {
		t.Errorf("--kind, --annotation, --created: %+v", about)
	}

	var log []struct {
		Tags                                   []string
		StoredBytes, AddedBytes, RemovedBytes  int64
		FilesAdded, FilesChanged, FilesRemoved int
		BaseModels, Corpora                    []struct{ Name string }
		Revision                               string
		Provenance                             []struct{ Builder string }
	}
	parse(t, mpack(t, "log", "--format", "json", repository).Stdout, &log)
	if len(log) != 3 || log[0].Tags[0] != "three" || log[1].Tags[0] != "two" || log[2].Tags[0] != "one" {
		t.Fatalf("want three, two, one: %+v", log)
	}
	for _, v := range log {
		if v.BaseModels[0].Name != "example/base" || v.Corpora[0].Name != "example/web" || v.Revision != "0123abc" {
			t.Errorf("%s: lineage %+v", v.Tags, v)
		}
	}
	if len(log[0].Provenance) != 1 || len(log[1].Provenance) != 0 {
		t.Errorf("provenance: %+v, %+v", log[0].Provenance, log[1].Provenance)
	}
	if log[1].FilesAdded != 1 || log[1].AddedBytes == 0 || log[1].RemovedBytes > log[1].AddedBytes || log[0].FilesChanged != 1 || log[0].RemovedBytes == 0 {
		t.Errorf("what was added and removed: %+v", log)
	}
	text := mpack(t, "log", repository+":two").Stdout
	if !strings.HasPrefix(text, "two ") || strings.Contains(text, "three ") || !strings.Contains(text, "base model example/base") {
		t.Errorf("log from a tag: %s", text)
	}
	fails(t, 3, []string{"nowhere"}, "log", repository+":nowhere")

	var use struct {
		Kept, Old            []string
		FreeBytes, DeadBytes int64
		Layers               []struct {
			OldBytes  int64
			OldChunks int
		}
	}
	gc := func() {
		t.Helper()
		use.Layers = nil
		parse(t, mpack(t, "gc", "--format", "json", repository).Stdout, &use)
	}
	gc()
	if !slices.Equal(use.Kept, []string{"three"}) || len(use.Old) != 2 || use.DeadBytes == 0 || len(use.Layers) == 0 || use.Layers[0].OldChunks == 0 {
		t.Errorf("gc: %+v", use)
	}
	mpack(t, "gc", "--keep", "2", repository)

	stored := log[0].StoredBytes
	was := strings.TrimSpace(mpack(t, "push", "-q", "--base", repository+":three", repository+":same", tree).Stdout)
	var packed struct {
		Digest                         string
		StoredBytesBefore, StoredBytes int64
	}
	parse(t, mpack(t, "repack", "--format", "json", "--min-use", "0.99", repository+":three").Stdout, &packed)
	if packed.StoredBytes >= stored || packed.Digest == was {
		t.Errorf("repack: stored %d, was %d", packed.StoredBytes, stored)
	}
	out := filepath.Join(dir, "out")
	if p := pull(t, repository+":three", "-o", out); p.Digest != packed.Digest {
		t.Errorf("the tag is %s, repacked was %s", p.Digest, packed.Digest)
	}
	same(t, tree, out)
	if text := mpack(t, "diff", repository+":same", repository+":three").Stdout; text != "no difference\n" {
		t.Errorf("repack has changed content: %s", text)
	}
}
