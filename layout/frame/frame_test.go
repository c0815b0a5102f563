package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var elements = []struct {
	name string
	el   Element
}{{"Bytes", Bytes}, {"Opaque", Opaque}, {"BF16", BF16}, {"F16", F16}, {"F32", F32}, {"F64", F64}, {"F8", F8}}

// kinds are kinds of data, each of any number of bytes; those of floats are
// of the element that is claimed.
var kinds = []struct {
	name string
	data func(el Element, n int) []byte
}{
	{"zeros", func(_ Element, n int) []byte { return make([]byte, n) }},
	{"constant", func(_ Element, n int) []byte { return bytes.Repeat([]byte{0xA7}, n) }},
	{"all but constant", func(_ Element, n int) []byte { return append(bytes.Repeat([]byte{0xA7}, n-1), 1) }},
	{"random", func(_ Element, n int) []byte { return noise(2, n) }},
	{"text", func(_ Element, n int) []byte { return text(2, n) }},
	{"repeats", func(_ Element, n int) []byte { return bytes.Repeat(noise(3, 1000), n/1000+1)[:n] }},
	{"text then noise", func(_ Element, n int) []byte { return append(text(2, n/2), noise(2, n-n/2)...) }},
	{"weights", func(el Element, n int) []byte { return gaussian(el, n, 2) }},
	{"weights of another type", func(el Element, n int) []byte { return gaussian((el+1)%(F8+1), n, 2) }},
	{"weights again and again", func(el Element, n int) []byte { return bytes.Repeat(gaussian(el, 1<<14, 2), n>>14+1)[:n] }},
	{"weights, some zero", sparse},
	{"weights then constant", func(el Element, n int) []byte { return append(gaussian(el, n/2, 2), make([]byte, n-n/2)...) }},
	{"edge cases", edge},
}

var sizes = []int{1, 2, 3, 7, 255, 256, 257, 1023, 1025, 4095, 4096, 4097, 64<<10 + 1, 65536 + 256, 128<<10 + 1, 300001, 1 << 20}

func newCoder(t testing.TB, level Level) (*Encoder, *Decoder) {
	t.Helper()
	e, err := NewEncoder(level)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return e, d
}

func TestRoundTrip(t *testing.T) {
	e, d := newCoder(t, 0)
	std, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer std.Close()
	for _, el := range elements {
		for _, kind := range kinds {
			for _, n := range sizes {
				src := kind.data(el.el, n)
				name := fmt.Sprintf("%s, %s, %d bytes", el.name, kind.name, n)
				enc, f, err := e.Encode([]byte("before"), src, el.el)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				enc, ok := bytes.CutPrefix(enc, []byte("before"))
				if !ok || len(enc) > Bound(n) {
					t.Fatalf("%s: %d bytes, more than %d, or not appended", name, len(enc), Bound(n))
				}
				got := make([]byte, n)
				if err := d.Decode(got, enc, f); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if !bytes.Equal(got, src) {
					t.Fatalf("%s: other bytes come back", name)
				}
				// Any decoder gives the planes.
				planes, err := std.DecodeAll(enc, nil)
				if err != nil || len(planes) != n {
					t.Fatalf("%s: %d bytes by another decoder, %v", name, len(planes), err)
				}
				if f == None {
					got = planes
				} else {
					join(got, planes, f)
				}
				if !bytes.Equal(got, src) {
					t.Fatalf("%s: other bytes by another decoder", name)
				}
			}
		}
	}
}

func TestEveryLevel(t *testing.T) {
	src := text(3, 256<<10)
	last := len(src)
	for level := Level(1); level <= 4; level++ {
		e, d := newCoder(t, level)
		enc, f, err := e.Encode(nil, src, Bytes)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(src))
		if err := d.Decode(got, enc, f); err != nil || !bytes.Equal(got, src) {
			t.Errorf("level %d: %v", level, err)
		}
		if len(enc) > last {
			t.Errorf("level %d: %d bytes, the one below %d", level, len(enc), last)
		}
		last = len(enc)
	}
	for _, level := range []Level{-1, 5} {
		if _, err := NewEncoder(level); err == nil {
			t.Errorf("level %d is taken", level)
		}
	}
}

func TestRatioOfWeights(t *testing.T) {
	e, _ := newCoder(t, 0)
	for _, c := range []struct {
		el   Element
		most float64
	}{{BF16, 0.665}, {F16, 0.85}, {F32, 0.84}, {F64, 0.87}, {F8, 0.83}} {
		for _, n := range []int{256 << 10, 1 << 20} {
			enc, _, err := e.Encode(nil, gaussian(c.el, n, 5), c.el)
			if err != nil {
				t.Fatal(err)
			}
			if ratio := float64(len(enc)) / float64(n); ratio > c.most {
				t.Errorf("element %d, %d bytes: ratio %.4f, want at most %.4f", c.el, n, ratio, c.most)
			}
		}
	}
}

func TestEncodingDoesNotDependOnWhatCameBefore(t *testing.T) {
	used, _ := newCoder(t, 0)
	for _, el := range elements {
		for _, kind := range kinds {
			src := kind.data(el.el, 100_001)
			fresh, _ := newCoder(t, 0)
			want, wantFilter, err := fresh.Encode(nil, src, el.el)
			if err != nil {
				t.Fatal(err)
			}
			got, f, err := used.Encode(nil, src, el.el)
			if err != nil {
				t.Fatal(err)
			}
			if f != wantFilter || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: an encoder that was used encodes otherwise", el.name, kind.name)
			}
		}
	}
}

func TestRefusesImpossibleSizes(t *testing.T) {
	e, d := newCoder(t, 0)
	for _, n := range []int{0, MaxChunk + 1} {
		if _, _, err := e.Encode(nil, make([]byte, n), Bytes); err == nil {
			t.Errorf("%d bytes are encoded", n)
		}
		if err := d.Decode(make([]byte, n), nil, None); err == nil {
			t.Errorf("%d bytes are decoded", n)
		}
	}
	if err := d.Decode(make([]byte, 1), []byte{0}, BG8R+1); err == nil {
		t.Error("an unknown filter is taken")
	}
}

func TestDecodeRefusesWhatIsCutOff(t *testing.T) {
	e, d := newCoder(t, 0)
	for _, kind := range kinds {
		for _, el := range elements {
			src := kind.data(el.el, 5000)
			enc, f, err := e.Encode(nil, src, el.el)
			if err != nil {
				t.Fatal(err)
			}
			for n := range enc {
				refuse(t, d, kind.name, len(src), enc[:n:n], f)
			}
			refuse(t, d, "one byte more", len(src), append(enc, 0), f)
			refuse(t, d, "twice", len(src), append(enc, enc...), f)
			refuse(t, d, "into fewer", len(src)-1, enc, f)
			refuse(t, d, "into more", len(src)+1, enc, f)
			refuse(t, d, "into one", 1, enc, f)
			refuse(t, d, "into the most", MaxChunk, enc, f)
		}
	}
}

func refuse(t *testing.T, d *Decoder, what string, n int, enc []byte, f Filter) {
	t.Helper()
	dst := slices.Repeat([]byte{0x5A}, n+64)
	if err := d.Decode(dst[:n], enc, f); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%s: %v", what, err)
	}
	for _, b := range dst[n:] {
		if b != 0x5A {
			t.Fatalf("%s: written beyond the end", what)
		}
	}
}

func TestDecodeOfAnotherFilterGivesOtherBytesAndNoMore(t *testing.T) {
	e, d := newCoder(t, 0)
	src := gaussian(BF16, 10_001, 6)
	enc, f, err := e.Encode(nil, src, BF16)
	if err != nil || f != BG2R {
		t.Fatal(f, err)
	}
	for _, f := range []Filter{None, BG4R, BG8R} {
		got := make([]byte, len(src))
		if err := d.Decode(got, enc, f); err != nil || bytes.Equal(got, src) {
			t.Errorf("filter %v: the same bytes, or %v", f, err)
		}
	}
}

func TestDecodeRefusesForeignFrames(t *testing.T) {
	_, d := newCoder(t, 0)
	src := text(4, 50_000)
	encode := func(o ...zstd.EOption) []byte {
		z, err := zstd.NewWriter(nil, append(o, zstd.WithEncoderConcurrency(1))...)
		if err != nil {
			t.Fatal(err)
		}
		return z.EncodeAll(src, nil)
	}
	plain := encode(zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err := d.Decode(make([]byte, len(src)), plain, None); err != nil {
		t.Fatal(err)
	}
	skippable := append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x184D2A50), 4), 1, 2, 3, 4)
	zeros := make([]byte, 50_000)
	rle := func(size, n int) []byte {
		return append(appendBlockHeader(appendHeader(nil, size), true, rleBlock, n), 0)
	}
	reserved := appendRaw(nil, zeros)
	reserved[7] |= 3 << 1
	huge := append(binary.LittleEndian.AppendUint32(nil, magic), 1<<5|3<<6, 0, 0, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0)
	dictionary := append(binary.LittleEndian.AppendUint32(nil, magic), 1<<5|1, 7, 50, 1, 0, 0)
	for _, c := range []struct {
		name string
		n    int
		enc  []byte
	}{
		{"nothing", 50_000, nil},
		{"with a checksum", 50_000, encode(zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))},
		{"with a window", 50_000, encode(zstd.WithEncoderCRC(false), zstd.WithWindowSize(16<<10))},
		{"with a dictionary", 50, dictionary},
		{"with a skippable frame before", 50_000, append(skippable, plain...)},
		{"with a skippable frame behind", 50_000, append(plain[:len(plain):len(plain)], skippable...)},
		{"a bomb of one frame", 50_000, appendRLE(nil, 0, MaxChunk)},
		{"a bomb of blocks", 50_000, bytes.Replace(appendRLE(nil, 0, MaxChunk), []byte{0, 0, 0x10, 0}, []byte{0x50, 0xC3, 0, 0}, 1)},
		{"a bomb of frames", 50_000, bytes.Repeat(appendRLE(nil, 0, 10_000), 6)},
		{"a frame of 2^40 bytes", 50_000, huge},
		{"a block of more than 128 KiB", 1 << 20, rle(1<<20, 1<<20)},
		{"blocks of less than the frame", 50_000, rle(50_000, 49_999)},
		{"blocks of more than the frame", 50_000, rle(50_000, 50_001)},
		{"a reserved block", 50_000, reserved},
		{"not zstd", 50_000, text(1, 50_000)},
	} {
		refuse(t, d, c.name, c.n, c.enc, None)
	}
}

func TestFilterNames(t *testing.T) {
	for f := None; f <= BG8R; f++ {
		if got, err := ParseFilter(f.String()); err != nil || got != f {
			t.Errorf("%q: %v, %v", f, got, err)
		}
	}
	if _, err := ParseFilter("bg16"); err == nil {
		t.Error("an unknown name is taken")
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, el := range elements {
		f.Add(gaussian(el.el, 5000, 9), uint8(el.el), uint8(3), uint8(0))
		f.Add(text(9, 5000), uint8(el.el), uint8(0), uint8(1))
	}
	f.Add([]byte{1}, uint8(F64), uint8(200), uint8(4))
	var es [5]*Encoder
	for level := range es {
		es[level], _ = newCoder(f, Level(level))
	}
	_, d := newCoder(f, 0)
	f.Fuzz(func(t *testing.T, src []byte, el, times, level uint8) {
		src = bytes.Repeat(src, 1+int(times))
		src = src[:min(len(src), MaxChunk)]
		if len(src) == 0 {
			return
		}
		enc, filter, err := es[level%5].Encode(nil, src, Element(el))
		if err != nil {
			t.Fatal(err)
		}
		if len(enc) > Bound(len(src)) {
			t.Fatalf("%d bytes, more than %d", len(enc), Bound(len(src)))
		}
		got := make([]byte, len(src))
		if err := d.Decode(got, enc, filter); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("other bytes, or %v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	e, d := newCoder(f, 0)
	for _, el := range elements {
		for _, kind := range kinds {
			src := kind.data(el.el, 5000)
			enc, filter, err := e.Encode(nil, src, el.el)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(enc, uint32(len(src)), uint8(filter))
		}
	}
	std, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxChunk))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(std.Close)
	f.Fuzz(func(t *testing.T, enc []byte, n uint32, filter uint8) {
		dst := slices.Repeat([]byte{0x5A}, int(n%(MaxChunk+1))+64)
		n = uint32(len(dst) - 64)
		err := d.Decode(dst[:n], enc, Filter(filter))
		for _, b := range dst[n:] {
			if b != 0x5A {
				t.Fatal("written beyond the end")
			}
		}
		if err != nil {
			return
		}
		// What is taken means the same to any other decoder.
		planes, err := std.DecodeAll(enc, nil)
		if err != nil || len(planes) != int(n) {
			t.Fatalf("another decoder: %d bytes, not %d, %v", len(planes), n, err)
		}
		if Filter(filter) == None && !bytes.Equal(dst[:n], planes) {
			t.Fatal("another decoder gives other bytes")
		}
	})
}
