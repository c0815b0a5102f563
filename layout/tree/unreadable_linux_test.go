package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// asNobody runs f as a user without rights on dir, of t.TempDir, also where the
// tests run as root: on Linux a thread has a user of its own.
func asNobody(t *testing.T, dir string, f func()) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan syscall.Errno)
	go func() {
		var errno syscall.Errno
		defer func() { done <- errno }() // also when f ends the test
		runtime.LockOSThread()           // and never unlock it: the thread ends with this function
		if os.Geteuid() == 0 {
			const nobody = 65534
			_, _, errno = syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody)
		}
		if errno == 0 {
			f()
		}
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

func TestWalkNamesWhatCannotBeRead(t *testing.T) {
	dir := populate(t, "a", "d/b", "fine", "link -> a")
	for _, n := range []string{"a", "d"} {
		if err := os.Chmod(filepath.Join(dir, n), 0); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(filepath.Join(dir, "d"), 0o755)
	asNobody(t, dir, func() {
		refused(t, dir, Options{}, "not readable: a, d/")
		if got, want := listing(t, dir, Options{Exclude: []string{"a", "d", "link"}}), "fine"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestWriterReplacesWhatItCannotRead(t *testing.T) {
	dir := populate(t, "a")
	for name, mode := range map[string]fs.FileMode{"": 0o777, "a": 0} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	asNobody(t, dir, func() {
		w, err := NewWriter(dir)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		if f, _, err := w.Existing("a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opened (%v), %v", f, err)
		}
		if err := put(w, "a", "mine", false); err != nil || content(t, filepath.Join(dir, "a")) != "mine" {
			t.Errorf("not replaced: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	asNobody(t, dir, func() {
		if w, err := NewWriter(dir); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a Writer (%v) where nothing can be written: %v", w, err)
		}
	})
}
