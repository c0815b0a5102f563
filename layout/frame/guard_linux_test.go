package frame

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// guarded returns n bytes with none that can be touched before or behind them.
func guarded(t *testing.T, n int) []byte {
	page := unix.Getpagesize()
	b, err := unix.Mmap(-1, 0, n+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	for _, p := range [][]byte{b[:page], b[page+n:]} {
		if err := unix.Mprotect(p, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return b[page : page+n : page+n]
}

// A byte touched outside of a buffer ends the test binary.
func TestNothingOutsideOfABufferIsTouched(t *testing.T) {
	size := unix.Getpagesize()
	src, back := guarded(t, 4*size), guarded(t, 4*size)
	rand.NewChaCha8([32]byte{4}).Read(src)
	var p [4][]byte
	for i := range p {
		p[i] = guarded(t, size)
	}
	// Codes of all lengths.
	var code huffCode
	var c counts
	for b := range c {
		c[b] = 1 << (b / 16)
	}
	if !code.make(&c) {
		t.Fatal("no code")
	}
	for n := range 200 {
		for _, end := range []bool{false, true} { // of the buffers' pages
			part := func(b []byte, n int) []byte {
				if end {
					return b[len(b)-n:]
				}
				return b[:n]
			}
			streams := part(back, streamBound(n))
			if got := code.encodeStream(streams, part(src, n)); got < n/2 || got > len(streams)-8 {
				t.Errorf("%d bytes are coded as %d", n, got)
			}
			if at := unseen(&code.known, part(src, n)); at != n {
				t.Errorf("of %d bytes the one at %d has no code", n, at)
			}
			a, b, c, d := part(p[0], n), part(p[1], n), part(p[2], n), part(p[3], n)
			split2(a, b, part(src, 2*n))
			join2(part(back, 2*n), a, b)
			if !bytes.Equal(part(back, 2*n), part(src, 2*n)) {
				t.Errorf("%d elements of 2 bytes do not come back", n)
			}
			split4(a, b, c, d, part(src, 4*n))
			join4(part(back, 4*n), a, b, c, d)
			if !bytes.Equal(part(back, 4*n), part(src, 4*n)) {
				t.Errorf("%d elements of 4 bytes do not come back", n)
			}
		}
	}
}

func TestHuffmanTouchesNothingOutsideOfABuffer(t *testing.T) {
	var table huffTable
	in, out := guarded(t, 2*maxBlock), guarded(t, 2*maxBlock)
	for name, p := range literalsCases() {
		enc := huffman(t, p)
		for _, n := range []int{len(enc), len(enc) - 1} {
			for _, src := range [][]byte{in[:n], in[len(in)-n:]} {
				copy(src, enc)
				for _, dst := range [][]byte{out[:len(p)], out[len(out)-len(p):]} {
					err := table.decodeHuffman(dst, src)
					if n == len(enc) && (err != nil || !bytes.Equal(dst, p)) {
						t.Errorf("%s: other bytes, or %v", name, err)
					}
				}
			}
		}
	}
}
