package tensor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	ggufMaxPairs     = 1 << 16
	ggufMaxKey       = 1 << 16
	ggufMaxString    = 64 << 10 // kept of metadata
	ggufMaxArray     = 64       // kept of metadata
	ggufMaxDepth     = 4        // of arrays in arrays
	ggufMaxAlignment = 1 << 20
)

// Types of metadata values (enum gguf_metadata_value_type).
const (
	ggufUint8 = iota
	ggufInt8
	ggufUint16
	ggufInt16
	ggufUint32
	ggufInt32
	ggufFloat32
	ggufBool
	ggufString
	ggufArray
	ggufUint64
	ggufInt64
	ggufFloat64
)

// ggmlType is an element type: elements come in blocks of so many bytes.
type ggmlType struct {
	name            string
	elements, bytes int64
}

// ggmlTypes are the types by their numbers (enum ggml_type in ggml.h, sizes
// as in gguf-py's GGML_QUANT_SIZES). Numbers that ggml no longer uses are left
// out.
var ggmlTypes = map[uint32]ggmlType{
	0:  {"F32", 1, 4},
	1:  {"F16", 1, 2},
	2:  {"Q4_0", 32, 18},
	3:  {"Q4_1", 32, 20},
	6:  {"Q5_0", 32, 22},
	7:  {"Q5_1", 32, 24},
	8:  {"Q8_0", 32, 34},
	9:  {"Q8_1", 32, 36},
	10: {"Q2_K", 256, 84},
	11: {"Q3_K", 256, 110},
	12: {"Q4_K", 256, 144},
	13: {"Q5_K", 256, 176},
	14: {"Q6_K", 256, 210},
	15: {"Q8_K", 256, 292},
	16: {"IQ2_XXS", 256, 66},
	17: {"IQ2_XS", 256, 74},
	18: {"IQ3_XXS", 256, 98},
	19: {"IQ1_S", 256, 50},
	20: {"IQ4_NL", 32, 18},
	21: {"IQ3_S", 256, 110},
	22: {"IQ2_S", 256, 82},
	23: {"IQ4_XS", 256, 136},
	24: {"I8", 1, 1},
	25: {"I16", 1, 2},
	26: {"I32", 1, 4},
	27: {"I64", 1, 8},
	28: {"F64", 1, 8},
	29: {"IQ1_M", 256, 56},
	30: {"BF16", 1, 2},
	34: {"TQ1_0", 256, 54},
	35: {"TQ2_0", 256, 66},
	39: {"MXFP4", 32, 17},
	40: {"NVFP4", 64, 36},
	41: {"Q1_0", 128, 18},
}

// readGGUF reads a header as docs/gguf.md of github.com/ggml-org/ggml has it.
func readGGUF(in io.Reader, size int64) (*Header, error) {
	r := &ggufReader{in: bufio.NewReaderSize(in, 64<<10)}
	if r.u32() != 0x46554747 {
		return nil, errors.New("neither .safetensors by its name nor GGUF by its first bytes")
	}
	if v := r.u32(); v != 2 && v != 3 {
		return nil, fmt.Errorf("GGUF version %d, or a big-endian file: 2 and 3 are read, little-endian", v)
	}
	tensors, pairs := r.u64(), r.u64()
	if tensors > maxTensors || pairs > ggufMaxPairs {
		return nil, fmt.Errorf("%d tensors and %d metadata keys: at most %d and %d are read", tensors, pairs, maxTensors, ggufMaxPairs)
	}
	h := &Header{Format: "gguf", Metadata: map[string]any{}}
	alignment := int64(32)
	keys := map[string]bool{}
	for range pairs {
		key := r.str(ggufMaxKey)
		kind := r.u32()
		v := r.value(kind, 0)
		if r.err != nil {
			return nil, fmt.Errorf("metadata: %w", r.err)
		}
		if keys[key] {
			return nil, fmt.Errorf("metadata: %q occurs twice", key)
		}
		keys[key] = true
		if key == "general.alignment" {
			a, ok := v.(uint64)
			if !ok || kind != ggufUint32 || a == 0 || a > ggufMaxAlignment || a&(a-1) != 0 {
				return nil, fmt.Errorf("general.alignment: %v", v)
			}
			alignment = int64(a)
		}
		if v != nil {
			h.Metadata[strings.ToValidUTF8(key, "\uFFFD")] = v
		}
	}
	names := map[string]bool{}
	for range tensors {
		t, err := r.tensor()
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if names[t.Name] {
			return nil, fmt.Errorf("tensor %q occurs twice", t.Name)
		}
		names[t.Name] = true
		if t.Offset%alignment != 0 {
			return nil, fmt.Errorf("tensor %q: offset %d is no multiple of %d", t.Name, t.Offset, alignment)
		}
		h.Tensors = append(h.Tensors, t)
	}
	if r.err != nil {
		return nil, r.err
	}
	start := (r.pos + alignment - 1) &^ (alignment - 1)
	for i := range h.Tensors {
		t := &h.Tensors[i]
		if t.Offset > size { // before it is added to
			return nil, fmt.Errorf("tensor %q reaches beyond the end of the file", t.Name)
		}
		t.Offset += start
	}
	return h, settle(h.Tensors, start, size)
}

// ggufReader reads the parts of a header. After its first error it reads
// zeros.
type ggufReader struct {
	in  *bufio.Reader
	pos int64
	err error
	buf [8]byte
}

// take reads n bytes, at most 8, as a little-endian number.
func (r *ggufReader) take(n int) uint64 {
	if r.err != nil {
		return 0
	}
	r.buf = [8]byte{}
	if _, err := io.ReadFull(r.in, r.buf[:n]); err != nil {
		r.err = fmt.Errorf("header cut off at byte %d: %w", r.pos, err)
		return 0
	}
	r.pos += int64(n)
	return le.Uint64(r.buf[:])
}

func (r *ggufReader) u32() uint32 { return uint32(r.take(4)) }
func (r *ggufReader) u64() uint64 { return r.take(8) }

// skip passes n bytes over.
func (r *ggufReader) skip(n uint64) {
	if r.err != nil {
		return
	}
	if n > maxHeader {
		r.err = fmt.Errorf("%d bytes of metadata at byte %d", n, r.pos)
		return
	}
	if _, err := r.in.Discard(int(n)); err != nil {
		r.err = fmt.Errorf("header cut off at byte %d: %w", r.pos, err)
	}
	r.pos += int64(n)
}

// str reads a string of at most limit bytes.
func (r *ggufReader) str(limit uint64) string {
	n := r.u64()
	if n > limit && r.err == nil {
		r.err = fmt.Errorf("a string of %d bytes at byte %d", n, r.pos)
	}
	if r.err != nil {
		return ""
	}
	return r.bytes(int(n))
}

// bytes reads n bytes, at most 64 KiB.
func (r *ggufReader) bytes(n int) string {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		r.err = fmt.Errorf("header cut off at byte %d: %w", r.pos, err)
		return ""
	}
	r.pos += int64(n)
	return string(b)
}

// value reads a metadata value, nil if it is one that is not kept. depth is
// the number of arrays around it.
func (r *ggufReader) value(kind uint32, depth int) any {
	switch kind {
	case ggufUint8:
		return r.take(1)
	case ggufInt8:
		return int64(int8(r.take(1)))
	case ggufUint16:
		return r.take(2)
	case ggufInt16:
		return int64(int16(r.take(2)))
	case ggufUint32:
		return r.take(4)
	case ggufInt32:
		return int64(int32(r.take(4)))
	case ggufUint64:
		return r.take(8)
	case ggufInt64:
		return int64(r.take(8))
	case ggufFloat32:
		return finite(float64(math.Float32frombits(r.u32())))
	case ggufFloat64:
		return finite(math.Float64frombits(r.u64()))
	case ggufBool:
		return r.take(1) != 0
	case ggufString:
		n := r.u64()
		if n > ggufMaxString {
			r.skip(n)
			return nil
		}
		if r.err != nil {
			return nil
		}
		return strings.ToValidUTF8(r.bytes(int(n)), "\uFFFD")
	case ggufArray:
		return r.array(depth)
	}
	if r.err == nil {
		r.err = fmt.Errorf("a value of type %d at byte %d", kind, r.pos)
	}
	return nil
}

// array reads an array, nil if it is one that is not kept.
func (r *ggufReader) array(depth int) any {
	kind, n := r.u32(), r.u64()
	if depth >= ggufMaxDepth && r.err == nil {
		r.err = fmt.Errorf("arrays in arrays, more than %d deep, at byte %d", ggufMaxDepth, r.pos)
	}
	if n <= ggufMaxArray {
		vs := make([]any, 0, n)
		for range n {
			v := r.value(kind, depth+1)
			if r.err != nil {
				return nil
			}
			if v != nil {
				vs = append(vs, v)
			}
		}
		return vs
	}
	switch w := ggufWidth(kind); {
	case n > maxHeader:
		r.skip(n) // an error
	case w > 0:
		r.skip(n * w)
	default:
		for i := uint64(0); i < n && r.err == nil; i++ {
			if kind == ggufString {
				r.skip(r.u64())
			} else {
				r.value(kind, depth+1)
			}
		}
	}
	return nil
}

// ggufWidth returns the bytes of a value, 0 if they vary.
func ggufWidth(kind uint32) uint64 {
	switch kind {
	case ggufUint8, ggufInt8, ggufBool:
		return 1
	case ggufUint16, ggufInt16:
		return 2
	case ggufUint32, ggufInt32, ggufFloat32:
		return 4
	case ggufUint64, ggufInt64, ggufFloat64:
		return 8
	}
	return 0
}

// finite returns f, nil if JSON cannot hold it.
func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return f
}

// tensor reads the description of a tensor. Its offset counts from where the
// data begins.
func (r *ggufReader) tensor() (Tensor, error) {
	t := Tensor{Name: r.str(ggufMaxKey)}
	dims := r.u32()
	if r.err == nil && dims > MaxDims {
		return t, fmt.Errorf("%d dimensions", dims)
	}
	t.Shape = make([]int64, 0, min(dims, MaxDims))
	for range dims {
		t.Shape = append(t.Shape, int64(r.u64()))
		if r.err != nil {
			return t, r.err
		}
	}
	kind := r.u32()
	t.Offset = int64(r.u64())
	if r.err != nil {
		return t, r.err
	}
	g, ok := ggmlTypes[kind]
	if !ok {
		return t, fmt.Errorf("ggml type %d", kind)
	}
	t.DType = g.name
	n, ok := product(t.Shape)
	if !ok || t.Offset < 0 {
		return t, fmt.Errorf("shape %v at offset %d", t.Shape, t.Offset)
	}
	// Blocks do not cross rows.
	if len(t.Shape) > 0 && t.Shape[0]%g.elements != 0 || len(t.Shape) == 0 && g.elements != 1 {
		return t, fmt.Errorf("rows of %v elements are no whole blocks of %s", t.Shape, g.name)
	}
	if t.Size, ok = byteSize(n, g.elements, g.bytes); !ok {
		return t, fmt.Errorf("shape %v of %s", t.Shape, g.name)
	}
	if !utf8.ValidString(t.Name) {
		return t, errors.New("a name that is not UTF-8")
	}
	slices.Reverse(t.Shape)
	return t, nil
}
