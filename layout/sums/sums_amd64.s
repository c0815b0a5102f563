#include "textflag.h"

// SHA-256 (FIPS 180-4) of sixteen messages at once, each in a 32-bit lane of
// the AVX-512 registers.
//
// Z16 to Z23 are a to h, Z24 to Z27 temporaries, Z28 turns bytes round. The
// schedule W lies at R9, sixteen words of sixteen lanes. Z0 to Z15 stay unused:
// as their upper parts stay clean, nobody after this pays for them.

// One round (6.2.2 step 3). w is an offset from R9, k one from BX.
#define ROUND(w, k, a, b, c, d, e, f, g, h) \
	VPADDD.BCST k(BX), h, h           \
	VPADDD      w(R9), h, h           \
	VPRORD      $6, e, Z24            \
	VPRORD      $11, e, Z25           \
	VPRORD      $25, e, Z26           \
	VPTERNLOGD  $0x96, Z25, Z26, Z24  \
	VMOVDQA64   e, Z27                \
	VPTERNLOGD  $0xCA, g, f, Z27      \
	VPADDD      Z24, h, h             \
	VPADDD      Z27, h, h             \
	VPADDD      h, d, d               \
	VPRORD      $2, a, Z24            \
	VPRORD      $13, a, Z25           \
	VPRORD      $22, a, Z26           \
	VPTERNLOGD  $0x96, Z25, Z26, Z24  \
	VMOVDQA64   a, Z27                \
	VPTERNLOGD  $0xE8, c, b, Z27      \
	VPADDD      Z24, h, h             \
	VPADDD      Z27, h, h

// Turns W[t] into W[t+16] (6.2.2 step 1).
#define SCHEDULE(w, w1, w9, w14) \
	VPRORD     $7, w1(R9), Z24        \
	VPRORD     $18, w1(R9), Z25       \
	VPSRLD     $3, w1(R9), Z26        \
	VPTERNLOGD $0x96, Z25, Z26, Z24   \
	VPADDD     w(R9), Z24, Z24        \
	VPADDD     w9(R9), Z24, Z24       \
	VPRORD     $17, w14(R9), Z25      \
	VPRORD     $19, w14(R9), Z26      \
	VPSRLD     $10, w14(R9), Z27      \
	VPTERNLOGD $0x96, Z26, Z27, Z25   \
	VPADDD     Z25, Z24, Z24          \
	VMOVDQA64  Z24, w(R9)

// Loads the 64 bytes of lanes 4g..4g+3 and transposes them among themselves:
// W[4g+j] gets, in its 128-bit part L, word 4L+j of each.
#define LOAD4(g) \
	MOVQ     (g*32+0)(R8), R11     \
	MOVQ     (g*32+8)(R8), R12     \
	VMOVDQU32   (R11)(SI*1), Z16      \
	VMOVDQU32   (R12)(SI*1), Z17      \
	MOVQ     (g*32+16)(R8), R11    \
	MOVQ     (g*32+24)(R8), R12    \
	VMOVDQU32   (R11)(SI*1), Z18      \
	VMOVDQU32   (R12)(SI*1), Z19      \
	VPUNPCKLDQ  Z17, Z16, Z20         \
	VPUNPCKHDQ  Z17, Z16, Z21         \
	VPUNPCKLDQ  Z19, Z18, Z22         \
	VPUNPCKHDQ  Z19, Z18, Z23         \
	VPUNPCKLQDQ Z22, Z20, Z24         \
	VPUNPCKHQDQ Z22, Z20, Z25         \
	VPUNPCKLQDQ Z23, Z21, Z26         \
	VPUNPCKHQDQ Z23, Z21, Z27         \
	VMOVDQA64   Z24, (g*256+0)(R9)    \
	VMOVDQA64   Z25, (g*256+64)(R9)   \
	VMOVDQA64   Z26, (g*256+128)(R9)  \
	VMOVDQA64   Z27, (g*256+192)(R9)

// Makes words j, 4+j, 8+j and 12+j of all sixteen lanes of what LOAD4 has left there.
#define WORDS(j) \
	VMOVDQA64  (j*64+0)(R9), Z16             \
	VMOVDQA64  (j*64+512)(R9), Z17           \
	VSHUFI32X4 $0x44, (j*64+256)(R9), Z16, Z20 \
	VSHUFI32X4 $0xEE, (j*64+256)(R9), Z16, Z21 \
	VSHUFI32X4 $0x44, (j*64+768)(R9), Z17, Z22 \
	VSHUFI32X4 $0xEE, (j*64+768)(R9), Z17, Z23 \
	VSHUFI32X4 $0x88, Z22, Z20, Z24          \
	VSHUFI32X4 $0xDD, Z22, Z20, Z25          \
	VSHUFI32X4 $0x88, Z23, Z21, Z26          \
	VSHUFI32X4 $0xDD, Z23, Z21, Z27          \
	VPSHUFB    Z28, Z24, Z24                 \
	VPSHUFB    Z28, Z25, Z25                 \
	VPSHUFB    Z28, Z26, Z26                 \
	VPSHUFB    Z28, Z27, Z27                 \
	VMOVDQA64  Z24, (j*64+0)(R9)             \
	VMOVDQA64  Z25, (j*64+256)(R9)           \
	VMOVDQA64  Z26, (j*64+512)(R9)           \
	VMOVDQA64  Z27, (j*64+768)(R9)

#define TRANSPOSE \
	LOAD4(0) \
	LOAD4(1) \
	LOAD4(2) \
	LOAD4(3) \
	WORDS(0) \
	WORDS(1) \
	WORDS(2) \
	WORDS(3) \
	ADDQ $64, SI

#define LOADSTATE \
	VMOVDQU32 (CX), Z16      \
	VMOVDQU32 64(CX), Z17    \
	VMOVDQU32 128(CX), Z18  \
	VMOVDQU32 192(CX), Z19  \
	VMOVDQU32 256(CX), Z20  \
	VMOVDQU32 320(CX), Z21  \
	VMOVDQU32 384(CX), Z22  \
	VMOVDQU32 448(CX), Z23

#define ADDSTATE \
	VPADDD    (CX), Z16, Z16       \
	VPADDD    64(CX), Z17, Z17     \
	VPADDD    128(CX), Z18, Z18  \
	VPADDD    192(CX), Z19, Z19  \
	VPADDD    256(CX), Z20, Z20  \
	VPADDD    320(CX), Z21, Z21  \
	VPADDD    384(CX), Z22, Z22  \
	VPADDD    448(CX), Z23, Z23  \
	VMOVDQU32 Z16, (CX)           \
	VMOVDQU32 Z17, 64(CX)         \
	VMOVDQU32 Z18, 128(CX)       \
	VMOVDQU32 Z19, 192(CX)       \
	VMOVDQU32 Z20, 256(CX)       \
	VMOVDQU32 Z21, 320(CX)       \
	VMOVDQU32 Z22, 384(CX)       \
	VMOVDQU32 Z23, 448(CX)

#define ROUND0 ROUND(0, 0, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23)
#define ROUND1 ROUND(64, 4, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22)
#define ROUND2 ROUND(128, 8, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21)
#define ROUND3 ROUND(192, 12, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20)
#define ROUND4 ROUND(256, 16, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19)
#define ROUND5 ROUND(320, 20, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18)
#define ROUND6 ROUND(384, 24, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17)
#define ROUND7 ROUND(448, 28, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16)
#define ROUND8 ROUND(512, 32, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23)
#define ROUND9 ROUND(576, 36, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22)
#define ROUND10 ROUND(640, 40, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21)
#define ROUND11 ROUND(704, 44, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20)
#define ROUND12 ROUND(768, 48, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19)
#define ROUND13 ROUND(832, 52, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18)
#define ROUND14 ROUND(896, 56, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17)
#define ROUND15 ROUND(960, 60, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16)

#define SCHEDULE0 SCHEDULE(0, 64, 576, 896)
#define SCHEDULE1 SCHEDULE(64, 128, 640, 960)
#define SCHEDULE2 SCHEDULE(128, 192, 704, 0)
#define SCHEDULE3 SCHEDULE(192, 256, 768, 64)
#define SCHEDULE4 SCHEDULE(256, 320, 832, 128)
#define SCHEDULE5 SCHEDULE(320, 384, 896, 192)
#define SCHEDULE6 SCHEDULE(384, 448, 960, 256)
#define SCHEDULE7 SCHEDULE(448, 512, 0, 320)
#define SCHEDULE8 SCHEDULE(512, 576, 64, 384)
#define SCHEDULE9 SCHEDULE(576, 640, 128, 448)
#define SCHEDULE10 SCHEDULE(640, 704, 192, 512)
#define SCHEDULE11 SCHEDULE(704, 768, 256, 576)
#define SCHEDULE12 SCHEDULE(768, 832, 320, 640)
#define SCHEDULE13 SCHEDULE(832, 896, 384, 704)
#define SCHEDULE14 SCHEDULE(896, 960, 448, 768)
#define SCHEDULE15 SCHEDULE(960, 0, 512, 832)

// func blocks(state *[8][width]uint32, lanes *[width]*byte, n int, schedule *byte)
// Requires: AVX512F, AVX512BW
TEXT ·blocks(SB), NOSPLIT, $0-32
	MOVQ state+0(FP), CX
	MOVQ lanes+8(FP), R8
	MOVQ n+16(FP), DX
	MOVQ schedule+24(FP), R9
	LEAQ ·k256(SB), AX
	LEAQ 192(AX), R13
	XORQ SI, SI
	VBROADCASTI32X4 ·flip(SB), Z28

block:
	TRANSPOSE
	LOADSTATE
	MOVQ AX, BX

rounds:
	ROUND0
	SCHEDULE0
	ROUND1
	SCHEDULE1
	ROUND2
	SCHEDULE2
	ROUND3
	SCHEDULE3
	ROUND4
	SCHEDULE4
	ROUND5
	SCHEDULE5
	ROUND6
	SCHEDULE6
	ROUND7
	SCHEDULE7
	ROUND8
	SCHEDULE8
	ROUND9
	SCHEDULE9
	ROUND10
	SCHEDULE10
	ROUND11
	SCHEDULE11
	ROUND12
	SCHEDULE12
	ROUND13
	SCHEDULE13
	ROUND14
	SCHEDULE14
	ROUND15
	SCHEDULE15
	ADDQ $64, BX
	CMPQ BX, R13
	JNE  rounds

	ROUND0
	ROUND1
	ROUND2
	ROUND3
	ROUND4
	ROUND5
	ROUND6
	ROUND7
	ROUND8
	ROUND9
	ROUND10
	ROUND11
	ROUND12
	ROUND13
	ROUND14
	ROUND15
	ADDSTATE
	DECQ DX
	JNZ  block
	RET
