//go:build !race

// The race detector makes sync.Pool forget at random.

package frame

import "testing"

func TestSteadyStateAllocatesNothing(t *testing.T) {
	e, d := newCoder(t, 0)
	enc := make([]byte, 0, Bound(MaxChunk))
	dst := make([]byte, MaxChunk)
	for _, el := range elements {
		for _, kind := range kinds {
			src := kind.data(el.el, MaxChunk)
			once := func() {
				out, f, err := e.Encode(enc, src, el.el)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Decode(dst, out, f); err != nil {
					t.Fatal(err)
				}
			}
			once()
			if n := testing.AllocsPerRun(2, once); n > 0 {
				t.Errorf("%s, %s: %v allocations", el.name, kind.name, n)
			}
		}
	}
}
