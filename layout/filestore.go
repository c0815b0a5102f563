package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"mpack/layout/tree"
)

// LinkMode says how a file in a [FileStore] and the same file in a directory
// share their bytes. Where the mode is not possible the file is copied.
type LinkMode string

// The modes there are.
const (
	LinkAuto    LinkMode = "auto"     // by reflink where the file system can
	LinkReflink LinkMode = "reflink"  // the same; for those who want to be told if it could not
	LinkHard    LinkMode = "hardlink" // one read-only file with several names; executable files, and those of other users, are copied
	LinkCopy    LinkMode = "copy"     // not at all
)

// FileStore is a directory of files named by their SHA-256, from which trees
// are assembled and to which they add:
//
//	DIR/<hex>       a file, read-only, complete when it has its name
//	DIR/part-<hex>  a large one that is being assembled, or was when its process was killed: the next one goes on with it
//	DIR/tmp-<any>   one that is being copied, or was
//
// Any number of processes may use it at once. What is in it is not trusted: a
// file is hashed whenever it is taken, chunks of it when they are, and one
// that is not what its name says is removed and counts as missing. So nothing
// has to be on the disk for sure, and a file may be removed at any time.
type FileStore struct {
	Dir  string
	Link LinkMode // "": LinkAuto
}

// Name returns the path that the file of a hash has if it is there.
func (s *FileStore) Name(h Hash) string { return filepath.Join(s.Dir, h.String()) }

// Part returns the path that the file of a hash has while it is assembled.
func (s *FileStore) Part(h Hash) string { return filepath.Join(s.Dir, "part-"+h.String()) }

// part opens the work file of f, for this process alone as long as it is open:
// the one that another has left (resumed), which may hold anything, or a new
// one. Where another process has it open, the error is [tree.ErrBusy].
func (s *FileStore) part(f *File) (p *os.File, resumed bool, err error) {
	root, err := os.OpenRoot(s.Dir) // a symlink in it leads nowhere else
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	p, err = root.OpenFile(filepath.Base(s.Part(f.SHA256)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	if err = tree.TryLock(p, false); err == nil {
		var mine, there fs.FileInfo
		if mine, err = p.Stat(); err == nil {
			there, err = os.Lstat(p.Name())
		}
		switch {
		case err != nil:
		case !os.SameFile(mine, there):
			err = tree.ErrBusy // finished by another meanwhile
		case mine.Size() == f.Size:
			return p, true, nil
		default:
			if err = p.Truncate(0); err == nil {
				err = tree.Allocate(p, f.Size)
			}
			if err == nil {
				return p, false, nil
			}
			err = errors.Join(err, os.Remove(p.Name()))
		}
	}
	p.Close()
	return nil, false, err
}

// finish gives the verified work file p of f its name, and closes it. ours is
// false if another process was faster, has put something in its place, or may
// still write to what it began: what has the name then nobody verified.
func (s *FileStore) finish(p *os.File, f *File) (ours bool, err error) {
	mine, err := p.Stat()
	err = errors.Join(err, p.Chmod(0o444), p.Close()) // Windows does not move an open file
	if err == nil {
		err = os.Rename(p.Name(), s.Name(f.SHA256))
	}
	if err != nil && s.Has(f) {
		return false, nil
	}
	if err == nil {
		there, e := os.Lstat(s.Name(f.SHA256))
		ours = e == nil && os.SameFile(mine, there) && tree.Owned(mine)
	}
	return ours, err
}

// Has reports whether a file seems to be there.
func (s *FileStore) Has(f *File) bool {
	fi, err := os.Lstat(s.Name(f.SHA256))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == f.Size
}

// open opens a file whose content is to be verified.
func (s *FileStore) open(f *File) (*os.File, error) {
	if !s.Has(f) { // what has become a pipe would hang
		return nil, fmt.Errorf("%s: %w", f.SHA256, fs.ErrNotExist)
	}
	return os.Open(s.Name(f.SHA256))
}

// taken is how a file came out of the store.
type taken int

const (
	missing taken = iota
	damaged       // there, but something else; it has been removed
	copied
	shared // by reflink or hard link
)

// take gives w the file f under its path, verified unless it was just now. An
// error is one of writing: what cannot be read is missing.
func (s *FileStore) take(ctx context.Context, w *tree.Writer, f *File, key string, verified bool) (taken, error) {
	src, err := s.open(f)
	if err != nil {
		return missing, nil
	}
	defer src.Close()
	if s.Link == LinkHard && f.Mode == ModeFile {
		fi, err := src.Stat()
		if err == nil && fi.Mode().Perm()&0o333 == 0 && tree.Owned(fi) {
			if err := s.verify(ctx, src, f, verified); err != nil {
				return s.drop(ctx, src)
			}
			if w.Fsync {
				_ = src.Sync() // as Commit does; Windows cannot, of what is open for reading
			}
			if w.Link(src, f.Path) == nil {
				return shared, nil
			}
		}
	}
	how := missing
	var dst *os.File
	if s.Link != LinkCopy && s.Link != LinkHard {
		if dst, _, err = w.Part(key, 0); err != nil {
			return missing, err
		}
		if tree.Clone(dst, src) == nil {
			how = shared
			err = s.verify(ctx, dst, f, verified) // the clone, as the original may change
		} else {
			dst.Close()
		}
	}
	if how == missing {
		if dst, _, err = w.Part(key, f.Size); err != nil {
			return missing, err
		}
		how = copied
		err = s.copy(ctx, dst, src, f, verified)
	}
	if err == nil {
		return how, w.Commit(dst, key, f.Path, f.Mode == ModeExec)
	}
	dst.Close()
	if writeErr, ok := err.(*localError); ok {
		return missing, writeErr.err
	}
	return s.drop(ctx, src)
}

// verify reads src and makes sure that it is f, unless it was just now.
func (s *FileStore) verify(ctx context.Context, src *os.File, f *File, verified bool) error {
	if verified {
		return nil
	}
	same, err := f.isIn(ctx, src, runtime.GOMAXPROCS(0))
	if err == nil && !same && len(f.States) > 0 { // whose artifact this is may lie about them, and others need the file
		same, err = (&File{Size: f.Size, SHA256: f.SHA256}).isIn(ctx, src, 1)
	}
	if err == nil && !same {
		err = fmt.Errorf("%s: %w", src.Name(), ErrCorrupt)
	}
	return err
}

// copy writes src to dst and makes sure that it is f, unless it was verified.
// Failures of dst are a [localError].
func (s *FileStore) copy(ctx context.Context, dst, src *os.File, f *File, verified bool) error {
	buf := make([]byte, min(256<<10, f.Size))
	h := sha256.New()
	for off := int64(0); off < f.Size; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), f.Size-off)]
		if _, err := src.ReadAt(b, off); err != nil {
			return err
		}
		if !verified {
			h.Write(b)
		}
		if _, err := dst.WriteAt(b, off); err != nil {
			return &localError{err}
		}
		off += int64(len(b))
	}
	if !verified && Hash(h.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s: %w", src.Name(), ErrCorrupt)
	}
	return nil
}

// drop removes a file that is not what its name says, unless that is not known
// because the time is over.
func (s *FileStore) drop(ctx context.Context, src *os.File) (taken, error) {
	if ctx.Err() != nil {
		return missing, context.Cause(ctx)
	}
	was, err := src.Stat()
	if err != nil {
		return damaged, nil
	}
	// Another process may have put a good one in its place by now.
	if now, err := os.Lstat(src.Name()); err == nil && os.SameFile(was, now) {
		_ = os.Remove(src.Name()) // who may not remove it does not use it either
	}
	return damaged, nil
}

// put adds the file f, which lies complete in w's directory, unless it is
// there. It reports whether the two share their bytes.
func (s *FileStore) put(ctx context.Context, w *tree.Writer, f *File) (bool, error) {
	if f.Size == 0 || s.Has(f) {
		return false, nil
	}
	src, _, err := w.Existing(f.Path)
	if err != nil {
		return false, err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(s.Dir, "tmp-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if s.Link == LinkHard && f.Mode == ModeFile {
		link := tmp.Name() + "-link"
		if tree.LinkFile(src, link) == nil {
			err := src.Chmod(0o444)        // of link, which may be a symlink by now
			if runtime.GOOS == "windows" { // where what is open for reading has no Chmod
				err = os.Chmod(link, 0o444)
			}
			if err == nil {
				err = os.Rename(link, s.Name(f.SHA256))
			}
			if err != nil {
				os.Remove(link)
			}
			return err == nil, err
		}
	}
	clone := s.Link != LinkCopy && s.Link != LinkHard && tree.Clone(tmp, src) == nil
	if !clone {
		if _, err := io.CopyBuffer(onlyWriter{tmp}, onlyReader{ctx, src}, make([]byte, min(256<<10, f.Size))); err != nil {
			return false, err
		}
	}
	if err := tmp.Chmod(0o444); err != nil {
		return false, err
	}
	if err := tmp.Close(); err != nil { // Windows does not move an open file
		return false, err
	}
	return clone, os.Rename(tmp.Name(), s.Name(f.SHA256))
}

// Check hashes the file of a hash and removes it if it is another; then the
// error is [ErrCorrupt].
func (s *FileStore) Check(ctx context.Context, h Hash) error {
	src, err := os.Open(s.Name(h))
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	err = s.verify(ctx, src, &File{SHA256: h, Size: fi.Size()}, false)
	if err != nil && ctx.Err() == nil {
		_, _ = s.drop(ctx, src)
		err = fmt.Errorf("%s: %w", src.Name(), ErrCorrupt)
	}
	return err
}

// sources returns the stream of an index as the store has it: files that are
// not there cannot be opened.
func (s *FileStore) sources(ix *Index) []source {
	var ss []source
	for i := range ix.Files {
		if f := &ix.Files[i]; f.Regular() {
			ss = append(ss, source{path: f.Path, size: f.Size, open: func() (*os.File, error) { return s.open(f) }})
		}
	}
	return ss
}
