package sums

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// guarded returns n bytes that no readable ones follow.
func guarded(t *testing.T, n int) []byte {
	page := unix.Getpagesize()
	size := (n + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	if err := unix.Mprotect(b[size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return b[size-n : size : size]
}

// A byte read behind a buffer ends the test binary.
func TestNothingBehindABufferIsRead(t *testing.T) {
	r := rand.NewChaCha8([32]byte{4})
	ends := make([][]byte, 17)
	for i := range ends {
		ends[i] = guarded(t, 3*pieceSize)
		r.Read(ends[i])
	}
	same, mixed := make([][]byte, len(ends)), make([][]byte, len(ends))
	for _, n := range []int{0, 1, 63, 64, 65, 127, 128, 129, 4096, pieceSize - 1, pieceSize, pieceSize + 65, 3 * pieceSize} {
		for i, b := range ends {
			same[i] = b[len(b)-n:]
			mixed[i] = b[len(b)-n*i/len(ends):]
		}
		check(t, same)
		check(t, mixed)
		check(t, same[:9]) // lanes stay free
	}
}
