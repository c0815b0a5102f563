package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

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
	r := &toldReader{r: f, p: p}
	same := false
	if known != nil && known.Regular() && known.Size == src.size {
		if same, _ = known.isIn(ctx, r, runtime.GOMAXPROCS(0)); !same { // an error comes again
			p.add(Delta{Bytes: -r.n.Load()})
		}
	}
	if same {
		out.sha, out.states = known.SHA256, known.States
	} else {
		h := sums.NewFile()
		n, err := io.CopyBuffer(onlyWriter{h}, onlyReader{ctx, io.NewSectionReader(r, 0, src.size)}, make([]byte, min(256<<10, src.size+1)))
		switch {
		case ctx.Err() != nil:
			return out, context.Cause(ctx)
		case err != nil:
			return out, fmt.Errorf("%s: %w", src.path, err)
		case n < src.size:
			return out, readError(src, io.ErrUnexpectedEOF)
		}
		out.sha, out.states = h.End()
	}
	if fi, err := f.Stat(); err == nil && fi.Size() != src.size {
		return out, fmt.Errorf("%s: %w", src.path, tree.ErrChanged)
	}
	p.add(Delta{Files: 1})
	return out, nil
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
		h := sha256.New()
		if _, err := io.CopyBuffer(onlyWriter{h}, onlyReader{ctx, io.NewSectionReader(r, 0, f.Size)}, make([]byte, 256<<10)); err != nil {
			return false, err
		}
		return Hash(h.Sum(nil)) == f.SHA256, nil
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
