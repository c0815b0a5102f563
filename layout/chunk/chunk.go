// Package chunk says where files are cut.
//
// Files whose tensors are known are cut at tensor boundaries and, inside a
// tensor, at fixed steps from its start ([Tensors]): tensors do not shift
// inside themselves, so a tensor that stays the same is the same chunks
// wherever it moves in its file. All other bytes are cut where their content
// says so ([Cut]), so that an insertion moves the cuts near it and no others.
//
// Where a chunk ends is part of the format: the same bytes are cut alike by
// every version, or nothing is found again. The vectors in testdata hold it.
package chunk

import (
	"crypto/sha256"
	"encoding/binary"
)

// Sizes of chunks, in bytes.
const (
	// Min is the least size of a content-defined chunk, the last of a run
	// aside, and the size up to which small tensors are put together.
	Min = 64 << 10
	// Avg is about the mean size of content-defined chunks.
	Avg = 256 << 10
	// Max is the most of any chunk, and the step inside a tensor.
	Max = 1 << 20
)

// Content-defined cutting is FastCDC (Xia et al., USENIX ATC 2016, and the
// 2020 revision, IEEE TPDS 31(9), from where the two bytes a step are) with
// its gear hash: for each byte the hash is doubled and the byte's gear added.
// A chunk ends after the first byte past Min that leaves the upper strictBits
// bits of the hash zero, past easy the upper easyBits. The hash starts at zero
// window bytes before Min, the number of bytes that its value depends on, so
// where a chunk ends depends on no byte before its own.
const (
	window     = 64
	easy       = 208 << 10 // makes the mean Avg
	strictBits = 20
	easyBits   = 16
)

// gear is the number of each byte: the first 8 bytes, big-endian, of the
// SHA-256 of the byte.
var gear = func() (g [256]uint64) {
	for i := range g {
		sum := sha256.Sum256([]byte{byte(i)})
		g[i] = binary.BigEndian.Uint64(sum[:])
	}
	return g
}()

// Cut returns the length of the first chunk of data, which is a run of bytes
// of which at least Max are given unless it is shorter: it is at most
// len(data) and Max, and at least Min unless data is shorter.
func Cut(data []byte) int {
	if len(data) <= Min {
		return len(data)
	}
	data = data[:min(len(data), Max)]
	var h uint64
	for _, b := range data[Min-window : Min] {
		h = h<<1 + gear[b]
	}
	n := min(len(data), easy)
	at, h := scan(data[Min:n], h, 1<<(64-strictBits))
	if at > 0 {
		return Min + at
	}
	if at, _ = scan(data[n:], h, 1<<(64-easyBits)); at > 0 {
		return n + at
	}
	return len(data)
}

// scan rolls the hash h over p and returns the number of bytes after which it
// is first below limit, 0 if it never is, and the hash.
func scan(p []byte, h, limit uint64) (int, uint64) {
	i := 0
	for ; i+8 <= len(p); i += 8 {
		w := binary.LittleEndian.Uint64(p[i:])
		// Two bytes a step: h takes one shift and one addition for both.
		g := gear[byte(w)]
		odd := h<<1 + g
		h = h<<2 + (g<<1 + gear[byte(w>>8)])
		if odd < limit {
			return i + 1, odd
		}
		if h < limit {
			return i + 2, h
		}
		g = gear[byte(w>>16)]
		odd = h<<1 + g
		h = h<<2 + (g<<1 + gear[byte(w>>24)])
		if odd < limit {
			return i + 3, odd
		}
		if h < limit {
			return i + 4, h
		}
		g = gear[byte(w>>32)]
		odd = h<<1 + g
		h = h<<2 + (g<<1 + gear[byte(w>>40)])
		if odd < limit {
			return i + 5, odd
		}
		if h < limit {
			return i + 6, h
		}
		g = gear[byte(w>>48)]
		odd = h<<1 + g
		h = h<<2 + (g<<1 + gear[byte(w>>56)])
		if odd < limit {
			return i + 7, odd
		}
		if h < limit {
			return i + 8, h
		}
	}
	for ; i < len(p); i++ {
		if h = h<<1 + gear[p[i]]; h < limit {
			return i + 1, h
		}
	}
	return 0, h
}
