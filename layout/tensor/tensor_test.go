package tensor

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
)

// safetensors returns a file of the header and n bytes of data.
func safetensors(header string, n int) []byte {
	b := le.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

// gguf builds a GGUF file.
type gguf struct{ bytes.Buffer }

func newGGUF(version uint32, tensors, pairs uint64) *gguf {
	g := new(gguf)
	g.WriteString("GGUF")
	g.u32(version)
	g.u64(tensors)
	g.u64(pairs)
	return g
}

func (g *gguf) u32(v uint32) { g.Write(le.AppendUint32(nil, v)) }
func (g *gguf) u64(v uint64) { g.Write(le.AppendUint64(nil, v)) }
func (g *gguf) str(s string) { g.u64(uint64(len(s))); g.WriteString(s) }

func (g *gguf) pair(key string, kind uint32, value ...byte) *gguf {
	g.str(key)
	g.u32(kind)
	g.Write(value)
	return g
}

func (g *gguf) strings(key string, values ...string) *gguf {
	g.pair(key, ggufArray)
	g.u32(ggufString)
	g.u64(uint64(len(values)))
	for _, v := range values {
		g.str(v)
	}
	return g
}

func (g *gguf) tensor(name string, kind uint32, offset uint64, dims ...uint64) *gguf {
	g.str(name)
	g.u32(uint32(len(dims)))
	for _, d := range dims {
		g.u64(d)
	}
	g.u32(kind)
	g.u64(offset)
	return g
}

// file pads the header to alignment and appends n bytes of data.
func (g *gguf) file(alignment, n int) []byte {
	g.Write(make([]byte, (alignment-g.Len()%alignment)%alignment+n))
	return g.Bytes()
}

func sampleGGUF() []byte {
	g := newGGUF(3, 3, 9).
		pair("general.alignment", ggufUint32, 64, 0, 0, 0).
		pair("general.architecture", ggufString, append(le.AppendUint64(nil, 5), "llama"...)...).
		pair("a.u8", ggufUint8, 200).
		pair("a.i8", ggufInt8, 255).
		pair("a.f32", ggufFloat32, le.AppendUint32(nil, math.Float32bits(0.5))...).
		pair("a.nan", ggufFloat64, le.AppendUint64(nil, math.Float64bits(math.NaN()))...).
		pair("a.bool", ggufBool, 1).
		strings("tags", "x", "\xff").
		strings("tokens", make([]string, ggufMaxArray+1)...)
	return g.tensor("w", 12, 64, 256, 3). // Q4_K
						tensor("b", 0, 0, 4).
						tensor("s", 30, 512).
						file(64, 514)
}

func TestReadsSafetensors(t *testing.T) {
	header := `{"__metadata__":{"format":"pt"},` +
		`"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},` +
		`"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},` +
		`"empty":{"dtype":"F8_E4M3","shape":[0,7],"data_offsets":[16,16]},` +
		`"later":{"dtype":"F3_NEW","shape":[8],"data_offsets":[16,19]}}   `
	file := safetensors(header, 20)
	h, err := Read("dir/model.SafeTensors", bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	at := int64(8 + len(header))
	want := &Header{
		Format: "safetensors",
		Tensors: []Tensor{
			{"a", "F32", []int64{}, at, 4},
			{"b", "BF16", []int64{2, 3}, at + 4, 12},
			{"empty", "F8_E4M3", []int64{0, 7}, at + 16, 0},
			{"later", "F3_NEW", []int64{8}, at + 16, 3},
		},
		Metadata: map[string]any{"format": "pt"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got  %+v\nwant %+v", h, want)
	}
}

func TestReadsGGUF(t *testing.T) {
	file := sampleGGUF()
	h, err := Read("sha256-0123", bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	at := int64(len(file) - 514)
	want := &Header{
		Format: "gguf",
		Tensors: []Tensor{
			{"b", "F32", []int64{4}, at, 16},
			{"w", "Q4_K", []int64{3, 256}, at + 64, 3 * 144},
			{"s", "BF16", []int64{}, at + 512, 2},
		},
		Metadata: map[string]any{
			"general.alignment": uint64(64), "general.architecture": "llama",
			"a.u8": uint64(200), "a.i8": int64(-1), "a.f32": 0.5, "a.bool": true,
			"tags": []any{"x", "\uFFFD"},
		},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got  %+v\nwant %+v", h, want)
	}
}

func TestRefusesBrokenSafetensors(t *testing.T) {
	tensor := func(dtype, shape, offsets string) string {
		return `{"a":{"dtype":"` + dtype + `","shape":` + shape + `,"data_offsets":` + offsets + `}}`
	}
	for name, file := range map[string][]byte{
		"empty":                  nil,
		"shorter than a length":  {1, 0, 0},
		"length beyond the file": le.AppendUint64(nil, 1),
		"length beyond the most": le.AppendUint64(nil, maxHeader+1),
		"length that overflows":  append(le.AppendUint64(nil, math.MaxUint64), "{}"...),
		"no header":              safetensors("", 0),
		"not JSON":               safetensors("hello", 0),
		"an array":               safetensors("[]", 0),
		"cut off":                safetensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}`, 1),
		"more after it":          safetensors(`{} {}`, 0),
		"zeros after it":         safetensors("{}\x00", 0),
		"not a tensor":           safetensors(`{"a":1}`, 0),
		"no dtype":               safetensors(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1),
		"no shape":               safetensors(`{"a":{"dtype":"U8","data_offsets":[0,1]}}`, 1),
		"one offset":             safetensors(tensor("U8", "[1]", "[0]"), 1),
		"three offsets":          safetensors(tensor("U8", "[1]", "[0,1,2]"), 2),
		"offset below zero":      safetensors(tensor("U8", "[1]", "[-1,0]"), 1),
		"offsets reversed":       safetensors(tensor("U8", "[1]", "[1,0]"), 1),
		"beyond the file":        safetensors(tensor("U8", "[2]", "[0,2]"), 1),
		"offset that overflows":  safetensors(tensor("U8", "[0]", "[9223372036854775807,9223372036854775807]"), 1),
		"fraction":               safetensors(tensor("U8", "[1.5]", "[0,1]"), 1),
		"dimension below zero":   safetensors(tensor("U8", "[-1,-1]", "[0,1]"), 1),
		"shape that overflows":   safetensors(tensor("U8", "[4294967296,4294967296]", "[0,0]"), 1),
		"endless name":           safetensors(`{"`+strings.Repeat("a", maxName+1)+`":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
		"endless dtype":          safetensors(tensor(strings.Repeat("U", maxName+1), "[1]", "[0,1]"), 1),
		"too many dimensions":    safetensors(tensor("U8", "["+strings.Repeat("1,", MaxDims)+"1]", "[0,1]"), 1),
		"size not the shape's":   safetensors(tensor("BF16", "[2]", "[0,3]"), 3),
		"half a byte":            safetensors(tensor("F4", "[3]", "[0,1]"), 1),
		"same name twice":        safetensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2),
		"overlap":                safetensors(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3),
		"metadata not strings":   safetensors(`{"__metadata__":{"a":1}}`, 0),
		"metadata twice":         safetensors(`{"__metadata__":{},"__metadata__":{}}`, 0),
		"deep":                   safetensors(`{"a":`+strings.Repeat("[", 1<<20), 0),
	} {
		refuse(t, name, "x.safetensors", file)
	}
}

func TestRefusesBrokenGGUF(t *testing.T) {
	sample := sampleGGUF()
	for n := range sample {
		refuse(t, "cut off", "x.gguf", sample[:n])
	}
	one := func(kind uint32, offset uint64, dims ...uint64) []byte {
		return newGGUF(3, 1, 0).tensor("a", kind, offset, dims...).file(32, 64)
	}
	align := func(v ...byte) []byte {
		return newGGUF(3, 0, 1).pair("general.alignment", ggufUint32, v...).file(32, 64)
	}
	nested := newGGUF(3, 0, 1).pair("a", ggufArray)
	for range ggufMaxDepth + 1 {
		nested.u32(ggufArray)
		nested.u64(1)
	}
	for name, file := range map[string][]byte{
		"other magic":             []byte("GGML\x03\x00\x00\x00"),
		"version 1":               newGGUF(1, 0, 0).file(32, 32),
		"big endian":              newGGUF(3<<24, 0, 0).file(32, 32),
		"too many tensors":        newGGUF(3, math.MaxUint64, 0).file(32, 32),
		"too many keys":           newGGUF(3, 0, math.MaxUint64).file(32, 32),
		"long key":                newGGUF(3, 0, 1).pair(strings.Repeat("k", ggufMaxKey+1), ggufUint8, 0).file(32, 32),
		"value of unknown type":   newGGUF(3, 0, 1).pair("a", 13).file(32, 32),
		"array of unknown type":   newGGUF(3, 0, 1).pair("a", ggufArray, append(le.AppendUint32(nil, 13), 100, 0, 0, 0, 0, 0, 0, 0)...).file(32, 32),
		"endless array":           newGGUF(3, 0, 1).pair("a", ggufArray, append(make([]byte, 4), bytes.Repeat([]byte{255}, 8)...)...).file(32, 32),
		"endless string":          newGGUF(3, 0, 1).pair("a", ggufString, bytes.Repeat([]byte{255}, 8)...).file(32, 32),
		"deep arrays":             nested.file(32, 32),
		"key twice":               newGGUF(3, 0, 2).pair("a", ggufUint8, 1).pair("a", ggufUint8, 1).file(32, 32),
		"alignment 0":             align(0, 0, 0, 0),
		"alignment 3":             align(3, 0, 0, 0),
		"alignment huge":          align(0, 0, 0, 128),
		"alignment of other type": newGGUF(3, 0, 1).pair("general.alignment", ggufUint8, 32).file(32, 64),
		"unknown ggml type":       one(4, 0, 1),
		"dimensions":              one(0, 0, make([]uint64, MaxDims+1)...),
		"dimension below zero":    one(0, 0, math.MaxUint64),
		"shape that overflows":    one(0, 0, 1<<32, 1<<32),
		"size that overflows":     one(0, 0, 1<<62),
		"row of half a block":     one(2, 0, 16, 2),
		"scalar of blocks":        one(2, 0),
		"offset not aligned":      one(0, 16, 4),
		"offset beyond the file":  one(0, 128, 4),
		"offset that overflows":   one(0, math.MaxInt64-31, 4),
		"offset below zero":       one(0, math.MaxUint64-31, 4),
		"beyond the file":         one(0, 32, 9),
		"name not UTF-8":          newGGUF(3, 1, 0).tensor("\xff", 0, 0, 1).file(32, 64),
		"name twice":              newGGUF(3, 2, 0).tensor("a", 0, 0, 1).tensor("a", 0, 32, 1).file(32, 64),
		"overlap":                 newGGUF(3, 2, 0).tensor("a", 0, 0, 9).tensor("b", 0, 32, 1).file(32, 64),
	} {
		refuse(t, name, "x.gguf", file)
	}
}

func refuse(t *testing.T, what, name string, file []byte) {
	t.Helper()
	if h, err := Read(name, bytes.NewReader(file), int64(len(file))); !errors.Is(err, ErrNotTensor) {
		t.Errorf("%s: got %+v, %v", what, h, err)
	}
}

func TestOtherFilesAreNotTensorFiles(t *testing.T) {
	refuse(t, "text", "config.json", []byte(`{"a": 1}`))
	refuse(t, "GGUF by name only", "a.gguf", []byte("hello, this is no GGUF file"))
	file := safetensors("{}", 0)
	refuse(t, "safetensors by another name", "a.bin", file)
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestErrorsOfTheReaderAreTold(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, name := range []string{"a.safetensors", "a.gguf"} {
		if _, err := Read(name, failing{broken}, 1000); !errors.Is(err, broken) || errors.Is(err, ErrNotTensor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read("a.safetensors", failing{io.EOF}, 1000); !errors.Is(err, ErrNotTensor) {
		t.Errorf("a file that has shrunk: %v", err)
	}
}

func TestParams(t *testing.T) {
	for _, c := range []struct {
		shape []int64
		want  int64
	}{
		{nil, 1},
		{[]int64{3, 4}, 12},
		{[]int64{1 << 62, 0}, 0},
		{[]int64{0, 1 << 62, 1 << 62}, math.MaxInt64},
		{[]int64{1 << 32, 1 << 31}, math.MaxInt64},
		{[]int64{-1}, math.MaxInt64},
	} {
		if got := (Tensor{Shape: c.shape}).Params(); got != c.want {
			t.Errorf("%v: got %d, want %d", c.shape, got, c.want)
		}
	}
}

// check holds what Read promises of any file.
func check(t *testing.T, name string, file []byte) {
	h, err := Read(name, bytes.NewReader(file), int64(len(file)))
	if err != nil {
		if h != nil || !errors.Is(err, ErrNotTensor) {
			t.Fatalf("%v, %v", h, err)
		}
		return
	}
	var end int64
	names := map[string]bool{}
	for _, x := range h.Tensors {
		if x.Offset < end || x.Size < 0 || x.Size > int64(len(file))-x.Offset || x.DType == "" || x.Shape == nil || names[x.Name] {
			t.Fatalf("%+v after %d in %d", x, end, len(file))
		}
		names[x.Name] = true
		end = x.Offset + x.Size
		x.Params()
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(safetensors(`{"__metadata__":{"k":"v"},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}`, 8))
	f.Add(safetensors(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3))
	f.Add(safetensors(`{}`, 0))
	f.Fuzz(func(t *testing.T, file []byte) { check(t, "x.safetensors", file) })
}

func FuzzGGUF(f *testing.F) {
	f.Add(sampleGGUF())
	f.Add(newGGUF(2, 0, 0).file(32, 0))
	f.Add(newGGUF(3, 2, 0).tensor("a", 0, 0, 9).tensor("b", 0, 32, 1).file(32, 64))
	f.Fuzz(func(t *testing.T, file []byte) { check(t, "x.gguf", file) })
}
