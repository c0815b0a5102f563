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
	n := split2Fast(lo, hi, src)
	lo, hi, src = lo[n:], hi[n:len(lo)], src[2*n:]
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
	n := join2Fast(dst, lo, hi)
	lo, hi, dst = lo[n:], hi[n:len(lo)], dst[2*n:]
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
	i := 0
	var x [8]uint64
	for ; i+8 <= n; i += 8 {
		in := src[8*i : 8*i+64]
		for k := range x {
			x[k] = rotateTop64(binary.LittleEndian.Uint64(in[8*k:]), 4)
		}
		transpose(&x)
		for k, v := range x {
			binary.LittleEndian.PutUint64(dst[k*n+i:], v)
		}
	}
	for ; i < n; i++ {
		v := rotateTop64(binary.LittleEndian.Uint64(src[8*i:]), 4)
		for p := range 8 {
			dst[p*n+i] = byte(v >> (8 * p))
		}
	}
}

func join8(dst, src []byte, n int) {
	i := 0
	var x [8]uint64
	for ; i+8 <= n; i += 8 {
		for k := range x {
			x[k] = binary.LittleEndian.Uint64(src[k*n+i:])
		}
		transpose(&x)
		out := dst[8*i : 8*i+64]
		for k, v := range x {
			binary.LittleEndian.PutUint64(out[8*k:], rotateTop64(v, -4))
		}
	}
	for ; i < n; i++ {
		var v uint64
		for p := range 8 {
			v |= uint64(src[p*n+i]) << (8 * p)
		}
		binary.LittleEndian.PutUint64(dst[8*i:], rotateTop64(v, -4))
	}
}

// transpose swaps rows and columns of 8 by 8 bytes, a row being a word.
func transpose(x *[8]uint64) {
	const half, quarter, eighth = 0x00000000FFFFFFFF, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF
	a, e := exchange(x[0], x[4], 32, half)
	b, f := exchange(x[1], x[5], 32, half)
	c, g := exchange(x[2], x[6], 32, half)
	d, h := exchange(x[3], x[7], 32, half)
	a, c = exchange(a, c, 16, quarter)
	b, d = exchange(b, d, 16, quarter)
	e, g = exchange(e, g, 16, quarter)
	f, h = exchange(f, h, 16, quarter)
	x[0], x[1] = exchange(a, b, 8, eighth)
	x[2], x[3] = exchange(c, d, 8, eighth)
	x[4], x[5] = exchange(e, f, 8, eighth)
	x[6], x[7] = exchange(g, h, 8, eighth)
}

// exchange swaps, under mask, the bits of a moved down by k with those of b.
func exchange(a, b uint64, k int, mask uint64) (uint64, uint64) {
	t := (a>>k ^ b) & mask
	return a ^ t<<k, b ^ t
}

// rotateTop64 rotates the upper 16 bits of v left by k.
func rotateTop64(v uint64, k int) uint64 {
	return v&(1<<48-1) | uint64(bits.RotateLeft16(uint16(v>>48), k))<<48
}
