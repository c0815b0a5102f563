package sums

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
)

func TestStates(t *testing.T) {
	data := make([]byte, 19*Window+100)
	rand.NewChaCha8([32]byte{2}).Read(data)
	for _, size := range []int{0, 1, 100, Window - 1, Window, Window + 1, 2*Window + 5, 8 * Window, 9*Window - 1, 19 * Window, len(data)} {
		f := NewFile()
		for p := data[:size]; len(p) > 0; {
			k := min(len(p), 1+rand.IntN(3<<20))
			f.Write(p[:k])
			p = p[k:]
		}
		sum, states := f.End()
		if sum != sha256.Sum256(data[:size]) {
			t.Fatalf("%d bytes: %x", size, sum)
		}
		if want := max(0, Windows(int64(size))-1); int64(len(states)) != want {
			t.Fatalf("%d bytes: %d states, want %d", size, len(states), want)
		}
		all := make([]int, Windows(int64(size)))
		for i := range all {
			all[i] = i
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		c := Checker{bytes.NewReader(data), int64(size), sum, states}
		if ok, err := c.Check(all); !ok || err != nil {
			t.Fatalf("%d bytes: %v, %v", size, ok, err)
		}
		if size == 0 {
			continue
		}
		// Any byte that is another is found, in its window and in no other.
		at := rand.IntN(size)
		data[at] ^= 1
		for _, w := range all {
			if ok, err := c.Check([]int{w}); err != nil || ok == (w == at/Window) {
				t.Errorf("%d bytes, byte %d changed: window %d %v, %v", size, at, w, ok, err)
			}
		}
		if ok, err := c.Check(all); ok || err != nil {
			t.Errorf("%d bytes, byte %d changed: %v, %v", size, at, ok, err)
		}
		data[at] ^= 1
		// So is a state or a SHA-256 that is another.
		c.SHA256[3] ^= 1
		if ok, err := c.Check(all); ok || err != nil {
			t.Errorf("%d bytes, another SHA-256: %v, %v", size, ok, err)
		}
		c.SHA256[3] ^= 1
		for i := range states {
			states[i][31] ^= 0x80
			if ok, err := c.Check(all); ok || err != nil {
				t.Errorf("%d bytes, another state %d: %v, %v", size, i, ok, err)
			}
			states[i][31] ^= 0x80
		}
		c.File = bytes.NewReader(data[:size-1])
		if _, err := c.Check(all); !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes, one missing: %v", size, err)
		}
	}
}

func TestWindows(t *testing.T) {
	for size, want := range map[int64]int64{0: 0, 1: 1, Window: 1, Window + 1: 2, 2 * Window: 2, math.MaxInt64: 1 << 41} {
		if got := Windows(size); got != want {
			t.Errorf("%d bytes: %d windows, want %d", size, got, want)
		}
	}
}

// Of SPEC.md, and computed by another program: the first state of a file of zeros.
func TestKnownState(t *testing.T) {
	f := NewFile()
	f.Write(make([]byte, Window+1))
	_, states := f.End()
	got, _ := states[0].MarshalText()
	if want := "2a7008c08349516d05c47e8a7e442f0f34459254ef61999d164800e8722ebf7b"; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestStateText(t *testing.T) {
	var s, back State
	s[0], s[31] = 0xab, 1
	b, _ := s.MarshalText()
	if err := back.UnmarshalText(b); err != nil || back != s {
		t.Errorf("%s: %v, %v", b, back, err)
	}
	for _, bad := range []string{"", "ab", string(b) + "00", "g" + string(b[1:])} {
		if back.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q is a state", bad)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	data := make([]byte, 16*Window)
	f := NewFile()
	f.Write(data)
	sum, states := f.End()
	c := Checker{bytes.NewReader(data), int64(len(data)), sum, states}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if ok, err := c.Check([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
