package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"mpack/layout/sums"
)

// hasStates reports whether the file's windows can be checked one by one.
func (f *File) hasStates() bool {
	return len(f.States) == max(0, sums.Windows(f.Size)-1)
}

func (f *File) checker(r io.ReaderAt) *sums.Checker {
	return &sums.Checker{File: r, Size: f.Size, SHA256: f.SHA256, States: f.States}
}

// errOther ends a check early.
var errOther = errors.New("another file")

// isIn reports whether r has the file's bytes, by as many goroutines at once
// as are given if its states are known. r may be longer.
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
	g.SetLimit(workers)
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
