// Package tensor reads where the tensors of a model file lie, without reading
// the tensors: the headers of safetensors and GGUF files.
//
// A safetensors file is a length, a JSON object that names each tensor's
// dtype, shape and byte range, and the bytes. A GGUF file is a run of
// key-value pairs, a run of tensor descriptions, padding, and the bytes. Both
// become a [Header]: tensors by offset in the file, and what the file says
// about itself.
//
// Headers are foreign bytes. Whatever a file holds, the tensors of a Header
// lie inside it and do not overlap, and memory stays proportional to its
// header, of which at most 100 MB are read.
package tensor

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"path"
	"slices"
	"strings"
)

const (
	// maxHeader is the most bytes of a header that are read; it is the limit
	// of the safetensors reference reader.
	maxHeader = 100_000_000
	// maxTensors and maxName (in bytes) are far above what models have.
	maxTensors = 1 << 20
	maxName    = 64 << 10
)

// MaxDims is how many dimensions a tensor has at most; those of models have four.
const MaxDims = 16

// ErrNotTensor is returned for a file that is not a tensor file, or that is a
// broken one; the error then says in what way. Its bytes are as good as any
// other file's, only where its tensors lie is not known.
var ErrNotTensor = errors.New("not a tensor file")

// Tensor is one tensor of a file.
type Tensor struct {
	Name string `json:"name"`
	// DType is the element type under the name that the format gives it:
	// BF16, F8_E4M3, I8, … in safetensors, BF16, Q4_K, Q8_0, … in GGUF.
	DType string `json:"dtype"`
	// Shape is the length of each dimension, the slowest first, in elements. A
	// scalar has none. GGUF writes the fastest first; it is turned round.
	Shape []int64 `json:"shape"`
	// Offset is where the tensor begins, in bytes from the start of the file.
	Offset int64 `json:"offset"`
	// Size is its length in bytes.
	Size int64 `json:"size"`
}

// Params returns the number of the tensor's elements, at most MaxInt64.
func (t Tensor) Params() int64 {
	if n, ok := product(t.Shape); ok {
		return n
	}
	return math.MaxInt64
}

// Header is what a tensor file says about itself.
type Header struct {
	Format  string   // "safetensors" or "gguf"
	Tensors []Tensor // by offset; they do not overlap
	// Metadata holds strings for safetensors, and string, bool, int64, uint64,
	// float64 and []any of these for GGUF, where arrays of more than 64
	// elements (vocabularies), strings of more than 64 KiB and numbers that
	// are not finite are left out. Strings are valid UTF-8.
	Metadata map[string]any
}

// Read reads the header of the file of size bytes that r holds. A file is
// safetensors if name ends in .safetensors, and GGUF (version 2 or 3, little
// endian) if it begins with "GGUF", whatever its name. Anything else, and any
// of these whose header does not describe the file, is an [ErrNotTensor]; an
// error of r is returned as such.
func Read(name string, r io.ReaderAt, size int64) (*Header, error) {
	read := readGGUF
	if strings.EqualFold(path.Ext(name), ".safetensors") {
		read = readSafetensors
	}
	in := &input{Reader: io.NewSectionReader(r, 0, min(size, maxHeader+8))}
	h, err := read(in, size)
	if in.err != nil {
		return nil, fmt.Errorf("reading the header of %s: %w", name, in.err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrNotTensor, err)
	}
	return h, nil
}

// input remembers an error of the reader below, to tell it from an error in
// what was read.
type input struct {
	io.Reader
	err error
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
	}
	return n, err
}

// settle sorts tensors by offset and checks them against the file's data,
// which begins at start and ends at end.
func settle(ts []Tensor, start, end int64) error {
	slices.SortFunc(ts, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), strings.Compare(a.Name, b.Name))
	})
	for _, t := range ts {
		if t.Offset < start {
			return fmt.Errorf("tensor %q begins inside the header or another tensor", t.Name)
		}
		if t.Size < 0 || t.Offset > end || t.Size > end-t.Offset {
			return fmt.Errorf("tensor %q reaches beyond the end of the file", t.Name)
		}
		start = t.Offset + t.Size
	}
	return nil
}

// product multiplies dimensions. It reports false if one is negative or the
// product does not fit.
func product(shape []int64) (int64, bool) {
	n := uint64(1)
	zero := false
	for _, d := range shape {
		if d < 0 {
			return 0, false
		}
		if d == 0 {
			zero = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, false
		}
		n = lo
	}
	if zero {
		return 0, true
	}
	return int64(n), true
}

// byteSize returns the bytes of n elements that come in blocks of so many
// elements and bytes. It reports false if they make no whole number of bytes
// or do not fit.
func byteSize(n, elements, bytes int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(n), uint64(bytes))
	if hi >= uint64(elements) {
		return 0, false
	}
	q, rem := bits.Div64(hi, lo, uint64(elements))
	return int64(q), rem == 0 && q <= math.MaxInt64
}

var le = binary.LittleEndian
