// Package frame turns a chunk into zstd frames and back.
//
//	chunk ──filter──▶ planes ──choice──▶ raw | RLE | Huffman | zstd blocks ──▶ frames
//	chunk ◀─────────────────── planes ◀───────────────────────────────────── frames
//
// The encoding of a chunk is one or more standard zstd frames (RFC 8878), one
// after the other, so any zstd decoder gives back the filtered bytes. Each
// frame is of a single segment, states its content size, and has neither
// checksum nor dictionary.
//
// A [Filter] regroups the bytes of floating-point elements into planes, one
// for each byte of an element, so that the exponents, which are alike, lie
// together, apart from the mantissas, which are noise. What an [Encoder] does
// with each plane is decided on a sample: noise is stored in raw blocks at
// memory speed, exponents in blocks of Huffman-coded literals without a
// sequence, and where there are repeats the ordinary zstd encoder does it.
//
// What the caller knows of a chunk's bytes comes as an [Element]. The same
// chunk, element and level give the same frames on every machine.
package frame

import (
	"errors"
	"fmt"
)

// MaxChunk is the largest chunk, in bytes.
const MaxChunk = 1 << 20

// ErrCorrupt says that an encoding is not what an [Encoder] could have made
// of a chunk of the wanted size.
var ErrCorrupt = errors.New("corrupt frames")

// Element is what the caller claims the bytes of a chunk are. A wrong claim
// costs ratio, never correctness.
type Element uint8

const (
	Bytes  Element = iota // text or unknown: ordinary zstd
	Opaque                // quantised or already compressed: stored unless a sample shrinks
	BF16                  // bfloat16, little-endian
	F16                   // IEEE 754 binary16, little-endian
	F32                   // IEEE 754 binary32, little-endian
	F64                   // IEEE 754 binary64, little-endian
	F8                    // any float of 8 bits
)

// Filter is what was done to a chunk before compression. The zero value is
// None.
type Filter uint8

const (
	// None leaves the chunk as it is.
	None Filter = iota
	// BG2R takes little-endian elements of 2 bytes, rotates each left by one
	// bit, so that the sign is the lowest bit and, of a bfloat16, the upper
	// byte is the exponent, and stores all lower bytes, then all upper bytes.
	BG2R
	// BG4R takes little-endian elements of 4 bytes, rotates the upper 16 bits
	// of each left by one bit, and stores four planes, the lowest bytes first.
	BG4R
	// BG8R takes little-endian elements of 8 bytes, rotates the upper 16 bits
	// of each left by four bits, so that the top byte is the lower 8 bits of
	// the exponent, and stores eight planes, the lowest bytes first.
	BG8R
)

var filterNames = [...]string{None: "", BG2R: "bg2r", BG4R: "bg4r", BG8R: "bg8r"}

// String returns the filter's name in an index; that of None is empty.
func (f Filter) String() string {
	if int(f) >= len(filterNames) {
		return fmt.Sprintf("filter %d", uint8(f))
	}
	return filterNames[f]
}

// ParseFilter is the reverse of [Filter.String]. An unknown name is an error:
// the chunk was written by a later version.
func ParseFilter(s string) (Filter, error) {
	for f, name := range filterNames {
		if s == name {
			return Filter(f), nil
		}
	}
	return None, fmt.Errorf("unknown chunk filter %q: a newer mpack is needed to read it", s)
}

// width is the size of a filter's elements, in bytes.
func (f Filter) width() int {
	switch f {
	case BG2R:
		return 2
	case BG4R:
		return 4
	case BG8R:
		return 8
	}
	return 1
}

// Level is how hard the ordinary zstd encoder works: 1 (fastest) to 4 (best);
// 0 is the default, [DefaultLevel].
type Level int

// DefaultLevel was settled by measurement; see SPEC.md.
const DefaultLevel Level = 2

// Bound returns the most bytes that [Encoder.Encode] appends for a chunk of n
// bytes.
func Bound(n int) int {
	const frames = 8 // at most one for each byte of the widest element
	return n + frames*(maxHeader+blockHeader) + n/maxBlock*blockHeader
}
