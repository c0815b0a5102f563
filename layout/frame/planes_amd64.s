#include "textflag.h"

// func split2AVX2(lo, hi, src *byte, n int)
// Requires: AVX2
TEXT ·split2AVX2(SB), NOSPLIT, $0-32
	MOVQ lo+0(FP), DI
	MOVQ hi+8(FP), BX
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	XORQ AX, AX
	VPCMPEQW Y15, Y15, Y15
	VPSRLW   $8, Y15, Y15  // 0x00FF in every word

loop:
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1

	// Rotate every word left by one bit.
	VPADDW Y0, Y0, Y2
	VPADDW Y1, Y1, Y3
	VPSRLW $15, Y0, Y0
	VPSRLW $15, Y1, Y1
	VPOR   Y2, Y0, Y0
	VPOR   Y3, Y1, Y1

	// Lower bytes to one side, upper to the other. Packing works within 128
	// bits: the quarters come as 0, 2, 1, 3.
	VPAND     Y15, Y0, Y2
	VPAND     Y15, Y1, Y3
	VPSRLW    $8, Y0, Y0
	VPSRLW    $8, Y1, Y1
	VPACKUSWB Y3, Y2, Y2
	VPACKUSWB Y1, Y0, Y0
	VPERMQ    $0xD8, Y2, Y2
	VPERMQ    $0xD8, Y0, Y0
	VMOVDQU   Y2, (DI)(AX*1)
	VMOVDQU   Y0, (BX)(AX*1)
	ADDQ      $64, SI
	ADDQ      $32, AX
	CMPQ      AX, CX
	JLT       loop
	VZEROUPPER
	RET

// func join2AVX2(dst, lo, hi *byte, n int)
// Requires: AVX2
TEXT ·join2AVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ lo+8(FP), SI
	MOVQ hi+16(FP), BX
	MOVQ n+24(FP), CX
	XORQ AX, AX

loop:
	// Bring the quarters to where unpacking within 128 bits takes them from.
	VPERMQ $0xD8, (SI)(AX*1), Y0
	VPERMQ $0xD8, (BX)(AX*1), Y1
	VPUNPCKLBW Y1, Y0, Y2
	VPUNPCKHBW Y1, Y0, Y3

	// Rotate every word right by one bit.
	VPSRLW  $1, Y2, Y0
	VPSRLW  $1, Y3, Y1
	VPSLLW  $15, Y2, Y2
	VPSLLW  $15, Y3, Y3
	VPOR    Y2, Y0, Y0
	VPOR    Y3, Y1, Y1
	VMOVDQU Y0, (DI)
	VMOVDQU Y1, 32(DI)
	ADDQ    $64, DI
	ADDQ    $32, AX
	CMPQ    AX, CX
	JLT     loop
	VZEROUPPER
	RET
