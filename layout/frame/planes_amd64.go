package frame

import "golang.org/x/sys/cpu"

// step is how many elements split2AVX2 and join2AVX2 take at a time.
const step = 32

// split2AVX2 splits n elements, a multiple of step and not 0.
//
//go:noescape
func split2AVX2(lo, hi, src *byte, n int)

// join2AVX2 is the reverse of split2AVX2.
//
//go:noescape
func join2AVX2(dst, lo, hi *byte, n int)

// split2Fast splits elements from the first on, and returns how many.
func split2Fast(lo, hi, src []byte) int {
	n := len(lo) &^ (step - 1)
	if n == 0 || !cpu.X86.HasAVX2 {
		return 0
	}
	_, _ = hi[n-1], src[2*n-1]
	split2AVX2(&lo[0], &hi[0], &src[0], n)
	return n
}

// join2Fast is the reverse of split2Fast.
func join2Fast(dst, lo, hi []byte) int {
	n := len(lo) &^ (step - 1)
	if n == 0 || !cpu.X86.HasAVX2 {
		return 0
	}
	_, _ = hi[n-1], dst[2*n-1]
	join2AVX2(&dst[0], &lo[0], &hi[0], n)
	return n
}
