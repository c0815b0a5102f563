#include "textflag.h"

// LOOKUP sets out to the bytes of a table of 256, in four registers, at the
// indices in, of which K1 has the top bits. It changes tmp.
#define LOOKUP(in, t0, t1, t2, t3, tmp, out) \
	VMOVDQA64 in, out;         \
	VMOVDQA64 in, tmp;         \
	VPERMI2B  t1, t0, out;     \
	VPERMI2B  t3, t2, tmp;     \
	VPBLENDMB tmp, out, K1, out

// func unseenVBMI(seen, p *byte, n int) int
// Requires: AVX512F, AVX512BW, AVX512VBMI
TEXT ·unseenVBMI(SB), NOSPLIT, $0-32
	MOVQ seen+0(FP), BX
	MOVQ p+8(FP), SI
	MOVQ n+16(FP), DX
	VMOVDQU64 (BX), Z0
	VMOVDQU64 64(BX), Z1
	VMOVDQU64 128(BX), Z2
	VMOVDQU64 192(BX), Z3
	XORQ AX, AX

loop:
	VMOVDQU64 (SI)(AX*1), Z16
	VPMOVB2M  Z16, K1
	LOOKUP(Z16, Z0, Z1, Z2, Z3, Z17, Z18)
	VPTESTNMB Z18, Z18, K2
	KTESTQ    K2, K2
	JNZ       done
	ADDQ      $64, AX
	CMPQ      AX, DX
	JLT       loop

done:
	VZEROUPPER
	MOVQ AX, ret+24(FP)
	RET

// PAIRS joins the codes of two bytes each. In words, x has a code in the lower
// 11 bits and its length in the upper 4; of two words, the upper goes first.
#define PAIRS(x, tmp, out) \
	VPSRLD     $28, x, tmp;       \
	VPANDD     Z8, x, out;        \
	VPSRLD     $16, x, x;         \
	VPSLLVD    tmp, out, out;     \
	VPTERNLOGD $0xF8, Z8, x, out  // out | x & Z8

// FOURS joins two pairs each, the upper of x first, which has as many bits as
// lengths says.
#define FOURS(x, lengths, out) \
	VPANDQ  Z13, x, out;       \
	VPSRLQ  $32, x, x;         \
	VPSLLVQ lengths, out, out; \
	VPORQ   x, out, out

// FLUSH puts the bits at v, as many as there are at n, behind those that wait
// in AX, CX of them and fewer than 8, and stores what is whole bytes at DI.
#define FLUSH(v, n) \
	SHLXQ CX, v, R9;    \
	ORQ   R9, AX;       \
	MOVQ  AX, (DI);     \
	ADDL  n, CX;        \
	MOVL  CX, R10;      \
	MOVL  CX, R11;      \
	SHRL  $3, R10;      \
	ANDL  $-8, R11;     \
	ADDQ  R10, DI;      \
	SHRXQ R11, AX, AX;  \
	ANDL  $7, CX

// func encodeVBMI(lo, hi, dst, p *byte, n int, acc, bits *uint64) int
// Requires: AVX512F, AVX512BW, AVX512DQ, AVX512VBMI, BMI2
TEXT ·encodeVBMI(SB), NOSPLIT, $256-64
	MOVQ lo+0(FP), AX
	MOVQ hi+8(FP), BX
	MOVQ dst+16(FP), DI
	MOVQ p+24(FP), SI
	MOVQ n+32(FP), DX
	VMOVDQU64 (AX), Z0
	VMOVDQU64 64(AX), Z1
	VMOVDQU64 128(AX), Z2
	VMOVDQU64 192(AX), Z3
	VMOVDQU64 (BX), Z4
	VMOVDQU64 64(BX), Z5
	VMOVDQU64 128(BX), Z6
	VMOVDQU64 192(BX), Z7
	MOVL $0x7FF, AX
	VPBROADCASTD AX, Z8
	MOVL $0x0F0F0F0F, AX
	VPBROADCASTD AX, Z9
	MOVL $0x01010101, AX
	VPBROADCASTD AX, Z10
	MOVL $0x00010001, AX
	VPBROADCASTD AX, Z11
	VPXORD Z12, Z12, Z12
	MOVL $0xFFFFFFFF, AX
	VPBROADCASTQ AX, Z13
	MOVL $56, AX
	VPBROADCASTD AX, Z14
	LEAQ 63(SP), R8 // a cache line's start: what crosses lines is slow to read again
	ANDQ $-64, R8
	XORL AX, AX
	XORL CX, CX

loop:
	VMOVDQU64 -64(SI)(DX*1), Z16
	VPMOVB2M  Z16, K1
	LOOKUP(Z16, Z0, Z1, Z2, Z3, Z19, Z17)
	LOOKUP(Z16, Z4, Z5, Z6, Z7, Z19, Z18)

	// Lengths: of fours in double words of Z20; of each four's second pair in
	// quad words, of fours 0 and 1 of each 128 bits in Z22, 2 and 3 in Z23.
	VPSRLW     $4, Z18, Z19
	VPANDD     Z9, Z19, Z19
	VPMADDUBSW Z10, Z19, Z19
	VPMADDWD   Z11, Z19, Z20
	VPSRLD     $16, Z19, Z19
	VPUNPCKLDQ Z12, Z19, Z22
	VPUNPCKHDQ Z12, Z19, Z23

	// Codes, in the same order, in Z24 and Z25.
	VPUNPCKLBW Z18, Z17, Z26
	VPUNPCKHBW Z18, Z17, Z27
	PAIRS(Z26, Z16, Z17)
	PAIRS(Z27, Z16, Z18)
	FOURS(Z17, Z22, Z24)
	FOURS(Z18, Z23, Z25)

	// Eights, unless one has so many bits that they leave no room
	// for 7 before and one more: shifts are by less than 64.
	VPSRLQ  $32, Z20, Z21
	VPADDD  Z20, Z21, Z22
	VPCMPUD $6, Z14, Z22, K2
	KTESTW  K2, K2
	JNZ     fours
	VPUNPCKLQDQ Z25, Z24, Z26
	VPUNPCKHQDQ Z25, Z24, Z27
	VPSLLVQ Z21, Z26, Z26
	VPORQ   Z27, Z26, Z26
	VMOVDQU64 Z26, 0(R8)
	VMOVDQU64 Z22, 64(R8)
	FLUSH(56(R8), 120(R8))
	FLUSH(48(R8), 112(R8))
	FLUSH(40(R8), 104(R8))
	FLUSH(32(R8), 96(R8))
	FLUSH(24(R8), 88(R8))
	FLUSH(16(R8), 80(R8))
	FLUSH(8(R8), 72(R8))
	FLUSH(0(R8), 64(R8))
	SUBQ $64, DX
	JNZ  loop

done:
	VZEROUPPER
	MOVQ acc+40(FP), BX
	MOVQ AX, (BX)
	MOVQ bits+48(FP), BX
	MOVQ CX, (BX)
	SUBQ dst+16(FP), DI
	MOVQ DI, ret+56(FP)
	RET

fours:
	VMOVDQU64 Z24, 0(R8)
	VMOVDQU64 Z25, 64(R8)
	VMOVDQU64 Z20, 128(R8)
	FLUSH(120(R8), 188(R8))
	FLUSH(112(R8), 184(R8))
	FLUSH(56(R8), 180(R8))
	FLUSH(48(R8), 176(R8))
	FLUSH(104(R8), 172(R8))
	FLUSH(96(R8), 168(R8))
	FLUSH(40(R8), 164(R8))
	FLUSH(32(R8), 160(R8))
	FLUSH(88(R8), 156(R8))
	FLUSH(80(R8), 152(R8))
	FLUSH(24(R8), 148(R8))
	FLUSH(16(R8), 144(R8))
	FLUSH(72(R8), 140(R8))
	FLUSH(64(R8), 136(R8))
	FLUSH(8(R8), 132(R8))
	FLUSH(0(R8), 128(R8))
	SUBQ $64, DX
	JNZ  loop
	JMP  done
