package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"mpack/layout/sums"
	"mpack/layout/tree"
)

// hasStates reports whether the file's windows can be checked one by one.
func (f *File) hasStates() bool {
	return int64(len(f.States)) == max(0, sums.Windows(f.Size)-1)
}

func (f *File) checker(r io.ReaderAt) *sums.Checker {
	return &sums.Checker{File: r, Size: f.Size, SHA256: f.SHA256, States: f.States}
}

// HashFiles returns the index of a tree without chunks: nothing but its files.
// Several are hashed at once, and of a file that is as known has it, several
// windows. known may be nil. An error is [tree.ErrChanged] if a file has not
// the size any more that it was listed with.
func HashFiles(ctx context.Context, t *tree.Tree, known *Index, p Progress) (*Index, error) {
	was := map[string]*File{}
	if known != nil {
		for i := range known.Files {
			was[known.Files[i].Path] = &known.Files[i]
		}
	}
	sources := sourcesOf(t)
	out := make([]scanned, len(sources))
	p.begin(sources)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range sources {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() (err error) {
			out[i], err = hashFile(gctx, &sources[i], was[sources[i].path], p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return &Index{Files: filesOf(t, out)}, nil
}

// hashFile hashes a source, which may be as known, if that is not nil.
func hashFile(ctx context.Context, src *source, known *File, p Progress) (out scanned, err error) {
	f, err := src.open()
	if err != nil {
		return out, err
	}
	defer f.Close()
	same := false
	if known != nil && known.Regular() && known.Size == src.size {
		same = known.told(ctx, f, runtime.GOMAXPROCS(0), p)
	}
	if same {
		out.sha, out.states = known.SHA256, known.States
	} else {
		var n int64
		out, n, err = hashAll(ctx, &toldReader{r: f, p: p}, src.size)
		switch {
		case ctx.Err() != nil:
			return out, context.Cause(ctx)
		case err != nil:
			return out, fmt.Errorf("%s: %w", src.path, err)
		case n < src.size:
			return out, readError(src, io.ErrUnexpectedEOF)
		}
	}
	if err := src.sized(f); err != nil {
		return out, err
	}
	p.add(Delta{Files: 1})
	return out, nil
}

// hashAll hashes the first size bytes of r, of which there are n.
func hashAll(ctx context.Context, r io.ReaderAt, size int64) (out scanned, n int64, err error) {
	h := sums.NewFile()
	n, err = io.CopyBuffer(onlyWriter{h}, onlyReader{ctx, io.NewSectionReader(r, 0, size)}, make([]byte, max(1, min(256<<10, size))))
	out.sha, out.states = h.End()
	return out, n, err
}

// sized makes sure that a file still has the size that it was listed with.
func (src *source) sized(f *os.File) error {
	if fi, err := f.Stat(); err == nil && fi.Size() != src.size {
		return fmt.Errorf("%s: %w", src.path, tree.ErrChanged)
	}
	return nil
}

// toldReader tells of what is read.
type toldReader struct {
	r io.ReaderAt
	p Progress
	n atomic.Int64
}

func (r *toldReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(b, off)
	r.n.Add(int64(n))
	r.p.add(Delta{Bytes: int64(n)})
	return n, err
}

// told is isIn, told to p. Of what cannot be read or is another file nothing
// stays told: it is read again, when an error comes again too.
func (f *File) told(ctx context.Context, r io.ReaderAt, workers int, p Progress) bool {
	t := &toldReader{r: r, p: p}
	same, err := f.isIn(ctx, t, workers)
	if err != nil || !same {
		p.add(Delta{Bytes: -t.n.Load()})
		return false
	}
	return true
}

// errOther ends a check early.
var errOther = errors.New("another file")

// maxAtOnce is the most goroutines that check one file. Each holds 1 MiB, and
// files are checked by many workers.
const maxAtOnce = 8

// isIn reports whether r has the file's bytes, by as many goroutines at once
// as are given, [maxAtOnce] at most, if its states are known. r may be longer.
func (f *File) isIn(ctx context.Context, r io.ReaderAt, workers int) (bool, error) {
	if !f.hasStates() {
		all, _, err := hashAll(ctx, r, f.Size)
		return err == nil && all.sha == f.SHA256, err
	}
	windows := make([]int, max(1, sums.Windows(f.Size)))
	for i := range windows {
		windows[i] = i
	}
	if len(windows) <= sums.Lanes {
		return f.checker(r).Check(windows)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(workers, maxAtOnce))
	for part := range slices.Chunk(windows, sums.Lanes) {
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			ok, err := f.checker(r).Check(part)
			if err == nil && !ok {
				err = errOther
			}
			return err
		})
	}
	err := g.Wait()
	if err == errOther {
		return false, nil
	}
	return err == nil, err
}
