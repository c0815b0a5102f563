package frame

import (
	"encoding/binary"
	"math/bits"
)

// split applies f to src. dst is as long as src: the planes one after the
// other, then the bytes of src that do not make a whole element.
func split(dst, src []byte, f Filter) {
	n := len(src) / f.width()
	switch f {
	case BG2R:
		split2(dst[:n], dst[n:2*n], src)
	case BG4R:
		split4(dst[:n], dst[n:2*n], dst[2*n:3*n], dst[3*n:4*n], src)
	case BG8R:
		split8(dst, src, n)
	}
	copy(dst[n*f.width():], src[n*f.width():])
}

// join is the reverse of split.
func join(dst, src []byte, f Filter) {
	n := len(dst) / f.width()
	switch f {
	case BG2R:
		join2(dst, src[:n], src[n:2*n])
	case BG4R:
		join4(dst, src[:n], src[n:2*n], src[2*n:3*n], src[3*n:4*n])
	case BG8R:
		join8(dst, src, n)
	}
	copy(dst[n*f.width():], src[n*f.width():])
}

// unzip puts the even bytes of x into its lower half and the odd into its
// upper half.
func unzip(x uint64) uint64 {
	t := (x ^ x>>8) & 0x0000FF000000FF00
	x ^= t ^ t<<8
	t = (x ^ x>>16) & 0x00000000FFFF0000
	return x ^ t ^ t<<16
}

// zip is the reverse of unzip.
func zip(x uint64) uint64 {
	t := (x ^ x>>16) & 0x00000000FFFF0000
	x ^= t ^ t<<16
	t = (x ^ x>>8) & 0x0000FF000000FF00
	return x ^ t ^ t<<8
}

// rotl16 rotates each of four 16-bit lanes left by one bit; rotr16 right.
func rotl16(x uint64) uint64 {
	return x<<1&0xFFFEFFFEFFFEFFFE | x>>15&0x0001000100010001
}

func rotr16(x uint64) uint64 {
	return x>>1&0x7FFF7FFF7FFF7FFF | x<<15&0x8000800080008000
}

func split2(lo, hi, src []byte) {
	hi = hi[:len(lo)]
	for len(lo) >= 8 && len(hi) >= 8 && len(src) >= 16 {
		a := unzip(rotl16(binary.LittleEndian.Uint64(src)))
		b := unzip(rotl16(binary.LittleEndian.Uint64(src[8:])))
		binary.LittleEndian.PutUint64(lo, a&0xFFFFFFFF|b<<32)
		binary.LittleEndian.PutUint64(hi, a>>32|b&^0xFFFFFFFF)
		lo, hi, src = lo[8:], hi[8:], src[16:]
	}
	for i := range lo {
		v := bits.RotateLeft16(binary.LittleEndian.Uint16(src[2*i:]), 1)
		lo[i], hi[i] = byte(v), byte(v>>8)
	}
}

func join2(dst, lo, hi []byte) {
	hi = hi[:len(lo)]
	for len(lo) >= 8 && len(hi) >= 8 && len(dst) >= 16 {
		l, h := binary.LittleEndian.Uint64(lo), binary.LittleEndian.Uint64(hi)
		binary.LittleEndian.PutUint64(dst, rotr16(zip(l&0xFFFFFFFF|h<<32)))
		binary.LittleEndian.PutUint64(dst[8:], rotr16(zip(l>>32|h&^0xFFFFFFFF)))
		lo, hi, dst = lo[8:], hi[8:], dst[16:]
	}
	for i := range lo {
		v := bits.RotateLeft16(uint16(lo[i])|uint16(hi[i])<<8, -1)
		binary.LittleEndian.PutUint16(dst[2*i:], v)
	}
}

func split4(p0, p1, p2, p3, src []byte) {
	n := len(p0)
	p1, p2, p3, src = p1[:n], p2[:n], p3[:n], src[:4*n]
	for i := range p0 {
		v := rotateTop32(binary.LittleEndian.Uint32(src[4*i:]), 1)
		p0[i], p1[i], p2[i], p3[i] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
}

func join4(dst, p0, p1, p2, p3 []byte) {
	n := len(p0)
	p1, p2, p3, dst = p1[:n], p2[:n], p3[:n], dst[:4*n]
	for i := range p0 {
		v := uint32(p0[i]) | uint32(p1[i])<<8 | uint32(p2[i])<<16 | uint32(p3[i])<<24
		binary.LittleEndian.PutUint32(dst[4*i:], rotateTop32(v, -1))
	}
}

// rotateTop32 rotates the upper 16 bits of v left by k.
func rotateTop32(v uint32, k int) uint32 {
	return v&0xFFFF | uint32(bits.RotateLeft16(uint16(v>>16), k))<<16
}

func split8(dst, src []byte, n int) {
	for i := range n {
		v := rotateTop64(binary.LittleEndian.Uint64(src[8*i:]), 4)
		for p := range 8 {
			dst[p*n+i] = byte(v >> (8 * p))
		}
	}
}

func join8(dst, src []byte, n int) {
	for i := range n {
		var v uint64
		for p := range 8 {
			v |= uint64(src[p*n+i]) << (8 * p)
		}
		binary.LittleEndian.PutUint64(dst[8*i:], rotateTop64(v, -4))
	}
}

// rotateTop64 rotates the upper 16 bits of v left by k.
func rotateTop64(v uint64, k int) uint64 {
	return v&(1<<48-1) | uint64(bits.RotateLeft16(uint16(v>>48), k))<<48
}
