package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
)

func random(seed byte) *rand.Rand { return rand.New(rand.NewChaCha8([32]byte{seed})) }

// noise returns n bytes that depend on seed alone.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// text returns n bytes of lines of JSON that depend on seed alone: words of
// Zipf's distribution.
func text(seed byte, n int) []byte {
	r := random(seed)
	words := make([]string, 5000)
	for i := range words {
		w := make([]byte, 2+r.IntN(8))
		for j := range w {
			w[j] = "etaoinshrdlucmfwypvbgk"[min(r.IntN(22), r.IntN(22))]
		}
		words[i] = string(w)
	}
	zipf := rand.NewZipf(r, 1.2, 4, uint64(len(words)-1))
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, `{"id": %d, "text": "`, i)
		for range 20 + r.IntN(100) {
			b = append(append(b, words[zipf.Uint64()]...), ' ')
		}
		b = append(b, "\"}\n"...)
	}
	return b[:n]
}

// gaussian returns n bytes of weights of standard deviation 0.02 (FP8: 8, as
// if scaled to the type's range).
func gaussian(el Element, n int, seed byte) []byte {
	r := random(seed)
	var b []byte
	for len(b) < n {
		x := r.NormFloat64() * 0.02
		switch el {
		case BF16:
			b = binary.LittleEndian.AppendUint16(b, bfloat16(float32(x)))
		case F16:
			b = binary.LittleEndian.AppendUint16(b, float16(x))
		case F32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
		case F64:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
		default:
			b = append(b, float8(400*x))
		}
	}
	return b[:n]
}

// bfloat16 rounds x to the nearest bfloat16, ties to even.
func bfloat16(x float32) uint16 {
	v := math.Float32bits(x)
	return uint16((v + 0x7FFF + v>>16&1) >> 16)
}

// float16 and float8 round x, finite and in range, to the nearest binary16
// and E4M3.
func float16(x float64) uint16 { return uint16(small(x, 10, 15)) }
func float8(x float64) byte    { return byte(small(x, 3, 7)) }

func small(x float64, mantissa, bias int) uint64 {
	var sign uint64
	if math.Signbit(x) {
		sign, x = 1, -x
	}
	_, e := math.Frexp(x)
	e = max(e-1, 1-bias) // of the leading bit, or of denormals
	m := uint64(math.RoundToEven(math.Ldexp(x, mantissa-e)))
	width := 1 // of the exponent and sign
	for 1<<width < 2*(bias+1) {
		width++
	}
	if m >= 1<<mantissa { // else a denormal
		m += uint64(e+bias-1) << mantissa
	}
	return sign<<(mantissa+width) | m
}

// edge returns n bytes of the elements that are out of the ordinary: zeros of
// both signs, denormals, infinities and NaNs with payloads.
func edge(el Element, n int) []byte {
	r := random(7)
	var b []byte
	for len(b) < n {
		pick := r.IntN(6)
		sign, payload := r.Uint64()&1, r.Uint64()
		switch el {
		case BF16:
			b = binary.LittleEndian.AppendUint16(b, uint16(special(pick, sign, payload, 7, 8)))
		case F16:
			b = binary.LittleEndian.AppendUint16(b, uint16(special(pick, sign, payload, 10, 5)))
		case F32:
			b = binary.LittleEndian.AppendUint32(b, uint32(special(pick, sign, payload, 23, 8)))
		case F64:
			b = binary.LittleEndian.AppendUint64(b, special(pick, sign, payload, 52, 11))
		default:
			b = append(b, byte(special(pick, sign, payload, 3, 4)))
		}
	}
	return b[:n]
}

func special(pick int, sign, payload uint64, mantissa, exponent int) uint64 {
	payload &= 1<<mantissa - 1
	top := uint64(1)<<exponent - 1
	switch pick {
	case 0:
		payload = 0 // zero
		fallthrough
	case 1:
		top = 0 // denormal
	case 2:
		payload = 0 // infinity
	case 3: // NaN
	default:
		top = payload * 31 & top
	}
	return sign<<(mantissa+exponent) | top<<mantissa | payload
}

// sparse returns weights of which nine of ten are zero.
func sparse(el Element, n int) []byte {
	b := gaussian(el, n, 3)
	r := random(4)
	w := filterOf(el).width()
	for i := 0; i+w <= n; i += w {
		if r.IntN(10) > 0 {
			clear(b[i : i+w])
		}
	}
	return b
}
