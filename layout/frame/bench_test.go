package frame

import "testing"

// Sizes of the chunks of benchmarks: the step inside tensors, and the mean of
// content-defined chunks.
const (
	benchStep = 1 << 20
	benchMean = 256 << 10
)

var benchKinds = []struct {
	name    string
	element Element
	data    func() []byte
}{
	{"BF16", BF16, func() []byte { return gaussian(BF16, benchStep, 1) }},
	{"F16", F16, func() []byte { return gaussian(F16, benchStep, 1) }},
	{"F32", F32, func() []byte { return gaussian(F32, benchStep, 1) }},
	{"F64", F64, func() []byte { return gaussian(F64, benchStep, 1) }},
	{"FP8", F8, func() []byte { return gaussian(F8, benchStep, 1) }},
	{"Random", Opaque, func() []byte { return noise(1, benchStep) }},
	{"RandomBytes", Bytes, func() []byte { return noise(1, benchMean) }},
	{"Text", Bytes, func() []byte { return text(1, benchMean) }},
}

func BenchmarkEncode(b *testing.B) {
	for _, k := range benchKinds {
		b.Run(k.name, func(b *testing.B) {
			src := k.data()
			e, err := NewEncoder(0)
			if err != nil {
				b.Fatal(err)
			}
			dst := make([]byte, 0, Bound(len(src)))
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				if out, _, err = e.Encode(dst, src, k.element); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(out))/float64(len(src)), "ratio")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, k := range benchKinds {
		b.Run(k.name, func(b *testing.B) {
			src := k.data()
			e, err := NewEncoder(0)
			if err != nil {
				b.Fatal(err)
			}
			enc, f, err := e.Encode(nil, src, k.element)
			if err != nil {
				b.Fatal(err)
			}
			d, err := NewDecoder()
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			dst := make([]byte, len(src))
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Decode(dst, enc, f); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(enc))/float64(len(src)), "ratio")
		})
	}
}
