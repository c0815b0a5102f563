package layout_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mpack/layout"
	"mpack/layout/tree"
)

// stored makes options of a store that knows artifacts.
func stored(dir string, link layout.LinkMode, known ...*layout.Packed) layout.AssembleOptions {
	return layout.AssembleOptions{
		Store: &layout.FileStore{Dir: dir, Link: link},
		Stored: func(yield func(*layout.Index) bool) {
			for _, p := range known {
				if !yield(p.Index) {
					return
				}
			}
		},
	}
}

func TestStoreServesFilesAndChunksOfOtherVersions(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p1 := pack(t, dir, layout.PackOptions{}, b)
	for _, link := range []layout.LinkMode{layout.LinkAuto, layout.LinkHard} {
		t.Run(string(link), func(t *testing.T) {
			store := t.TempDir()
			first := t.TempDir()
			done := assemble(t, p1, b, first, stored(store, link))
			same(t, dir, first)
			if done.Unkept != nil {
				t.Fatal(done.Unkept)
			}

			b.fetched = 0
			again := t.TempDir()
			done = assemble(t, p1, b, again, stored(store, link))
			same(t, dir, again)
			if b.fetched != 0 || done.Local != p1.Index.Size() {
				t.Errorf("fetched %d bytes of what the store has, found %d of %d", b.fetched, done.Local, p1.Index.Size())
			}
			if link == layout.LinkHard && done.Shared == 0 {
				t.Error("no file is a hard link")
			}

			next := t.TempDir()
			if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			write(t, next, "model.safetensors", safetensors(3<<20, 1, 2, 77, 4))
			if err := os.Rename(filepath.Join(next, "data"), filepath.Join(next, "moved")); err != nil {
				t.Fatal(err)
			}
			p2 := pack(t, next, layout.PackOptions{}, b)
			b.fetched = 0
			out := t.TempDir()
			assemble(t, p2, b, out, stored(store, link, p1))
			same(t, next, out)
			if b.fetched > 4<<20 {
				t.Errorf("fetched %d bytes for 3 MiB of change", b.fetched)
			}
		})
	}
}

func TestStoreOfDamagedFilesServesNone(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	store := t.TempDir()
	assemble(t, p, b, t.TempDir(), stored(store, layout.LinkCopy))
	names, err := filepath.Glob(filepath.Join(store, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			data[len(data)/3] ^= 1
		} else {
			data = data[:len(data)/2]
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []layout.LinkMode{layout.LinkHard, layout.LinkAuto} {
		out := t.TempDir()
		done := assemble(t, p, b, out, stored(store, link, p))
		same(t, dir, out)
		if link == layout.LinkHard && done.Damaged == 0 {
			t.Error("no damage was noticed")
		}
	}
	for _, name := range names {
		var h layout.Hash
		if err := h.UnmarshalText([]byte(filepath.Base(name))); err != nil {
			t.Fatal(err)
		}
		if err := (&layout.FileStore{Dir: store}).Check(t.Context(), h); err != nil {
			t.Errorf("not mended: %v", err)
		}
	}
}

func TestAStoreThatCannotBeWrittenEndsNoPull(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	out := t.TempDir()
	done := assemble(t, p, b, out, stored(filepath.Join(t.TempDir(), "gone"), layout.LinkAuto))
	same(t, dir, out)
	if done.Unkept == nil {
		t.Error("nothing says that the store has nothing")
	}
}

// What is right in the destination already is a seed by its index alone.
func TestAFileThatIsRightServesItsChunks(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "a.safetensors", safetensors(2<<20, 1, 2, 3, 4))
	write(t, dir, "b.safetensors", safetensors(2<<20, 4, 3, 9))
	p := pack(t, dir, layout.PackOptions{}, b)
	out := t.TempDir()
	data, err := os.ReadFile(filepath.Join(dir, "a.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, out, "a.safetensors", slices.Clone(data))
	b.fetched = 0
	assemble(t, p, b, out, layout.AssembleOptions{})
	same(t, dir, out)
	if b.fetched > 5<<19 {
		t.Errorf("fetched %d bytes for one tensor of 2 MiB", b.fetched)
	}
}

// Another process may give a file its name in the store first; what it put
// there is not what this one has verified.
func TestWhatAnotherPutIntoTheStoreIsVerified(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "large.bin", random(1, 3<<20))
	p := pack(t, dir, layout.PackOptions{}, b)
	o := stored(t.TempDir(), layout.LinkCopy)
	sum := p.Index.Files[0].SHA256
	fetch := func(ctx context.Context, n int, offset, length int64) (io.ReadCloser, bool, error) {
		if err := os.Remove(o.Store.Part(sum)); err == nil {
			write(t, o.Store.Dir, sum.String(), bytes.Repeat([]byte("x"), 3<<20))
		}
		return b.from(p.Layers)(ctx, n, offset, length)
	}
	out := t.TempDir()
	if err := assembleOnce(t, p, out, fetch, o); err == nil {
		same(t, dir, out)
	}
	if _, err := os.Stat(filepath.Join(out, "large.bin")); err == nil {
		same(t, dir, out)
	}
}

// assembleOnce is assemble for what may fail.
func assembleOnce(t *testing.T, p *layout.Packed, dir string, fetch layout.Fetch, o layout.AssembleOptions) error {
	t.Helper()
	w, err := tree.NewWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = layout.Assemble(t.Context(), p.Index, p.Layers, w, fetch, o)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return err
}

// What takes the place of a work file that was verified was not.
func TestWhatReplacesAWorkFileIsVerified(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "large.bin", random(1, 3<<20))
	p := pack(t, dir, layout.PackOptions{}, b)
	for _, link := range []layout.LinkMode{layout.LinkCopy, layout.LinkAuto, layout.LinkHard} {
		o := stored(t.TempDir(), link)
		part := o.Store.Part(p.Index.Files[0].SHA256)
		fetch := func(ctx context.Context, n int, offset, length int64) (io.ReadCloser, bool, error) {
			if err := os.Remove(part); err == nil {
				write(t, o.Store.Dir, filepath.Base(part), bytes.Repeat([]byte("x"), 3<<20))
			}
			return b.from(p.Layers)(ctx, n, offset, length)
		}
		out := t.TempDir()
		if err := assembleOnce(t, p, out, fetch, o); err == nil {
			t.Errorf("%s: nothing was noticed", link)
		}
		if _, err := os.Stat(filepath.Join(out, "large.bin")); err == nil {
			same(t, dir, out)
		}
	}
}

// An artifact that lies about the states of a file has it not removed.
func TestLyingStatesRemoveNothingFromTheStore(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "large.bin", random(1, 9<<20))
	p := pack(t, dir, layout.PackOptions{}, b)
	o := stored(t.TempDir(), layout.LinkHard)
	assemble(t, p, b, t.TempDir(), o)
	p.Index.Files[0].States[1][0] ^= 1
	out := t.TempDir()
	if r := assemble(t, p, b, out, o); r.Damaged > 0 || r.Shared != 9<<20 {
		t.Errorf("%+v", r)
	}
	same(t, dir, out)
	if !o.Store.Has(&p.Index.Files[0]) {
		t.Error("the store has lost a good file")
	}
}

// A symlink in a store makes no file elsewhere.
func TestStoreFollowsNoLinks(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "large.bin", random(1, 3<<20))
	p := pack(t, dir, layout.PackOptions{}, b)
	for _, there := range []bool{false, true} {
		o := stored(t.TempDir(), layout.LinkAuto)
		outside := filepath.Join(t.TempDir(), "outside")
		if there {
			write(t, filepath.Dir(outside), "outside", []byte("mine"))
		}
		if err := os.Symlink(outside, o.Store.Part(p.Index.Files[0].SHA256)); err != nil {
			t.Skip(err) // Windows wants a privilege for it
		}
		out := t.TempDir()
		done := assemble(t, p, b, out, o)
		same(t, dir, out)
		if done.Unkept == nil {
			t.Error("nothing says that the store's work file is no file")
		}
		got, err := os.ReadFile(outside)
		if (err == nil) != there || string(got) != "mine"[:len(got)] {
			t.Errorf("outside the store there is %q, %v", got, err)
		}
	}
}

// Another user can change its file whenever it likes, so it is no link.
func TestFilesOfOtherUsersAreCopied(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "large.bin", random(1, 3<<20))
	p := pack(t, dir, layout.PackOptions{}, b)
	o := stored(t.TempDir(), layout.LinkHard)
	assemble(t, p, b, t.TempDir(), o)
	if err := os.Chown(o.Store.Name(p.Index.Files[0].SHA256), 12345, -1); err != nil {
		t.Skip("only root gives files away: ", err)
	}
	out := t.TempDir()
	done := assemble(t, p, b, out, o)
	same(t, dir, out)
	if done.Shared != 0 {
		t.Errorf("%d bytes are a link to another user's file", done.Shared)
	}
}
