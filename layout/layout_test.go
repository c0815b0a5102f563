package layout_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"mpack/layout"
	"mpack/layout/tree"
)

// blobs is where a test keeps layers.
type blobs struct {
	mu      sync.Mutex
	layers  map[layout.Hash][]byte
	fetched int64
}

func (b *blobs) put(_ context.Context, l layout.Layer, body io.ReadSeeker) error {
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if int64(len(data)) != l.Size || sha256.Sum256(data) != l.Digest {
		return fmt.Errorf("layer %s is not what it says", l.Digest)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.layers == nil {
		b.layers = map[layout.Hash][]byte{}
	}
	b.layers[l.Digest] = data
	return nil
}

func (b *blobs) from(layers []layout.Layer) layout.Fetch {
	return func(_ context.Context, n int, offset, length int64) (io.ReadCloser, bool, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		data, ok := b.layers[layers[n].Digest]
		if !ok {
			return nil, false, fs.ErrNotExist
		}
		b.fetched += length
		return io.NopCloser(bytes.NewReader(data[offset : offset+length])), false, nil
	}
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	p := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

func lines(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"id":%d,"text":"%x %x"}`+"\n", i, r.Uint64(), r.Uint32N(1000))
	}
	return b.Bytes()
}

// safetensors makes a file of BF16 tensors of size bytes each.
func safetensors(size int, seeds ...uint64) []byte {
	head := map[string]any{}
	for i := range seeds {
		head[fmt.Sprintf("t%03d", i)] = map[string]any{"dtype": "BF16", "shape": []int{size / 2}, "data_offsets": []int{i * size, (i + 1) * size}}
	}
	h, _ := json.Marshal(head)
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(h)))
	b = append(b, h...)
	for _, s := range seeds {
		b = append(b, random(s, size)...)
	}
	return b
}

// sample writes a tree with something of everything.
func sample(t testing.TB) string {
	dir := t.TempDir()
	write(t, dir, "model.safetensors", safetensors(3<<20, 1, 2, 3, 4))
	write(t, dir, "data/train.jsonl", lines(1, 80000))
	write(t, dir, "config.json", []byte(`{"model_type":"x"}`))
	write(t, dir, "empty", nil)
	write(t, dir, "exactly-a-chunk", random(9, 1<<20))
	for i := range 300 {
		write(t, dir, fmt.Sprintf("small/%03d.txt", i), random(uint64(100+i), i*37%5000))
	}
	write(t, dir, "-leading dash ü.bin", random(7, 100))
	write(t, dir, strings.Repeat("n", 255), []byte("long name"))
	if err := os.Chmod(filepath.Join(dir, "config.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../config.json", filepath.Join(dir, "data/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "nothing here"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func walk(t testing.TB, dir string) *tree.Tree {
	t.Helper()
	tr, err := tree.Walk(t.Context(), dir, tree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func pack(t testing.TB, dir string, o layout.PackOptions, b *blobs) *layout.Packed {
	t.Helper()
	p, err := layout.Pack(t.Context(), walk(t, dir), o, b.put)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func assemble(t testing.TB, p *layout.Packed, b *blobs, dir string, o layout.AssembleOptions) *layout.Assembled {
	t.Helper()
	w, err := tree.NewWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	done, err := layout.Assemble(t.Context(), p.Index, p.Layers, w, b.from(p.Layers), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return done
}

// same compares two directories by what a tree keeps of them.
func same(t testing.TB, a, b string) {
	t.Helper()
	ix, err := layout.Scan(t.Context(), walk(t, a), nil)
	if err != nil {
		t.Fatal(err)
	}
	iy, err := layout.Scan(t.Context(), walk(t, b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(ix.Files, iy.Files) {
		t.Fatalf("%s and %s differ", a, b)
	}
}

func TestRoundTrip(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	out := filepath.Join(t.TempDir(), "out")
	done := assemble(t, p, b, out, layout.AssembleOptions{})
	same(t, dir, out)
	if done.Kept != 0 || done.Files != 308-1+0 {
		t.Errorf("wrote %d files, kept %d", done.Files, done.Kept)
	}
	if _, err := os.Stat(filepath.Join(out, ".mpack-partial")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("work files are left: %v", err)
	}
}

func TestPackIsTheSameWhateverTheConcurrency(t *testing.T) {
	dir := sample(t)
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		p := pack(t, dir, layout.PackOptions{Workers: workers}, &blobs{})
		b, err := p.Index.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
		}
		if !bytes.Equal(b, first) {
			t.Fatalf("%d workers make another index", workers)
		}
	}
}

func TestAssembleFetchesNothingForARightDirectory(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	done := assemble(t, p, b, dir, layout.AssembleOptions{})
	if b.fetched != 0 || done.Files != 0 {
		t.Errorf("fetched %d bytes, wrote %d files", b.fetched, done.Files)
	}
}

func TestAssembleSelects(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	out := t.TempDir()
	assemble(t, p, b, out, layout.AssembleOptions{Select: func(p string) bool { return p == "config.json" }})
	if b.fetched > 1<<20 {
		t.Errorf("fetched %d bytes for a file of 18", b.fetched)
	}
	es, _ := os.ReadDir(out)
	if len(es) != 1 || es[0].Name() != "config.json" {
		t.Errorf("there is %v", es)
	}
}

func TestBaseIsReferencedNotStored(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p1 := pack(t, dir, layout.PackOptions{}, b)
	base := &layout.Base{Index: p1.Index, Layers: p1.Layers}

	again := &blobs{}
	p2 := pack(t, dir, layout.PackOptions{Base: base}, again)
	if len(again.layers) != 0 || !reflect.DeepEqual(p1.Index, p2.Index) || !reflect.DeepEqual(p1.Layers, p2.Layers) {
		t.Errorf("the same tree on top of itself is another artifact, or stored %d layers", len(again.layers))
	}

	write(t, dir, "model.safetensors", safetensors(3<<20, 1, 99, 3, 4)) // one tensor changed
	more := &blobs{}
	p3 := pack(t, dir, layout.PackOptions{Base: base}, more)
	var stored int
	for _, l := range more.layers {
		stored += len(l)
	}
	if stored < 3<<20 || stored > 3<<20+200<<10 {
		t.Errorf("stored %d bytes for one tensor of %d", stored, 3<<20)
	}
	for d, l := range b.layers {
		more.layers[d] = l
	}
	out := t.TempDir()
	assemble(t, p3, more, out, layout.AssembleOptions{})
	same(t, dir, out)
}

// A tensor file that the base has is not cut again; the result is the same.
func TestUnchangedTensorFiles(t *testing.T) {
	dir := t.TempDir()
	seeds := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	write(t, dir, "a.safetensors", safetensors(2<<20, seeds...))
	write(t, dir, "b.safetensors", safetensors(3<<20, seeds[3:]...))
	write(t, dir, "c.safetensors", safetensors(1<<10, 1))
	write(t, dir, "d.jsonl", lines(1, 30000))
	b := &blobs{}
	old := pack(t, dir, layout.PackOptions{}, b)
	plain := *old.Index
	plain.Files = slices.Clone(plain.Files)
	for i := range plain.Files {
		plain.Files[i].States = nil
	}
	otherwise := *old.Index
	otherwise.Chunks = slices.Clone(otherwise.Chunks)
	otherwise.Chunks[1].Size--
	otherwise.Chunks[2].Size++
	for i, change := range []func(){
		func() {},
		func() { write(t, dir, "b.safetensors", safetensors(3<<20, append([]uint64{99}, seeds[4:]...)...)) },
		func() { write(t, dir, "a.safetensors", safetensors(1<<20, 1, 2, 3)) },
		func() { write(t, dir, "0.safetensors", safetensors(4<<20, 77)) },
	} {
		change()
		want := pack(t, dir, layout.PackOptions{Base: &layout.Base{Index: &plain, Layers: old.Layers}}, b)
		for _, base := range []*layout.Index{old.Index, &otherwise} {
			got := pack(t, dir, layout.PackOptions{Base: &layout.Base{Index: base, Layers: old.Layers}}, b)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%d: not what packing from the start gives", i)
			}
		}
		out := t.TempDir()
		assemble(t, want, b, out, layout.AssembleOptions{})
		same(t, dir, out)
	}
}

func TestSparseBaseLayersAreLeftBehind(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "model.safetensors", safetensors(2<<20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12))
	b := &blobs{}
	p1 := pack(t, dir, layout.PackOptions{}, b)
	// Only the first tensor stays: every layer of the base is used by far less than half.
	write(t, dir, "model.safetensors", safetensors(2<<20, 1))
	p2 := pack(t, dir, layout.PackOptions{Base: &layout.Base{Index: p1.Index, Layers: p1.Layers}}, b)
	for i, reused := range p2.Reused {
		if reused {
			t.Errorf("layer %d of the base is listed", i)
		}
	}
	out := t.TempDir()
	assemble(t, p2, b, out, layout.AssembleOptions{})
	same(t, dir, out)
}

func TestDuplicatesAreStoredOnce(t *testing.T) {
	dir := t.TempDir()
	data := random(3, 8<<20)
	for i := range 4 {
		write(t, dir, fmt.Sprintf("copy%d.bin", i), data)
	}
	b := &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	var stored int64
	for _, l := range p.Layers {
		stored += l.Size
	}
	if stored > 9<<20 {
		t.Errorf("stored %d bytes of four copies of %d", stored, len(data))
	}
	out := t.TempDir()
	assemble(t, p, b, out, layout.AssembleOptions{})
	same(t, dir, out)
	if b.fetched > 9<<20 {
		t.Errorf("fetched %d bytes", b.fetched)
	}
}

func TestDeltaComesFromOldFilesAndSeeds(t *testing.T) {
	dir, b := sample(t), &blobs{}
	pack(t, dir, layout.PackOptions{}, b)
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "model.safetensors", safetensors(3<<20, 1, 2, 77, 4))
	write(t, dir, "data/train.jsonl", append(lines(5, 1), lines(1, 80000)...))
	p := pack(t, dir, layout.PackOptions{}, b)

	t.Run("in place", func(t *testing.T) {
		out := t.TempDir()
		if err := os.CopyFS(out, os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
		b.fetched = 0
		assemble(t, p, b, out, layout.AssembleOptions{})
		same(t, dir, out)
		if b.fetched > 5<<20 {
			t.Errorf("fetched %d bytes for 3 MiB of change", b.fetched)
		}
	})
	t.Run("seed", func(t *testing.T) {
		out := t.TempDir()
		b.fetched = 0
		assemble(t, p, b, out, layout.AssembleOptions{Seeds: []*tree.Tree{walk(t, old)}})
		same(t, dir, out)
		if b.fetched > 5<<20 {
			t.Errorf("fetched %d bytes for 3 MiB of change", b.fetched)
		}
	})
}

func TestInterruptedPullGoesOnWhereItWas(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "model.safetensors", safetensors(4<<20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
	b := &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	out := t.TempDir()
	fetch := b.from(p.Layers)
	broken := errors.New("the cable was pulled")
	w, err := tree.NewWriter(out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = layout.Assemble(t.Context(), p.Index, p.Layers, w, func(ctx context.Context, n int, off, length int64) (io.ReadCloser, bool, error) {
		if n >= 2 {
			return nil, false, finalError{broken}
		}
		return fetch(ctx, n, off, length)
	}, layout.AssembleOptions{Workers: 1})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	w.Close()
	if _, err := os.Stat(filepath.Join(out, "model.safetensors")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a half-written file has its name: %v", err)
	}
	got := b.fetched
	b.fetched = 0
	assemble(t, p, b, out, layout.AssembleOptions{})
	same(t, dir, out)
	var total int64
	for _, l := range p.Layers {
		total += l.Size
	}
	if got == 0 || b.fetched > total-got+1<<20 {
		t.Errorf("fetched %d, then %d of %d bytes", got, b.fetched, total)
	}
}

// finalError is a failure that a source does not want retried.
type finalError struct{ error }

func (finalError) Temporary() bool { return false }
func (e finalError) Unwrap() error { return e.error }

func TestBrokenTransfersAreBegunAgain(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	fetch := b.from(p.Layers)
	var mu sync.Mutex
	n := 0
	out := t.TempDir()
	w, err := tree.NewWriter(out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = layout.Assemble(t.Context(), p.Index, p.Layers, w, func(ctx context.Context, l int, off, length int64) (io.ReadCloser, bool, error) {
		rc, whole, err := fetch(ctx, l, off, length)
		mu.Lock()
		defer mu.Unlock()
		if n++; n%2 == 1 && err == nil { // every second body ends halfway
			rc = io.NopCloser(io.LimitReader(rc, length/2))
		}
		return rc, whole, err
	}, layout.AssembleOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	same(t, dir, out)
}

func TestWholeLayersServeWhereRangesDoNot(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	out := t.TempDir()
	w, err := tree.NewWriter(out)
	if err != nil {
		t.Fatal(err)
	}
	requests := 0
	var mu sync.Mutex
	_, err = layout.Assemble(t.Context(), p.Index, p.Layers, w, func(_ context.Context, l int, _, _ int64) (io.ReadCloser, bool, error) {
		mu.Lock()
		requests++
		mu.Unlock()
		return io.NopCloser(bytes.NewReader(b.layers[p.Layers[l].Digest])), true, nil
	}, layout.AssembleOptions{Select: func(p string) bool { return strings.HasPrefix(p, "small/1") || strings.HasSuffix(p, "safetensors") }})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if requests > len(p.Layers) {
		t.Errorf("%d requests for %d layers", requests, len(p.Layers))
	}
}

func TestCorruptLayersAreRefused(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	for d, l := range b.layers {
		bad := bytes.Clone(l)
		bad[len(bad)/2] ^= 1
		b.layers[d] = bad
	}
	out := t.TempDir()
	w, err := tree.NewWriter(out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = layout.Assemble(t.Context(), p.Index, p.Layers, w, b.from(p.Layers), layout.AssembleOptions{})
	w.Close()
	if !errors.Is(err, layout.ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
}

// What is verified with its file is fetched again where the file is wrong, and
// nothing else is.
func TestWhatArrivesBrokenIsFetchedAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.bin", random(1, 70<<20))
	write(t, dir, "b.bin", random(2, 5<<20))
	write(t, dir, "c.txt", random(3, 3000))
	b := &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	var total int64
	for _, l := range p.Layers {
		total += l.Size
	}
	for _, store := range []bool{false, true} {
		var o layout.AssembleOptions
		if store {
			o = stored(t.TempDir(), layout.LinkAuto)
		}
		var mu sync.Mutex
		var done layout.Delta
		o.Progress = func(d layout.Delta) {
			mu.Lock()
			defer mu.Unlock()
			done.Bytes += d.Bytes
			done.Files += d.Files
			done.Retries += d.Retries
		}
		fetch, broken := b.from(p.Layers), map[int]bool{}
		b.fetched = 0
		out := t.TempDir()
		err := assembleOnce(t, p, out, func(ctx context.Context, n int, off, length int64) (io.ReadCloser, bool, error) {
			rc, whole, err := fetch(ctx, n, off, length)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && !broken[n] {
				broken[n] = true
				var data []byte
				if data, err = io.ReadAll(rc); err == nil {
					data[len(data)/2] ^= 1
					rc = io.NopCloser(bytes.NewReader(data))
				}
			}
			return rc, whole, err
		}, o)
		if err != nil {
			t.Fatal(err)
		}
		same(t, dir, out)
		if limit := total + int64(len(p.Layers))*(2<<20); b.fetched > limit {
			t.Errorf("store %v: fetched %d bytes, want at most %d", store, b.fetched, limit)
		}
		if done.Retries == 0 || done.Bytes != p.Index.Size() || done.Files != 3 {
			t.Errorf("store %v: told %+v", store, done)
		}
	}
}

func TestAFileThatItsChunksDoNotMakeIsRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.bin", random(1, 5<<20))
	write(t, dir, "b.txt", random(2, 300))
	write(t, dir, "c.bin", random(3, 70<<20)) // windows are checked before the last has come
	b := &blobs{}
	pack(t, dir, layout.PackOptions{}, b)
	sum := func(f *layout.File) { f.SHA256[0] ^= 1 }
	for i, c := range []struct {
		path string
		lie  func(f *layout.File)
	}{
		{"a.bin", sum},
		{"b.txt", sum},
		{"c.bin", sum},
		{"a.bin", func(f *layout.File) { f.States[0][31] ^= 1 }},
		{"c.bin", func(f *layout.File) { f.States[0][0] ^= 1 }},
		{"c.bin", func(f *layout.File) { f.States[9][0] ^= 1 }},
		{"c.bin", func(f *layout.File) { f.States[len(f.States)-1][0] ^= 1 }},
		{"c.bin", func(f *layout.File) { f.States = nil; sum(f) }},
	} {
		p := pack(t, dir, layout.PackOptions{}, b)
		for i := range p.Index.Files {
			if f := &p.Index.Files[i]; f.Path == c.path {
				c.lie(f)
			}
		}
		out := t.TempDir()
		if err := assembleOnce(t, p, out, b.from(p.Layers), layout.AssembleOptions{}); !errors.Is(err, layout.ErrCorrupt) {
			t.Errorf("%d: %s: got %v", i, c.path, err)
		}
		if _, err := os.Stat(filepath.Join(out, c.path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: %s is there", i, c.path)
		}
	}
}

// Files of an index that has no states, as other writers may make it, are
// hashed as a whole.
func TestWithoutStates(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.bin", random(1, 9<<20))
	b := &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	p.Index.Files[0].States = nil
	out := t.TempDir()
	assemble(t, p, b, out, layout.AssembleOptions{})
	same(t, dir, out)
	if r := assemble(t, p, b, out, layout.AssembleOptions{}); r.Kept != 1 {
		t.Errorf("%+v", r)
	}
}

func TestHashFiles(t *testing.T) {
	dir := sample(t)
	write(t, dir, "large.bin", random(5, 70<<20))
	tr := walk(t, dir)
	want, err := layout.Scan(t.Context(), tr, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Files { // that is learned in cutting files
		want.Files[i].Format, want.Files[i].Tensors = "", nil
	}
	for _, known := range []*layout.Index{nil, want} {
		got, err := layout.HashFiles(t.Context(), tr, known, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Files, want.Files) {
			t.Error("files are not as Scan has them")
		}
	}
	lie := &layout.Index{Files: slices.Clone(want.Files)}
	for i := range lie.Files {
		lie.Files[i].SHA256[0] ^= 1
	}
	if got, err := layout.HashFiles(t.Context(), tr, lie, nil); err != nil || !reflect.DeepEqual(got.Files, want.Files) {
		t.Errorf("what is known is believed: %v", err)
	}
	for _, size := range []int64{70<<20 - 1, 70<<20 + 1} {
		if err := os.Truncate(filepath.Join(dir, "large.bin"), size); err != nil {
			t.Fatal(err)
		}
		if _, err := layout.HashFiles(t.Context(), tr, want, nil); !errors.Is(err, tree.ErrChanged) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := layout.HashFiles(ctx, tr, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAByteThatChangedIsFound(t *testing.T) {
	dir := t.TempDir()
	data := random(1, 70<<20)
	write(t, dir, "a.bin", data)
	b := &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	out := t.TempDir()
	assemble(t, p, b, out, layout.AssembleOptions{})
	for _, at := range []int{0, 33 << 20, len(data) - 1} {
		data[at] ^= 1
		write(t, out, "a.bin", data)
		data[at] ^= 1
		if r := assemble(t, p, b, out, layout.AssembleOptions{}); r.Files != 1 || r.Kept != 0 {
			t.Errorf("byte %d: %+v", at, r)
		}
		same(t, dir, out)
	}
}

func TestCat(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	for _, name := range []string{"model.safetensors", "config.json", "empty", "small/123.txt", "data/link", "exactly-a-chunk"} {
		want, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := layout.Cat(t.Context(), p.Index, name, &got, b.from(p.Layers)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s differs", name)
		}
	}
	if err := layout.Cat(t.Context(), p.Index, "no such", io.Discard, b.from(p.Layers)); !errors.Is(err, layout.ErrNotThere) {
		t.Errorf("got %v", err)
	}
}

func TestPutFailureIsTheError(t *testing.T) {
	want := errors.New("registry is gone")
	_, err := layout.Pack(t.Context(), walk(t, sample(t)), layout.PackOptions{}, func(context.Context, layout.Layer, io.ReadSeeker) error { return want })
	if !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestCancelEndsPack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := layout.Pack(ctx, walk(t, sample(t)), layout.PackOptions{}, func(ctx context.Context, _ layout.Layer, _ io.ReadSeeker) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// An index may claim one SHA-256 of chunks of two sizes.
func TestAHashOfTwoSizesIsRefused(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "a.safetensors", safetensors(1<<20, 1, 2, 3))
	p := pack(t, dir, layout.PackOptions{}, b)
	cs := p.Index.Chunks
	for i := range cs[1:] {
		cs[i+1].SHA256, cs[i+1].Offset, cs[i+1].Length = cs[0].SHA256, cs[0].Offset, cs[0].Length
	}
	w, err := tree.NewWriter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := layout.Assemble(t.Context(), p.Index, p.Layers, w, b.from(p.Layers), layout.AssembleOptions{}); !errors.Is(err, layout.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
