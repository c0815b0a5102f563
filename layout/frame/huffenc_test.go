package frame

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// The example of RFC 8878, section 4.2.1.
func TestTableOfTheRFC(t *testing.T) {
	var h huffCode
	if !h.make(&counts{16, 8, 4, 0, 2, 2}) {
		t.Fatal("no table")
	}
	want := [256]uint32{0: 1<<8 | 1, 1: 1<<8 | 2, 2: 1<<8 | 3, 4: 0<<8 | 4, 5: 1<<8 | 4}
	if h.codes != want {
		t.Errorf("codes %#x", h.codes[:6])
	}
	if want := []byte{127 + 5, 0x43, 0x20, 0x10}; !bytes.Equal(h.description, want) {
		t.Errorf("described as %#x, want %#x", h.description, want)
	}
}

// Counts of every shape: codes are of at most 11 bits, fill the space of codes
// exactly, are near the entropy, and decoders know the table.
func TestTables(t *testing.T) {
	for _, c := range []struct {
		name  string
		known bool // whether it can be described
		count func(b int) uint32
	}{
		{"two", true, func(b int) uint32 { return uint32(min(max(0, 2-b), 1)) }},
		{"first and last", true, func(b int) uint32 { return map[int]uint32{0: 1, 255: 1000}[b] }},
		{"three of the last", true, func(b int) uint32 { return uint32(max(0, b-252)) }},
		{"doubling", true, func(b int) uint32 { return 1 << min(b, 20) * uint32(min(1, 21/(b+1))) }},
		{"Fibonacci's", true, func(b int) uint32 {
			return uint32(math.Round(math.Pow(math.Phi, float64(b%28)))) * uint32(min(1, 28/(b+1)))
		}},
		{"the same", false, func(b int) uint32 { return 7 }},
		{"128 the same", true, func(b int) uint32 { return uint32(1 - b>>7) }},
		{"rising", true, func(b int) uint32 { return uint32(b + 1) }},
		{"one of all but once", true, func(b int) uint32 { return map[bool]uint32{false: 1, true: 1 << 20}[b == 99] }},
		{"bell", true, func(b int) uint32 { return uint32(1e5 * math.Exp(-float64((b-100)*(b-100))/200)) }},
	} {
		var h huffCode
		var n counts
		var total, space, size, entropy float64
		for b := range n {
			n[b] = c.count(b)
			total += float64(n[b])
		}
		if got := h.make(&n); got != c.known {
			t.Errorf("%s: described: %v", c.name, got)
		}
		for b, code := range h.codes {
			bits := code & 0xFF
			if (bits > 0) != (n[b] > 0) || bits > maxCodeBits || code>>8 >= 1<<bits || h.known[b] != byte(min(bits, 1)) ||
				uint32(h.lo[b])|uint32(h.hi[b]&15)<<8 != code>>8 || uint32(h.hi[b]>>4) != bits {
				t.Fatalf("%s: byte %d, %d times, has code %#x", c.name, b, n[b], code)
			}
			if bits > 0 {
				space += 1 / float64(int(1)<<bits)
				size += float64(n[b]) * float64(bits)
				entropy += float64(n[b]) * math.Log2(total/float64(n[b]))
			}
		}
		if space != 1 {
			t.Errorf("%s: codes take %v of their space", c.name, space)
		}
		if size > entropy+1.01*total || size < entropy*0.999 {
			t.Errorf("%s: %.0f bits, the entropy is %.0f", c.name, size, entropy)
		}
		if !c.known {
			continue
		}
		if _, rest, err := huff0.ReadTable(h.description, nil); err != nil || len(rest) > 0 {
			t.Errorf("%s: a decoder leaves %d bytes of the description, %v", c.name, len(rest), err)
		}
	}
}

func TestUnseen(t *testing.T) {
	var seen [256]byte
	for b := range seen {
		seen[b] = 1
	}
	p := noise(5, 500)
	for missing := range seen {
		seen[missing] = 0
		for _, n := range []int{0, 1, 7, 8, 63, 64, 65, 200, 500} {
			at, want := unseen(&seen, p[:n]), bytes.IndexByte(p[:n], byte(missing))
			if want < 0 && at != n || want >= 0 && (at > want || at < want-63) {
				t.Errorf("byte %d of %d is found at %d, not at %d", missing, n, at, want)
			}
		}
		seen[missing] = 1
	}
}

// blocks returns the kinds of a frame's blocks: raw, rle, or Huffman-coded
// with the description of a table or with the table before.
func blocks(t *testing.T, frame []byte) (kinds []string) {
	t.Helper()
	_, b, ok := parseHeader(frame)
	if !ok {
		t.Fatal("no frame")
	}
	for last := false; !last; {
		var kind, size int
		last, kind, size = parseBlockHeader(b)
		b = b[blockHeader:]
		switch kind {
		case rawBlock:
			kinds = append(kinds, "raw")
		case rleBlock:
			kinds, size = append(kinds, "rle"), 1
		default:
			l, ok := parseLiterals(b[:size])
			if !ok {
				t.Fatal("a block of another kind")
			}
			kinds = append(kinds, map[bool]string{false: "table", true: "same"}[l.treeless])
		}
		b = b[size:]
	}
	return kinds
}

// What does not suit the first table gets its own, or none.
func TestTablesOfBlocks(t *testing.T) {
	const n = maxBlock
	weights := gaussian(F8, 2*n, 3)
	other := make([]byte, 2*n) // of the same bytes, otherwise distributed
	for i, b := range weights {
		other[i] = b ^ 4
	}
	zeros := make([]byte, n)
	rare := bytes.Clone(weights)
	rare[n+n/2+1] = 0x7F // no byte of a sample
	join := func(ps ...[]byte) []byte { return bytes.Join(ps, nil) }
	for _, c := range []struct {
		name string
		p    []byte
		want string
	}{
		{"alike", join(weights, weights), "[table same same same]"},
		{"a byte that is nowhere else", rare, "[table same]"},
		{"shorter than a block", weights[:5000], "[table]"},
		{"one more than a block", weights[:n+1], "[table same]"},
		{"a constant end", join(weights, zeros), "[table same rle]"},
		{"a constant start", join(zeros, weights), "[rle table same]"},
		{"noise amid", join(weights[:n], noise(6, n), weights[n:]), "[table raw table]"},
		{"other at the end", join(weights, other[:n]), "[table same table]"},
		{"halves", join(weights, other), "[table same table same]"},
	} {
		h := new(huffEncoder)
		out := appendHuffman(nil, c.p, h)
		if got := fmt.Sprint(blocks(t, out)); got != c.want {
			t.Errorf("%s: blocks %v, want %v", c.name, got, c.want)
		}
		decodeEverywhere(t, out, c.p)
	}
}

// decodeEverywhere checks that this package's decoder and another one make p of
// the frame.
func decodeEverywhere(t *testing.T, frame, p []byte) {
	t.Helper()
	_, d := newCoder(t, 0)
	got := make([]byte, len(p))
	if err := d.Decode(got, frame, None); err != nil || !bytes.Equal(got, p) {
		t.Errorf("other bytes come back, %v", err)
	}
	std, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer std.Close()
	if got, err := std.DecodeAll(frame, nil); err != nil || !bytes.Equal(got, p) {
		t.Errorf("other bytes by another decoder, %v", err)
	}
}

func FuzzHuffmanEncoder(f *testing.F) {
	for _, el := range elements {
		f.Add(gaussian(el.el, 5000, 9), text(9, 3000), uint8(30), uint8(9))
	}
	f.Add([]byte{1, 2}, []byte{}, uint8(255), uint8(0))
	_, d := newCoder(f, 0)
	std, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxChunk))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(std.Close)
	h := new(huffEncoder)
	f.Fuzz(func(t *testing.T, a, b []byte, times, more uint8) {
		p := append(bytes.Repeat(a, 1+int(times)), bytes.Repeat(b, 1+int(more))...)
		p = p[:min(len(p), MaxChunk)]
		if len(p) == 0 || constant(p) {
			return
		}
		out := appendHuffman(nil, p, h)
		if len(out) > rawSize(len(p)) {
			t.Errorf("%d bytes for %d", len(out), len(p))
		}
		got := make([]byte, len(p))
		if err := d.Decode(got, out, None); err != nil || !bytes.Equal(got, p) {
			t.Errorf("other bytes come back, %v", err)
		}
		if got, err := std.DecodeAll(out, got[:0]); err != nil || !bytes.Equal(got, p) {
			t.Errorf("other bytes by another decoder, %v", err)
		}
		sameWithoutAssembly(t, out, p)
	})
}
