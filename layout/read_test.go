package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"mpack/layout/tree"
)

// Whoever fails, wherever the others are, a stream ends with that error.
func TestAStreamEnds(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a")
	data := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{5}).Read(data)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	for _, c := range []struct {
		what                    string
		encode, collect, cancel int32 // number of the chunk at which it fails, or the context ends; 0: at none
		size                    int64 // that the source was listed with
		want                    error
	}{
		{what: "nothing", size: 16 << 20},
		{what: "first encode", encode: 1, size: 16 << 20, want: failed},
		{what: "late encode", encode: 30, size: 16 << 20, want: failed},
		{what: "first collect", collect: 1, size: 16 << 20, want: failed},
		{what: "late collect", collect: 30, size: 16 << 20, want: failed},
		{what: "early end of the context", cancel: 1, size: 16 << 20, want: context.Canceled},
		{what: "late end of the context", cancel: 30, size: 16 << 20, want: context.Canceled},
		{what: "short source", size: 17 << 20, want: tree.ErrChanged},
	} {
		for _, workers := range []int{1, 5} {
			ctx, cancel := context.WithCancel(t.Context())
			s := newStream([]source{{path: "a", size: c.size, open: func() (*os.File, error) { return os.Open(name) }}}, workers)
			var encoded atomic.Int32
			var collected int32
			rest := data
			err := s.run(ctx, nil, func(_ int, r *raw) error {
				if r.sum != sha256.Sum256(r.buf) {
					t.Errorf("%s: a chunk has another SHA-256", c.what)
				}
				switch encoded.Add(1) {
				case c.encode:
					return failed
				case c.cancel:
					cancel()
				}
				return nil
			}, func(_ context.Context, r *raw) error {
				collected++
				n := 0
				for _, p := range r.parts {
					n += p.n
				}
				if r.sum != sha256.Sum256(rest[:n]) {
					t.Errorf("%s: chunk %d is out of order", c.what, collected)
				}
				rest = rest[n:]
				if collected == c.collect {
					return failed
				}
				return nil
			})
			cancel()
			if !errors.Is(err, c.want) {
				t.Errorf("%s, %d workers: got %v", c.what, workers, err)
			}
			if c.want == nil && (len(rest) > 0 || s.out[0].sha != sha256.Sum256(data)) {
				t.Errorf("%d bytes missing, or another SHA-256 of the file", len(rest))
			}
		}
	}
}
