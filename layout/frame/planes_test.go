package frame

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// The filters as SPEC.md has them, an element at a time.
func TestPlanes(t *testing.T) {
	src := make([]byte, 2000)
	rand.NewChaCha8([32]byte{3}).Read(src)
	for _, c := range []struct {
		f Filter
		k int // bits that the upper word is rotated by
	}{{BG2R, 1}, {BG4R, 1}, {BG8R, 4}} {
		w := c.f.width()
		for size := range len(src) {
			n := size / w
			want := bytes.Clone(src[:size])
			for i := range n {
				e := src[i*w : i*w+w]
				upper := bits.RotateLeft16(uint16(e[w-2])|uint16(e[w-1])<<8, c.k)
				for p := range w - 2 {
					want[p*n+i] = e[p]
				}
				want[(w-2)*n+i], want[(w-1)*n+i] = byte(upper), byte(upper>>8)
			}
			got, back := make([]byte, size+1), make([]byte, size+1)
			split(got[:size], src[:size], c.f)
			join(back[:size], got[:size], c.f)
			if !bytes.Equal(got[:size], want) {
				t.Fatalf("%s of %d bytes", c.f, size)
			}
			if !bytes.Equal(back[:size], src[:size]) || got[size] != 0 || back[size] != 0 {
				t.Fatalf("%s of %d bytes does not come back", c.f, size)
			}
		}
	}
}
