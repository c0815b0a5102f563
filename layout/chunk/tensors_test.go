package chunk

import (
	"math"
	"reflect"
	"slices"
	"testing"

	"mpack/layout/tensor"
)

// lay puts tensors of the sizes one after the other from start on.
func lay(start int64, dtype string, sizes ...int64) []tensor.Tensor {
	var ts []tensor.Tensor
	for _, n := range sizes {
		ts = append(ts, tensor.Tensor{DType: dtype, Offset: start, Size: n})
		start += n
	}
	return ts
}

func TestTensorsAreCutAtTheirBounds(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	join := slices.Concat[[]tensor.Tensor]
	for _, c := range []struct {
		name string
		size int64
		ts   []tensor.Tensor
		want []Piece
	}{
		{"an empty file", 0, nil, nil},
		{"no tensors", 100, nil, []Piece{{100, ""}}},
		{"a header of its own", 100 + 10, lay(100, "F32", 10), []Piece{{100, ""}, {10, "F32"}}},
		{"steps", 8 + 5*m/2, lay(8, "BF16", 5*m/2), []Piece{{8, ""}, {m, "BF16"}, {m, "BF16"}, {m / 2, "BF16"}}},
		{"no small end", 2*m + 10, lay(0, "BF16", 2*m+10), []Piece{{m, "BF16"}, {m - Small, "BF16"}, {Small + 10, "BF16"}}},
		{"small ones together", 130 * k, lay(0, "F16", 30*k, 30*k, 30*k, 30*k, 10*k), []Piece{{90 * k, "F16"}, {40 * k, "F16"}}},
		{"mixed ones", 60 * k, join(lay(0, "F16", 30*k), lay(30*k, "F32", 30*k)), []Piece{{60 * k, ""}}},
		{"a large one after a small", m + k, lay(0, "F16", k, m), []Piece{{k, "F16"}, {m, "F16"}}},
		{"padding", 2*m + 64, join(lay(0, "Q4_K", m-8), lay(m, "Q6_K", m)), []Piece{{m, "Q4_K"}, {m - Small, "Q6_K"}, {Small + 64, "Q6_K"}}},
		{"a large gap", 2*m + Small, join(lay(0, "I8", m), lay(m+Small, "I8", m)), []Piece{{m, "I8"}, {Small, ""}, {m, "I8"}}},
		{"a gap of no tensor at the end", m, lay(0, "I8", k), []Piece{{k, "I8"}, {m - k, ""}}},
		{"empty tensors", 100, lay(0, "I8", 0, 100, 0), []Piece{{100, "I8"}}},
	} {
		if got := Tensors(c.size, c.ts); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestImpossibleTensorsArePassedOver(t *testing.T) {
	const size = 3 << 20
	for _, ts := range [][]tensor.Tensor{
		{{Offset: -5, Size: 10}},
		{{Offset: 0, Size: -10}},
		{{Offset: 0, Size: math.MaxInt64}},
		{{Offset: math.MaxInt64, Size: math.MaxInt64}},
		{{Offset: math.MinInt64, Size: math.MinInt64}},
		{{Offset: 10, Size: 2 << 20}, {Offset: 20, Size: 10}, {Offset: 0, Size: 1}},
		{{Offset: size, Size: 1}},
		{{Offset: size - 1, Size: 2}},
	} {
		checkPieces(t, size, Tensors(size, ts))
	}
	if got := Tensors(-1, nil); got != nil {
		t.Errorf("%v of a negative size", got)
	}
}

// checkPieces holds what Tensors promises of any file.
func checkPieces(t *testing.T, size int64, pieces []Piece) {
	t.Helper()
	var sum int64
	for _, p := range pieces {
		if p.Size < 1 || p.Size > Max {
			t.Errorf("a piece of %d bytes", p.Size)
		}
		sum += p.Size
	}
	if sum != max(size, 0) {
		t.Errorf("pieces of %d bytes for %d", sum, size)
	}
	if most := size/Small*2 + 2; int64(len(pieces)) > most {
		t.Errorf("%d pieces, more than %d", len(pieces), most)
	}
}

func TestATensorThatMovesKeepsItsPieces(t *testing.T) {
	for _, size := range []int64{Small, Max - 1, Max + 1, Max + Small, 5*Max + 12} {
		alone := Tensors(size, lay(0, "BF16", size))
		for _, before := range []int64{1, Small - 1, Small, 3*Max + 7} {
			for _, after := range []int64{1, Small, 2 * Max} {
				ts := slices.Concat(lay(100, "F32", before), lay(100+before, "BF16", size), lay(100+before+size, "I8", after))
				var mine []Piece
				for _, p := range Tensors(100+before+size+after, ts) {
					if p.DType == "BF16" {
						mine = append(mine, p)
					}
				}
				if !slices.Equal(mine, alone) {
					t.Errorf("%d bytes between %d and %d: %v, alone %v", size, before, after, mine, alone)
				}
			}
		}
	}
}

func FuzzTensors(f *testing.F) {
	f.Add(int64(5<<20), int64(100), int64(3<<20), int64(3<<20+100), int64(1000), int64(4<<20), int64(1<<20))
	f.Add(int64(10), int64(-1), int64(math.MaxInt64), int64(math.MinInt64), int64(-5), int64(9), int64(1))
	f.Fuzz(func(t *testing.T, size, o1, n1, o2, n2, o3, n3 int64) {
		size %= 1 << 32
		checkPieces(t, size, Tensors(size, []tensor.Tensor{
			{Offset: o1, Size: n1, DType: "A"}, {Offset: o2, Size: n2, DType: "B"}, {Offset: o3, Size: n3, DType: "A"},
		}))
	})
}
