package chunk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// noise returns n bytes that depend on seed alone.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// text returns n bytes of words in lines that depend on seed alone.
func text(seed byte, n int) []byte {
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	var b []byte
	for len(b) < n {
		b = fmt.Appendf(b, "%c%x ", 'a'+rune(r.Uint32N(26)), r.Uint32N(4096))
		if r.Uint32N(12) == 0 {
			b = append(b, '\n')
		}
	}
	return b[:n]
}

// cuts returns the sizes of the chunks of data.
func cuts(data []byte) []int {
	var sizes []int
	for len(data) > 0 {
		n := Cut(data)
		sizes = append(sizes, n)
		data = data[n:]
	}
	return sizes
}

// cutSlowly is Cut in the words of the specification.
func cutSlowly(data []byte) int {
	var h uint64
	for i, b := range data {
		if i == Max {
			return i
		}
		if i >= Min-window {
			h = h<<1 + gear[b]
		}
		if i >= Min && (i < easy && h>>(64-strictBits) == 0 || i >= easy && h>>(64-easyBits) == 0) {
			return i + 1
		}
	}
	return len(data)
}

func TestCutsAreThoseOfTheFormat(t *testing.T) {
	b, err := os.ReadFile("testdata/cuts.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string][]int
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	got := map[string][]int{
		"noise 1": cuts(noise(1, 1<<20)),
		"text 2":  cuts(text(2, 1<<20+12345)),
		"zeros":   cuts(make([]byte, 5<<19)),
	}
	for name := range want {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s:\ngot  %v\nwant %v", name, got[name], want[name])
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d vectors, want %d", len(want), len(got))
	}
}

func TestCutKeepsToItsLimits(t *testing.T) {
	data := noise(3, 2*Max)
	for _, n := range []int{0, 1, Min - 1, Min, Min + 1, Min + 7, Min + 8, Min + 9, easy - 1, easy, easy + 1, Max - 1, Max, Max + 1, 2 * Max} {
		for _, data := range [][]byte{data[:n], make([]byte, n), bytes.Repeat([]byte{0xA5}, n)} {
			got := Cut(data)
			if got > min(n, Max) || got < min(n, Min) {
				t.Errorf("%d of %d bytes", got, n)
			}
			if want := cutSlowly(data); got != want {
				t.Errorf("%d of %d bytes, want %d", got, n, want)
			}
		}
	}
}

func TestCutDependsOnNothingPastMax(t *testing.T) {
	data := text(4, 8<<20)
	for len(data) > Max {
		n := Cut(data)
		if m := Cut(data[:Max]); m != n {
			t.Fatalf("%d, of %d bytes alone %d", n, Max, m)
		}
		data = data[n:]
	}
}

func TestCutsComeBackAfterAnEdit(t *testing.T) {
	data := text(5, 32<<20)
	edit := func(at, drop int, with []byte) []byte {
		return slices.Concat(data[:at], with, data[at+drop:])
	}
	for name, edited := range map[string][]byte{
		"insertion at the start": edit(0, 0, []byte("x")),
		"insertion inside":       edit(10<<20, 0, noise(6, 100)),
		"deletion inside":        edit(10<<20, 12345, nil),
		"replacement inside":     edit(10<<20, 1000, noise(7, 1000)),
		"append":                 edit(len(data), 0, noise(8, 4*Avg)),
	} {
		old := map[string]bool{}
		rest := data
		for _, n := range cuts(data) {
			old[string(rest[:n])] = true
			rest = rest[n:]
		}
		fresh := 0
		rest = edited
		for _, n := range cuts(edited) {
			if !old[string(rest[:n])] {
				fresh++
			}
			rest = rest[n:]
		}
		if fresh > 8 {
			t.Errorf("%s: %d new chunks of %d", name, fresh, len(old))
		}
	}
}

func TestMeanSizeIsAvg(t *testing.T) {
	for name, data := range map[string][]byte{"noise": noise(9, 128<<20), "text": text(9, 64<<20)} {
		mean := len(data) / len(cuts(data))
		if mean < Avg*9/10 || mean > Avg*11/10 {
			t.Errorf("%s: chunks of %d bytes on average", name, mean)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte("seed"), uint32(Min+9), byte(1))
	f.Add([]byte{0}, uint32(Max+1), byte(0))
	f.Fuzz(func(t *testing.T, pattern []byte, n uint32, seed byte) {
		data := noise(seed, int(n%(Max+100)))
		if len(pattern) > 0 {
			copy(data[len(data)/2:], bytes.Repeat(pattern, len(data)/2/len(pattern)))
		}
		if got, want := Cut(data), cutSlowly(data); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	})
}

func BenchmarkCut(b *testing.B) {
	for _, c := range []struct {
		name string
		data []byte
	}{{"noise", noise(1, 64<<20)}, {"text", text(1, 64<<20)}, {"zeros", make([]byte, 64<<20)}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.data)))
			b.ReportAllocs()
			for b.Loop() {
				for data := c.data; len(data) > 0; {
					data = data[Cut(data):]
				}
			}
		})
	}
}
