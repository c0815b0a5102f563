package sums

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// check compares with crypto/sha256.
func check(t *testing.T, bufs [][]byte) {
	t.Helper()
	got := make([][sha256.Size]byte, len(bufs))
	Sum256(got, bufs)
	for i, b := range bufs {
		if want := sha256.Sum256(b); got[i] != want {
			t.Errorf("buffer %d of %d, %d bytes: %x, want %x", i, len(bufs), len(b), got[i], want)
		}
	}
}

func TestSum256(t *testing.T) {
	r := rand.New(rand.NewChaCha8([32]byte{1}))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for n := range 40 {
		for _, most := range []int{0, 1, 63, 64, 65, 200, 5000, 1 << 17} {
			same, mixed := make([][]byte, n), make([][]byte, n)
			for i := range n {
				at := r.IntN(len(data) - most)
				same[i] = data[at : at+most]
				mixed[i] = data[at : at+r.IntN(most+1)]
			}
			check(t, same)
			check(t, mixed)
		}
	}
	check(t, make([][]byte, 20)) // nil
}

// The text of RFC 6234's and NIST's examples, in every lane.
func TestKnown(t *testing.T) {
	bufs := make([][]byte, 16)
	for i := range bufs {
		bufs[i] = []byte("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")
	}
	sums := make([][sha256.Size]byte, 16)
	Sum256(sums, bufs)
	want := []byte("\x24\x8d\x6a\x61\xd2\x06\x38\xb8\xe5\xc0\x26\x93\x0c\x3e\x60\x39\xa3\x3c\xe4\x59\x64\xff\x21\x67\xf6\xec\xed\xd4\x19\xdb\x06\xc1")
	for i := range sums {
		if !bytes.Equal(sums[i][:], want) {
			t.Errorf("lane %d: %x, want %x", i, sums[i], want)
		}
	}
}

func TestSum256AllocatesNothing(t *testing.T) {
	bufs := make([][]byte, 16)
	for i := range bufs {
		bufs[i] = make([]byte, 10_000+i)
	}
	sums := make([][sha256.Size]byte, 16)
	if n := testing.AllocsPerRun(100, func() { Sum256(sums, bufs) }); n > 4 { // none, but that a pool forgets now and then under the race detector
		t.Errorf("%v allocations a call", n)
	}
}

func FuzzSum256(f *testing.F) {
	f.Add([]byte("some bytes to cut"), uint64(3))
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 400), uint64(0x0102030405060708))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		var bufs [][]byte
		for len(data) > 0 {
			n := 1 + r.IntN(min(len(data), 1+len(data)/8))
			bufs = append(bufs, data[:n])
			data = data[n:]
		}
		check(t, bufs)
	})
}

func BenchmarkSum256(b *testing.B) {
	const size = 1 << 20
	bufs := make([][]byte, 16)
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	sums := make([][sha256.Size]byte, 16)
	b.Run("lanes", func(b *testing.B) {
		b.SetBytes(16 * size)
		b.ReportAllocs()
		for b.Loop() {
			Sum256(sums, bufs)
		}
	})
	b.Run("one", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			sums[0] = sha256.Sum256(bufs[0])
		}
	})
}
