package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Modes before the umask takes from them.
const (
	fileMode = 0o644
	dirMode  = 0o755
	workMode = 0o700 // what is not finished is nobody else's
)

// lockFile is in the work directory and locked as long as a Writer is open.
const lockFile = "lock"

// Writer writes a tree into one directory. Whatever paths it is given, and
// whatever symlinks lie in the directory or appear there meanwhile, it neither
// writes nor reads outside of it.
//
// A file is made under a work name and gets its final one when it is complete:
// nobody sees half a file under its name. Files and symlinks
// that lie where a file, a symlink or a parent directory belongs are replaced;
// a directory that lies where a file or a symlink belongs is an error. Modes
// are 0644, 0755 for executable files and directories, less the umask.
//
// While a Writer is open no other can be, in any process. Its methods may be
// called from several goroutines at once.
type Writer struct {
	dir  string
	root *os.Root
	work *os.Root // of workDir
	lock *os.File

	// Fsync has files be on the disk before they get their names, and Close
	// wait until the names are. Without it a power cut may leave what was
	// written last in any state.
	Fsync bool

	mu      sync.Mutex // held where directories are made
	touched map[string]bool
}

// NewWriter opens a Writer into dir, which is made if need be. It fails with
// [ErrBusy] while another Writer is at work there. Unfinished files, and those
// of an earlier Writer that was interrupted, lie in dir/.mpack-partial.
func NewWriter(dir string) (*Writer, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w := &Writer{dir: dir, root: root, touched: map[string]bool{}}
	if err := w.enter(); err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return w, nil
}

// enter makes the work directory and locks it.
func (w *Writer) enter() error {
	// A Writer that ends takes directory and lock away while this one opens them: once more, then.
	for range 100 {
		err := w.root.Mkdir(workDir, workMode)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("directory cannot be written to: %w", err)
		}
		fi, err := w.root.Lstat(workDir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return fmt.Errorf("%s is not a directory: remove it", workDir)
		}
		work, err := w.root.OpenRoot(workDir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := work.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			work.Close()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		err = TryLock(f, false)
		if err == nil && w.isCurrent(f) {
			w.work, w.lock = work, f
			return nil
		}
		f.Close()
		work.Close()
		if err != nil {
			return err
		}
	}
	return ErrBusy
}

// isCurrent reports whether the lock file f is still the one that the next
// Writer will find.
func (w *Writer) isCurrent(f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := w.root.Lstat(filepath.Join(workDir, lockFile))
	return err == nil && os.SameFile(mine, there)
}

// Existing opens for reading the regular file that is at path now. It fails
// with [fs.ErrNotExist] if there is none, also if what is there is something
// else, cannot be read, or is reached through a symlink: all that Commit
// replaces or refuses.
func (w *Writer) Existing(path string) (*os.File, fs.FileInfo, error) {
	name, err := local(path)
	if err != nil {
		return nil, nil, err
	}
	none := &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	for _, dir := range parents(name) {
		fi, err := w.root.Lstat(dir)
		if err != nil {
			return nil, nil, err
		}
		if !fi.IsDir() {
			return nil, nil, none
		}
	}
	was, err := w.root.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !was.Mode().IsRegular() {
		return nil, nil, none
	}
	f, err := w.root.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, none
	}
	if err != nil {
		return nil, nil, err
	}
	now, err := f.Stat()
	if err == nil && !os.SameFile(was, now) {
		err = none
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, now, nil
}

// Part opens the work file for the content that key, a hexadecimal string,
// names: the one left by an earlier Writer or call (resumed), or a new one of
// size bytes, for which space is reserved where the file system can, so that
// a full disk shows before a byte has been fetched. It may be called for one
// key several times, also at once; all get the same file.
//
// What a resumed file holds may be anything and is to be verified.
func (w *Writer) Part(key string, size int64) (f *os.File, resumed bool, err error) {
	if err := validKey(key); err != nil {
		return nil, false, err
	}
	f, err = w.work.OpenFile(key, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, false, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file: remove it", filepath.Join(w.dir, workDir, key))
	case fi.Size() == size:
		return f, size > 0, nil
	case fi.Size() > size:
		err = f.Truncate(size)
	default: // growing spares what another caller has written already
		if err = Allocate(f, size); err != nil {
			err = errors.Join(fmt.Errorf("reserving %d bytes in %s: %w", size, w.dir, err), w.Remove(key))
		}
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, false, nil
}

// Commit gives the complete work file f of key its final path, and closes it
// in any case. Parent directories are made.
func (w *Writer) Commit(f *os.File, key, path string, exec bool) error {
	defer f.Close()
	name, err := local(path)
	if err != nil {
		return err
	}
	if err := validKey(key); err != nil {
		return err
	}
	if err := setExec(f, exec); err != nil {
		return err
	}
	if w.Fsync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return w.place(key, name)
}

// Symlink makes a symlink, or leaves it alone if it is right already. The
// target need not be there, but must be one that [ValidLink] lets pass.
func (w *Writer) Symlink(path, target string) error {
	name, err := local(path)
	if err != nil {
		return err
	}
	if err := ValidLink(path, target); err != nil {
		return err
	}
	if err := w.mkdirs(parents(name)); err != nil {
		return err
	}
	target = filepath.FromSlash(target)
	if old, err := w.root.Readlink(name); err == nil && old == target {
		return nil
	}
	tmp, err := w.linkName(path)
	if err != nil {
		return err
	}
	if err := w.work.Symlink(target, tmp); err != nil {
		return err
	}
	return w.place(tmp, name)
}

// Link gives the regular file src, on the same file system, the further name
// path in the directory. Whatever changes the file changes it under all its
// names.
func (w *Writer) Link(src *os.File, path string) error {
	name, err := local(path)
	if err != nil {
		return err
	}
	tmp, err := w.linkName(path)
	if err != nil {
		return err
	}
	if err := LinkFile(src, filepath.Join(w.dir, workDir, tmp)); err != nil {
		return err
	}
	if err := w.place(tmp, name); err != nil {
		return err
	}
	// Moving a name over another of the same file does nothing, rename(2) says.
	if err := w.work.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// linkName returns a free name in the work directory for the link at path.
func (w *Writer) linkName(path string) (string, error) {
	sum := sha256.Sum256([]byte(path))
	tmp := "link-" + hex.EncodeToString(sum[:])
	if err := w.work.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return tmp, nil
}

// LinkFile makes name, which must be free, a hard link to the open file src.
// If the name that src was opened by has come to be another file's, it fails.
func LinkFile(src *os.File, name string) error {
	if err := os.Link(src.Name(), name); err != nil {
		return err
	}
	want, err := src.Stat()
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	got, err := os.Lstat(name)
	if err == nil && !os.SameFile(want, got) {
		err = fmt.Errorf("%s: %w: replaced", src.Name(), ErrChanged)
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// Mkdir makes a directory and its parents, or leaves it alone if it is there.
func (w *Writer) Mkdir(path string) error {
	name, err := local(path)
	if err != nil {
		return err
	}
	return w.mkdirs(append(parents(name), name))
}

// SetExec makes the regular file at path executable, or not, if it is not so
// already. A file that has other names too, in a store, say, is replaced by a
// copy, as its mode is that of all its names.
func (w *Writer) SetExec(path string, exec bool) error {
	f, fi, err := w.Existing(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, changes := withExec(fi, exec); !changes || links(fi) == 1 {
		return setExec(f, exec)
	}
	sum := sha256.Sum256([]byte(path))
	key := hex.EncodeToString(sum[:])
	dst, _, err := w.Part(key, 0)
	if err != nil {
		return err
	}
	if Clone(dst, f) != nil {
		if _, err := io.Copy(dst, f); err != nil {
			dst.Close()
			return errors.Join(err, w.Remove(key))
		}
	}
	return w.Commit(dst, key, path, exec)
}

// Remove drops the work file of key, if there is one.
func (w *Writer) Remove(key string) error {
	if err := validKey(key); err != nil {
		return err
	}
	if err := w.work.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Clean drops all work files. None may be in use.
func (w *Writer) Clean() error {
	names, err := w.partial()
	for _, n := range names {
		err = errors.Join(err, w.work.RemoveAll(n))
	}
	return err
}

// Close brings the directories that were written to to the disk, and removes
// the work directory unless it holds files to be resumed.
func (w *Writer) Close() error {
	var errs []error
	if w.Fsync {
		for _, dir := range slices.Sorted(maps.Keys(w.touched)) {
			errs = append(errs, w.syncDir(dir))
		}
	}
	names, err := w.partial()
	errs = append(errs, err)
	if err == nil && len(names) == 0 {
		// The lock is held until its file has gone, so that whoever takes it finds out.
		errs = append(errs, w.work.Remove(lockFile))
		_ = w.root.Remove(workDir) // the next Writer may have moved in by now
	}
	errs = append(errs, w.work.Close(), w.lock.Close(), w.root.Close())
	return errors.Join(errs...)
}

// partial lists the work files.
func (w *Writer) partial() ([]string, error) {
	d, err := w.work.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return slices.DeleteFunc(names, func(n string) bool { return n == lockFile }), err
}

func (w *Writer) syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such thing
	}
	d, err := w.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // replaced meanwhile
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// place moves a work file to its final name.
func (w *Writer) place(work, name string) error {
	if err := w.mkdirs(parents(name)); err != nil {
		return err
	}
	if err := w.root.Rename(filepath.Join(workDir, work), name); err != nil {
		if fi, e := w.root.Lstat(name); e == nil && fi.IsDir() {
			return fmt.Errorf("a directory is in the way: move or remove %s", filepath.Join(w.dir, name))
		}
		return err
	}
	w.touch(filepath.Dir(name))
	return nil
}

func (w *Writer) touch(dir string) {
	w.mu.Lock()
	w.touched[dir] = true
	w.mu.Unlock()
}

// mkdirs makes directories, outermost first. It looks each time anew at what
// is there: a symlink may have come since.
func (w *Writer) mkdirs(dirs []string) error {
	missing := slices.IndexFunc(dirs, func(dir string) bool {
		fi, err := w.root.Lstat(dir)
		return err != nil || !fi.IsDir()
	})
	if missing < 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, dir := range dirs[missing:] {
		fi, err := w.root.Lstat(dir)
		if err == nil && fi.IsDir() {
			continue
		}
		if err == nil {
			err = w.root.Remove(dir) // a file, or a symlink that would be followed
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := w.root.Mkdir(dir, dirMode); err != nil {
			return err
		}
		w.touched[filepath.Dir(dir)] = true
	}
	return nil
}

// local returns a valid path as the system writes it.
func local(path string) (string, error) {
	if err := ValidPath(path); err != nil {
		return "", err
	}
	name, err := filepath.Localize(path)
	if err != nil {
		return "", fmt.Errorf("path %s: this system cannot have a file of that name", quote(path))
	}
	return name, nil
}

// parents returns the directories above name, outermost first.
func parents(name string) []string {
	var dirs []string
	for i := range len(name) {
		if os.IsPathSeparator(name[i]) {
			dirs = append(dirs, name[:i])
		}
	}
	return dirs
}

// setExec lets those execute a file who may read it, or nobody.
func setExec(f *os.File, exec bool) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	perm, changes := withExec(fi, exec)
	if !changes {
		return nil
	}
	return f.Chmod(perm)
}

// withExec returns the mode that a file gets from setExec, and whether it is
// another than it has.
func withExec(fi fs.FileInfo, exec bool) (perm fs.FileMode, changes bool) {
	perm = fi.Mode().Perm()
	if runtime.GOOS == "windows" || exec == (perm&0o100 != 0) { // Windows has no such bit
		return perm, false
	}
	if exec {
		return perm | perm&0o444>>2, true
	}
	return perm &^ 0o111, true
}

func validKey(key string) error {
	if key == "" || len(key) > 128 || strings.Trim(key, "0123456789abcdef") != "" {
		return fmt.Errorf("work file %s: not a hexadecimal key", quote(key))
	}
	return nil
}
