package tensor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// safetensorsBits is the size in bits of an element of each dtype
// (safetensors/src/tensor.rs). A dtype that is not listed is taken at the
// size its offsets say.
var safetensorsBits = map[string]int64{
	"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}

// readSafetensors reads a header as
// https://github.com/huggingface/safetensors#format has it. Gaps between
// tensors, which that page forbids, do no harm here.
func readSafetensors(in io.Reader, size int64) (*Header, error) {
	var b [8]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return nil, fmt.Errorf("no header length: %w", err)
	}
	length := le.Uint64(b[:])
	if length > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes: at most %d are read", length, maxHeader)
	}
	start := int64(8 + length)
	if start > size {
		return nil, fmt.Errorf("a header of %d bytes in a file of %d", length, size)
	}
	dec := json.NewDecoder(io.LimitReader(in, int64(length)))
	h := &Header{Format: "safetensors", Metadata: map[string]any{}}
	if err := expect(dec, json.Delim('{')); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key := token.(string) // as the decoder guarantees of an object's keys
		if seen[key] {
			return nil, fmt.Errorf("%q occurs twice", key)
		}
		seen[key] = true
		if key == "__metadata__" {
			m := map[string]string{}
			if err := dec.Decode(&m); err != nil {
				return nil, fmt.Errorf("__metadata__: %w", err)
			}
			for k, v := range m {
				h.Metadata[k] = v
			}
			continue
		}
		if len(h.Tensors) == maxTensors {
			return nil, fmt.Errorf("more than %d tensors", maxTensors)
		}
		if len(key) > maxName {
			return nil, fmt.Errorf("a tensor's name of %d bytes", len(key))
		}
		t, err := decodeSafetensor(dec, start)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", key, err)
		}
		t.Name = key
		h.Tensors = append(h.Tensors, t)
	}
	if err := expect(dec, json.Delim('}')); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the header's object")
	}
	return h, settle(h.Tensors, start, size)
}

// expect takes the token want.
func expect(dec *json.Decoder, want json.Delim) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("found %v instead of %v", t, want)
	}
	return nil
}

// decodeSafetensor decodes the description of a tensor; offsets count from
// start.
func decodeSafetensor(dec *json.Decoder, start int64) (Tensor, error) {
	var d struct {
		DType   string  `json:"dtype"`
		Shape   []int64 `json:"shape"`
		Offsets []int64 `json:"data_offsets"`
	}
	if err := dec.Decode(&d); err != nil {
		return Tensor{}, err
	}
	if len(d.DType) > maxName {
		return Tensor{}, fmt.Errorf("a dtype of %d bytes", len(d.DType))
	}
	if d.DType == "" || d.Shape == nil || len(d.Offsets) != 2 {
		return Tensor{}, errors.New("no dtype, shape or data_offsets")
	}
	if len(d.Shape) > MaxDims {
		return Tensor{}, fmt.Errorf("%d dimensions", len(d.Shape))
	}
	from, to := d.Offsets[0], d.Offsets[1]
	if from < 0 || to < from || from > from+start {
		return Tensor{}, fmt.Errorf("data_offsets %v", d.Offsets)
	}
	n, ok := product(d.Shape)
	if !ok {
		return Tensor{}, fmt.Errorf("shape %v", d.Shape)
	}
	if bits, known := safetensorsBits[d.DType]; known {
		if want, ok := byteSize(n, 8, bits); !ok || want != to-from {
			return Tensor{}, fmt.Errorf("%d bytes do not make the shape %v of %s", to-from, d.Shape, d.DType)
		}
	}
	return Tensor{DType: d.DType, Shape: d.Shape, Offset: start + from, Size: to - from}, nil
}
