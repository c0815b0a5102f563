package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

const key = "0123456789abcdef"

func newWriter(t *testing.T, dir string) *Writer {
	t.Helper()
	w, err := NewWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// put writes a file with a Writer.
func put(w *Writer, path, text string, exec bool) error {
	f, _, err := w.Part(key, int64(len(text)))
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return w.Commit(f, key, path, exec)
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestWriterWritesATree(t *testing.T) {
	needsSymlinks(t)
	t.Run("fsync", func(t *testing.T) { writesATree(t, true) })
	t.Run("no fsync", func(t *testing.T) { writesATree(t, false) })
}

func writesATree(t *testing.T, fsync bool) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	w := newWriter(t, dir)
	w.Fsync = fsync
	for _, err := range []error{put(w, "a", "one", false), put(w, "d/e/run", "two", true), w.Mkdir("d/empty"), w.Symlink("d/l", "../a"), w.Symlink("d/l", "../a"),
		put(w, "a", "again", false), w.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, want := listing(t, dir, Options{}), "a, d/e/run, d/empty/, d/l -> ../a"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if content(t, filepath.Join(dir, "a")) != "again" || content(t, filepath.Join(dir, "d", "e", "run")) != "two" {
		t.Error("other content")
	}
	if fi, err := os.Stat(filepath.Join(dir, "d", "e", "run")); err != nil || fi.Mode().Perm()&0o100 == 0 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dir, workDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work directory stays: %v", err)
	}
}

func TestWriterShowsNoHalfFile(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir)
	f, resumed, err := w.Part(key, 10)
	if err != nil || resumed {
		t.Fatal(resumed, err)
	}
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("the directory shows %v", list)
	}
	f.Close()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	w = newWriter(t, dir) // the next run goes on
	f, resumed, err = w.Part(key, 10)
	if err != nil || !resumed {
		t.Fatalf("resumed is %v, %v", resumed, err)
	}
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "half" {
		t.Errorf("%q, %v", b, err)
	}
	f.Close()
	if f, resumed, err = w.Part(key, 3); err != nil || resumed { // of another size: not the same
		t.Fatalf("resumed is %v, %v", resumed, err)
	}
	f.Close()
	if err := errors.Join(w.Remove(key), w.Remove(key), w.Clean(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("%v stays", list)
	}
}

func TestWriterIsAlone(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir)
	if _, err := NewWriter(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("a second Writer: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// Of many that come and go, one at a time is at work.
	var g sync.WaitGroup
	var mu sync.Mutex
	for range 8 {
		g.Go(func() {
			for range 50 {
				w, err := NewWriter(dir)
				if errors.Is(err, ErrBusy) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if mu.TryLock() {
					_, err := os.Stat(dir) // time for another to come
					mu.Unlock()
					if err != nil {
						t.Error(err)
					}
				} else {
					t.Error("two Writers at once")
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
}

func TestWriterKeepsInItsDirectory(t *testing.T) {
	needsSymlinks(t)
	for _, p := range []string{"../x", "/x", "a/../../x", ".", "", workDir + "/x", `..\x`} {
		w := newWriter(t, t.TempDir())
		if err := put(w, p, "x", false); err == nil {
			t.Errorf("wrote %q", p)
		}
		if err := w.Mkdir(p); err == nil {
			t.Errorf("made %q", p)
		}
		if err := w.Symlink(p, "x"); err == nil {
			t.Errorf("linked %q", p)
		}
		if _, _, err := w.Existing(p); err == nil {
			t.Errorf("opened %q", p)
		}
		if err := errors.Join(w.Clean(), w.Close()); err != nil {
			t.Error(err)
		}
	}
	w := newWriter(t, t.TempDir())
	defer w.Close()
	for _, target := range []string{"/etc/passwd", "../x", "", "a/../../x"} {
		if err := w.Symlink("l", target); err == nil {
			t.Errorf("linked to %q", target)
		}
	}
	for _, k := range []string{"", "../x", "lock", "A", strings.Repeat("a", 200)} {
		if _, _, err := w.Part(k, 1); err == nil {
			t.Errorf("work file %q", k)
		}
	}
}

// Symlinks that lie in the directory, put there by whomever, lead nowhere.
func TestWriterFollowsNoLinks(t *testing.T) {
	needsSymlinks(t)
	out := populate(t, "secret", "d/secret")
	dir := populate(t, "f -> "+out+"/secret", "d -> "+out+"/d", "e -> "+out)
	w := newWriter(t, dir)
	for _, p := range []string{"f", "d/secret", "e/secret"} {
		if f, _, err := w.Existing(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: opened (%v), %v", p, f, err)
		}
	}
	for _, err := range []error{put(w, "f", "mine", false), put(w, "d/secret", "mine", false), w.Mkdir("e/new"), w.Close()} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, p := range []string{"secret", "d/secret"} {
		if got := content(t, filepath.Join(out, p)); got != p {
			t.Errorf("%s outside is now %q", p, got)
		}
	}
	if got, want := listing(t, out, Options{}), "d/secret, secret"; got != want {
		t.Errorf("outside there is now %s", got)
	}
	if content(t, filepath.Join(dir, "f")) != "mine" || content(t, filepath.Join(dir, "d", "secret")) != "mine" {
		t.Error("the links are not replaced")
	}

	dir = populate(t, workDir+" -> "+out)
	if _, err := NewWriter(dir); err == nil {
		t.Error("took a link for its work directory")
	}
	dir = populate(t, "a")
	w = newWriter(t, dir)
	defer w.Close()
	if err := os.Symlink(filepath.Join(out, "secret"), filepath.Join(dir, workDir, key)); err != nil {
		t.Fatal(err)
	}
	if f, _, err := w.Part(key, 6); err == nil {
		t.Errorf("took a link out for a work file: %s", f.Name())
	}
}

func TestWriterLeavesADirectoryThatIsInTheWay(t *testing.T) {
	dir := populate(t, "d/file")
	w := newWriter(t, dir)
	defer w.Close()
	if err := put(w, "d", "x", false); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a file over a directory: %v", err)
	}
	if err := put(w, "d/file/below", "x", false); err != nil {
		t.Errorf("a directory over a file: %v", err)
	}
}

func TestWriterChangesTheExecuteBitAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such bit")
	}
	dir := populate(t, "a")
	name := filepath.Join(dir, "a")
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, dir)
	defer w.Close()
	for _, c := range []struct {
		exec bool
		want fs.FileMode
	}{{true, 0o750}, {true, 0o750}, {false, 0o640}} {
		if err := w.SetExec("a", c.exec); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != c.want {
			t.Errorf("%v, %v, want %v", fi.Mode(), err, c.want)
		}
	}
}

// A file that has a second name in a store keeps its mode there.
func TestWriterChangesTheExecuteBitOfOneName(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such bit")
	}
	store := populate(t, "a")
	stored := filepath.Join(store, "a")
	for _, exec := range []bool{true, false} {
		dir := t.TempDir()
		perm := fs.FileMode(0o444)
		if !exec {
			perm = 0o555
		}
		if err := errors.Join(os.Chmod(stored, perm), os.Link(stored, filepath.Join(dir, "a"))); err != nil {
			t.Fatal(err)
		}
		w := newWriter(t, dir)
		if err := errors.Join(w.SetExec("a", !exec), w.SetExec("a", exec), w.Close()); err != nil {
			t.Fatal(err)
		}
		there, err := os.Stat(stored)
		if err != nil || there.Mode().Perm() != perm || content(t, stored) != "a" {
			t.Errorf("the other name has mode %v, %v, want %v", there.Mode(), err, perm)
		}
		fi, err := os.Stat(filepath.Join(dir, "a"))
		if err != nil || fi.Mode().Perm()&0o100 != 0 != exec || content(t, filepath.Join(dir, "a")) != "a" {
			t.Errorf("this one has mode %v, %v", fi.Mode(), err)
		}
		if list, _ := os.ReadDir(dir); len(list) != 1 {
			t.Errorf("%v stays", list)
		}
	}
}

func TestWriterLinks(t *testing.T) {
	src := populate(t, "file")
	f, err := os.Open(filepath.Join(src, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := populate(t, "old")
	w := newWriter(t, dir)
	for _, p := range []string{"old", "d/new", "d/new"} {
		if err := w.Link(f, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Link(f, "../x"); err == nil {
		t.Error("linked out of the directory")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, dir, Options{}), "d/new, old"; got != want || content(t, filepath.Join(dir, "old")) != "file" {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := os.Lstat(filepath.Join(dir, workDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work directory stays: %v", err)
	}
	// What has the name now is not what was opened.
	if err := errors.Join(os.Remove(f.Name()), os.WriteFile(f.Name(), []byte("another"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := LinkFile(f, filepath.Join(dir, "x")); !errors.Is(err, ErrChanged) {
		t.Errorf("linked another file: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the wrong link stays: %v", err)
	}
}
