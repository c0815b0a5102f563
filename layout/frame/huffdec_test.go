package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/huff0"
)

// reference decodes tree and streams to n bytes by the huff0 package.
func reference(data []byte, n int) ([]byte, error) {
	var s huff0.Scratch
	_, rest, err := huff0.ReadTable(data, &s)
	if err != nil {
		return nil, err
	}
	return s.Decoder().Decompress4X(make([]byte, 0, n), rest)
}

// decodeHuffman decodes tree and streams to exactly len(dst) bytes.
func (t *huffTable) decodeHuffman(dst, data []byte) error {
	rest, err := t.read(data)
	if err != nil {
		return err
	}
	return t.decode(dst, rest)
}

// huffman returns p, Huffman-coded in four streams with their tree.
func huffman(t testing.TB, p []byte) []byte {
	t.Helper()
	s := huff0.Scratch{Reuse: huff0.ReusePolicyNone}
	out, _, err := huff0.Compress4X(p, &s)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(out)
}

// skewed returns n bytes whose codes are of 1 to about width bits.
func skewed(width, n int, seed byte) []byte {
	b := make([]byte, n)
	r := random(seed)
	for i := range b {
		b[i] = byte(bits.TrailingZeros(uint(r.Uint32()) | 1<<width))
	}
	for i := range min(width+1, n) {
		b[i] = byte(i) // at the least once each
	}
	return b
}

// uneven returns n bytes: quarter q of few different values, the others of
// many, or the reverse.
func uneven(q, n int, reverse bool) []byte {
	b := noise(5, n)
	share := (n + 3) / 4
	for i := range b {
		if (i/share == q) != reverse {
			b[i] /= 255 // nearly always 0
		} else {
			b[i] &= 63
		}
	}
	return b
}

// literalsCases are bytes that can be coded.
func literalsCases() map[string][]byte {
	m := map[string][]byte{}
	for width := 1; width <= maxCodeBits; width++ {
		for _, n := range []int{100, 1021, maxBlock} {
			m[fmt.Sprintf("codes of 1 to %d bits, %d bytes", width, n)] = skewed(width, n, 1)
		}
	}
	for values := 2; values <= 128; values *= 2 { // all codes of one length
		b := noise(2, 40_003)
		for i := range b {
			b[i] &= byte(values - 1)
		}
		m[fmt.Sprintf("%d values", values)] = b
	}
	for q := range 4 {
		for _, reverse := range []bool{false, true} {
			m[fmt.Sprintf("quarter %d, %v", q, reverse)] = uneven(q, maxBlock, reverse)
			m[fmt.Sprintf("quarter %d of few, %v", q, reverse)] = uneven(q, 2001, reverse)
		}
	}
	for _, el := range []Element{BF16, F16, F32, F64, F8} {
		src := gaussian(el, 4*maxBlock, 3)
		p, width := src, 1
		if f := filterOf(el); f != None {
			p, width = make([]byte, len(src)), f.width()
			split(p, src, f)
		}
		m[fmt.Sprintf("plane of element %d", el)] = p[len(p)-min(maxBlock, len(p)/width):]
	}
	for n := 24; n < 200; n++ {
		m[fmt.Sprintf("%d bytes", n)] = skewed(3, n, 4)
	}
	m["text"] = text(5, maxBlock)
	return m
}

func TestHuffmanDecodes(t *testing.T) {
	var table huffTable
	for name, p := range literalsCases() {
		enc := huffman(t, p)
		dst := slices.Repeat([]byte{0x5A}, len(p)+64)
		if err := table.decodeHuffman(dst[:len(p)], enc); err != nil || !bytes.Equal(dst[:len(p)], p) {
			t.Errorf("%s: other bytes, or %v", name, err)
		}
		if !bytes.Equal(dst[len(p):], bytes.Repeat([]byte{0x5A}, 64)) {
			t.Errorf("%s: written beyond the end", name)
		}
	}
}

// coded returns p in four streams of the code that weights make, all of them
// written in half a byte but for the last, with their tree.
func coded(p []byte, weights []uint8) []byte {
	n := len(weights) - 1
	enc := []byte{byte(127 + n)}
	for i := 0; i < n; i += 2 {
		enc = append(enc, weights[i]<<4)
		if i+1 < n {
			enc[len(enc)-1] |= weights[i+1]
		}
	}
	sum := 0
	codes := map[byte]string{}
	for w := uint8(1); w <= maxCodeBits; w++ { // from the lowest code on
		for s, of := range weights {
			if of == w {
				codes[byte(s)] = fmt.Sprintf("%012b", sum>>(w-1))
				sum += 1 << (w - 1)
			}
		}
	}
	width := bits.Len(uint(sum)) - 1
	var jump, streams []byte
	share := (len(p) + 3) / 4
	for i := range 4 {
		var stream string // its end is where decoding begins
		for _, s := range p[min(i*share, len(p)):min((i+1)*share, len(p))] {
			c := codes[s]
			stream += c[len(c)-width-1+int(weights[s]):]
		}
		stream = "1" + stream
		stream = strings.Repeat("0", -len(stream)&7) + stream
		for i := len(stream); i > 0; i -= 8 {
			b, _ := strconv.ParseUint(stream[i-8:i], 2, 8)
			streams = append(streams, byte(b))
		}
		if i < 3 {
			jump = binary.LittleEndian.AppendUint16(jump, uint16(len(stream)/8))
		}
	}
	return slices.Concat(enc, jump, streams)
}

// codes are weights of symbols, of codes of every width.
func codes() [][]uint8 {
	c := [][]uint8{{1, 1}}
	for width := 2; width <= maxCodeBits; width++ {
		w := []uint8{1, 1}
		for i := 2; i <= width; i++ {
			w = append(w, uint8(i))
		}
		c = append(c, w, slices.Insert(slices.Clone(w), 1, 0, 0, 0))
		if width < 8 {
			c = append(c, bytes.Repeat([]byte{1}, 1<<width)) // all alike
		}
	}
	return c
}

func TestHuffmanDecodesAnyNumberOfSymbols(t *testing.T) {
	var table huffTable
	for _, weights := range codes() {
		var symbols []byte
		for s, w := range weights {
			if w > 0 {
				symbols = append(symbols, byte(s))
			}
		}
		for n := 0; n < 1000; n += 1 + n/24 {
			for seed := range byte(2) { // of many kinds, or of the shortest code
				p := noise(seed, n)
				for i := range p {
					if p[i] = symbols[int(p[i])%len(symbols)]; seed == 1 {
						p[i] = symbols[len(symbols)-1]
					}
				}
				enc := coded(p, weights)
				got := make([]byte, n)
				err := table.decodeHuffman(got, enc)
				if want, wantErr := reference(enc, n); (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
					t.Fatalf("%d symbols of %v: %v, by huff0 %v", n, weights, err, wantErr)
				}
				if three := 3 * ((n + 3) / 4); n >= 6 && three <= n && (err != nil || !bytes.Equal(got, p)) {
					t.Fatalf("%d symbols of %v: other bytes, or %v", n, weights, err)
				}
			}
		}
	}
}

func TestHuffmanTrees(t *testing.T) {
	long := bytes.Repeat([]byte{0x11}, 64)
	fseTree := huffman(t, gaussian(F8, 5000, 1))
	if fseTree[0] >= 128 {
		t.Fatal("no tree in FSE")
	}
	fseTree = fseTree[:1+fseTree[0]]
	for _, c := range []struct {
		name string
		tree []byte
		want []uint8 // bits of the symbols' codes; nil: refused
	}{
		{"two symbols", []byte{128, 0x10}, []uint8{1, 1}},
		{"a half byte that does not count", []byte{128, 0x1F}, []uint8{1, 1}},
		{"three symbols", []byte{129, 0x11}, []uint8{2, 2, 1}},
		{"symbols that do not occur", []byte{131, 0x00, 0x11}, []uint8{0, 0, 2, 2, 1}},
		{"11 bits", []byte{138, 0x12, 0x34, 0x56, 0x78, 0x9A, 0xB0}, []uint8{11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 11}},
		{"128 weights", append([]byte{255}, long...), append(bytes.Repeat([]byte{8}, 128), 1)},
		{"nothing", nil, nil},
		{"no weights", []byte{128}, nil},
		{"cut off", []byte{131, 0x11}, nil},
		{"all weights zero", []byte{131, 0, 0}, nil},
		{"12 bits", []byte{139, 0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC}, nil},
		{"a weight of 12", []byte{129, 0xC1}, nil},
		{"a weight of 15", []byte{129, 0xF1}, nil},
		{"a sum of 5, 3 short of 8", []byte{130, 0x13, 0x00}, nil},
		{"no symbol of the longest code", []byte{128, 0x20}, nil},
		{"FSE of no bytes", []byte{0, 0x10, 0, 0}, nil},
		{"FSE cut off", fseTree[:len(fseTree)-1], nil},
		{"FSE of 7 bits", []byte{4, 2, 0x10, 0x20, 0x30}, nil},
		{"FSE of zeros", []byte{4, 0, 0, 0, 0}, nil},
		{"FSE that gives more than 255", append([]byte{127}, bytes.Repeat([]byte{0xF0}, 127)...), nil},
	} {
		var table huffTable
		const after = "what follows"
		tree := c.tree
		if c.want != nil {
			tree = append(bytes.Clone(tree), after...)
		}
		rest, err := table.read(tree)
		_, _, wantErr := huff0.ReadTable(tree, nil)
		if (err == nil) != (c.want != nil) || (wantErr == nil) != (c.want != nil) {
			t.Errorf("%s: %v, by huff0 %v", c.name, err, wantErr)
			continue
		}
		if err == nil && (!bytes.Equal(table.lengths[:len(c.want)], c.want) || string(rest) != after) {
			t.Errorf("%s: lengths %v, want %v; %q follows", c.name, table.lengths, c.want, rest)
		}
	}
}

// Every entry says what decoding one symbol after the other does.
func TestHuffmanEntries(t *testing.T) {
	for _, weights := range codes() {
		var table huffTable
		if _, err := table.read(coded(nil, weights)); err != nil {
			t.Fatal(err)
		}
		for i, e := range table.entries {
			var symbols, n, length uint64
			for n < entrySymbols {
				s := uint8(table.entries[i<<length&(1<<maxCodeBits-1)])
				if length+uint64(table.lengths[s]) > maxCodeBits {
					break
				}
				symbols |= uint64(s) << (8 * n)
				length += uint64(table.lengths[s])
				n++
			}
			if want := n<<entryCount | length<<entryBits | symbols; e != want {
				t.Fatalf("weights %v: entry %d is %#x, want %#x", weights, i, e, want)
			}
		}
	}
}

func TestHuffmanRefusesWhatIsBroken(t *testing.T) {
	var table huffTable
	for _, p := range [][]byte{skewed(4, 3001, 6), skewed(11, 3001, 6), uneven(1, 3001, false), noise(6, 64)} {
		var enc []byte
		if len(p) == 64 {
			for i := range p {
				p[i] &= 1
			}
			enc = coded(p, []uint8{1, 1})
		} else {
			enc = huffman(t, p)
		}
		dst := make([]byte, len(p)+1)
		compare := func(what string, n int, enc []byte) {
			t.Helper()
			err := table.decodeHuffman(dst[:n], enc)
			want, wantErr := reference(enc, n)
			if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(dst[:n], want) {
				t.Errorf("%s: %v, by huff0 %v", what, err, wantErr)
			}
		}
		for n := range enc {
			compare(fmt.Sprintf("cut off at %d", n), len(p), enc[:n])
		}
		for i := range enc {
			for bit := range 8 {
				enc[i] ^= 1 << bit
				compare(fmt.Sprintf("bit %d of byte %d", bit, i), len(p), enc)
				enc[i] ^= 1 << bit
			}
		}
		for n := max(0, len(p)-9); n <= len(p)+1; n++ {
			err := table.decodeHuffman(dst[:n], enc)
			if (err == nil) != (n == len(p)) {
				t.Errorf("to %d bytes, not %d: %v", n, len(p), err)
			}
		}
	}
}

func FuzzHuffman(f *testing.F) {
	for _, p := range literalsCases() {
		if len(p) <= 5000 {
			f.Add(huffman(f, p), uint32(len(p)))
		}
	}
	for _, el := range []Element{BF16, F16, F8} {
		p := gaussian(el, 6000, 3)
		if el != F8 {
			p = make([]byte, 6000)
			split(p, gaussian(el, 6000, 3), filterOf(el))
			p = p[3000:]
		}
		f.Add(huffman(f, p), uint32(len(p)))
	}
	for _, weights := range codes() {
		p := bytes.Repeat([]byte{0, byte(len(weights) - 1)}, 20)
		f.Add(coded(p, weights), uint32(len(p)))
	}
	var table huffTable
	f.Fuzz(func(t *testing.T, enc []byte, n uint32) {
		n %= maxBlock + 1
		dst := slices.Repeat([]byte{0x5A}, int(n)+64)
		err := table.decodeHuffman(dst[:n], enc)
		if !bytes.Equal(dst[n:], bytes.Repeat([]byte{0x5A}, 64)) {
			t.Fatal("written beyond the end")
		}
		want, wantErr := reference(enc, int(n))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, by huff0 %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(dst[:n], want) {
			t.Fatal("huff0 gives other bytes")
		}
	})
}
