package frame

import "encoding/binary"

// The parts of a zstd frame that this package writes and reads by itself;
// section numbers are those of RFC 8878.
const (
	magic       = 0xFD2FB528
	maxHeader   = 4 + 1 + 4 // magic number, descriptor, content size below 4 GiB
	blockHeader = 3
	maxBlock    = 128 << 10 // Block_Maximum_Size (3.1.1.2.4)

	rawBlock        = 0
	rleBlock        = 1
	compressedBlock = 2

	compressedLiterals = 2
	treelessLiterals   = 3

	// minHuffman is the smallest run of bytes put into a Huffman block: from
	// here on literals come as four streams.
	minHuffman = 1 << 10
)

// appendHeader appends the header of a frame of n bytes: single segment, with
// content size, without checksum or dictionary (3.1.1.1).
func appendHeader(dst []byte, n int) []byte {
	const single = 1 << 5
	dst = binary.LittleEndian.AppendUint32(dst, magic)
	switch {
	case n < 256:
		return append(dst, single, byte(n))
	case n < 65536+256:
		return binary.LittleEndian.AppendUint16(append(dst, single|1<<6), uint16(n-256))
	}
	return binary.LittleEndian.AppendUint32(append(dst, single|2<<6), uint32(n))
}

// parseHeader reads what appendHeader writes, and no other header. It returns
// the content size and what follows the header.
func parseHeader(src []byte) (n int, rest []byte, ok bool) {
	if len(src) < 6 || binary.LittleEndian.Uint32(src) != magic {
		return 0, nil, false
	}
	const single = 1 << 5
	descriptor, src := src[4], src[5:]
	switch {
	case descriptor == single:
		return int(src[0]), src[1:], true
	case descriptor == single|1<<6 && len(src) >= 2:
		return int(binary.LittleEndian.Uint16(src)) + 256, src[2:], true
	case descriptor == single|2<<6 && len(src) >= 4:
		size := binary.LittleEndian.Uint32(src)
		return int(min(size, MaxChunk+1)), src[4:], true
	}
	return 0, nil, false
}

// appendBlockHeader appends a block's header (3.1.1.2).
func appendBlockHeader(dst []byte, last bool, kind, size int) []byte {
	h := size<<3 | kind<<1
	if last {
		h |= 1
	}
	return append(dst, byte(h), byte(h>>8), byte(h>>16))
}

// appendRaw appends a frame that holds p in raw blocks.
func appendRaw(dst, p []byte) []byte {
	dst = appendHeader(dst, len(p))
	for len(p) > maxBlock {
		dst = append(appendBlockHeader(dst, false, rawBlock, maxBlock), p[:maxBlock]...)
		p = p[maxBlock:]
	}
	return append(appendBlockHeader(dst, true, rawBlock, len(p)), p...)
}

// appendRLE appends a frame of n times the byte b.
func appendRLE(dst []byte, b byte, n int) []byte {
	dst = appendHeader(dst, n)
	for ; n > maxBlock; n -= maxBlock {
		dst = append(appendBlockHeader(dst, false, rleBlock, maxBlock), b)
	}
	return append(appendBlockHeader(dst, true, rleBlock, n), b)
}

// rawSize returns the size of the frame that appendRaw appends for n bytes.
func rawSize(n int) int {
	blocks := max(1, (n+maxBlock-1)/maxBlock)
	header := maxHeader
	if n < 256 {
		header -= 3
	} else if n < 65536+256 {
		header -= 2
	}
	return header + blocks*blockHeader + n
}

// appendHuffman appends a frame that holds p, not all bytes of it the same, in
// blocks of Huffman-coded literals with no sequence (3.1.1.3.1), or raw or RLE
// blocks where that is smaller. The blocks are of equal size, so that the last
// is not a tiny one.
//
// The first table is made for the whole of p, and used for all blocks that it
// suits; any other gets its own, which those after it try in turn.
func appendHuffman(dst, p []byte, h *huffEncoder) []byte {
	dst = appendHeader(dst, len(p))
	blocks := (len(p) + maxBlock - 1) / maxBlock
	size := (len(p) + blocks - 1) / blocks
	h.begin(p, size)
	var buf [5]byte
	for i := range blocks {
		b := p[:min(size, len(p))]
		p = p[len(b):]
		last := len(p) == 0
		switch {
		case len(b) < minHuffman:
			dst = append(appendBlockHeader(dst, last, rawBlock, len(b)), b...)
			continue
		case constant(b):
			dst = append(appendBlockHeader(dst, last, rleBlock, len(b)), b[0])
			continue
		}
		table, streams := h.block(b, i)
		n := len(table) + len(streams)
		// A block must shrink by 1/32, or decoding it is not worth the while.
		if streams == nil || n >= len(b)-len(b)/32 {
			dst = append(appendBlockHeader(dst, last, rawBlock, len(b)), b...)
			continue
		}
		head := appendLiteralsHeader(buf[:0], len(table) == 0, len(b), n)
		dst = appendBlockHeader(dst, last, compressedBlock, len(head)+n+1)
		dst = append(dst, head...)
		dst = append(dst, table...)
		dst = append(dst, streams...)
		dst = append(dst, 0) // Number_of_Sequences
		h.described = true
	}
	return dst
}

// appendLiteralsHeader appends the header of a literals section of four
// Huffman-coded streams (3.1.1.3.1.1).
func appendLiteralsHeader(dst []byte, treeless bool, regenerated, compressed int) []byte {
	kind := uint64(compressedLiterals)
	if treeless {
		kind = treelessLiterals
	}
	if regenerated < 1<<14 {
		return binary.LittleEndian.AppendUint32(dst, uint32(kind|2<<2|uint64(regenerated)<<4|uint64(compressed)<<18))
	}
	v := kind | 3<<2 | uint64(regenerated)<<4 | uint64(compressed)<<22
	return append(binary.LittleEndian.AppendUint32(dst, uint32(v)), byte(v>>32))
}

// literals is a parsed literals section of four Huffman-coded streams that is
// followed by no sequence.
type literals struct {
	treeless    bool
	regenerated int
	data        []byte // tree, unless treeless, and streams
}

// parseLiterals reads the content of a compressed block. It reports false for
// any block that appendHuffman does not write.
func parseLiterals(b []byte) (l literals, ok bool) {
	if len(b) < 5 {
		return l, false
	}
	kind := b[0] & 3
	if kind != compressedLiterals && kind != treelessLiterals {
		return l, false
	}
	var compressed int
	switch b[0] >> 2 & 3 {
	case 1:
		v := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		l.regenerated, compressed, b = v>>4&(1<<10-1), v>>14, b[3:]
	case 2:
		v := int(binary.LittleEndian.Uint32(b))
		l.regenerated, compressed, b = v>>4&(1<<14-1), v>>18&(1<<14-1), b[4:]
	case 3:
		v := int64(binary.LittleEndian.Uint32(b)) | int64(b[4])<<32
		l.regenerated, compressed, b = int(v>>4&(1<<18-1)), int(v>>22), b[5:]
	default:
		return l, false // a single stream
	}
	if len(b) != compressed+1 || b[compressed] != 0 {
		return l, false
	}
	l.treeless, l.data = kind == treelessLiterals, b[:compressed]
	return l, true
}

// parseBlockHeader is the reverse of appendBlockHeader.
func parseBlockHeader(b []byte) (last bool, kind, size int) {
	h := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	return h&1 != 0, h >> 1 & 3, h >> 3
}
