package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// Encoder encodes chunks. It is not safe for concurrent use; each worker has
// its own. Once it has seen its largest chunk it allocates nothing.
type Encoder struct {
	zstd   *zstd.Encoder // of the level
	fast   *zstd.Encoder // for what only repeats can shrink
	huff   huffEncoder   // of the frame being written
	probe  huff0.Scratch // of samples
	planes []byte        // a filtered chunk
	second []byte        // another encoding, to choose from
	sample []byte
	seen   [4096]uint64 // words met by repeats
}

// NewEncoder returns an encoder whose ordinary zstd frames are of the level.
func NewEncoder(level Level) (*Encoder, error) {
	if level == 0 {
		level = DefaultLevel
	}
	if level < 1 || level > 4 {
		return nil, fmt.Errorf("compression level %d: want 1 (fastest) to 4 (best), or 0 for the default", level)
	}
	z, err := newZstd(zstd.EncoderLevel(level), true)
	if err != nil {
		return nil, err
	}
	fast, err := newZstd(zstd.SpeedFastest, false)
	if err != nil {
		return nil, err
	}
	return &Encoder{
		zstd:   z,
		fast:   fast,
		sample: make([]byte, 0, sampleSize),
	}, nil
}

// newZstd returns an encoder; literals says whether it tries to shrink blocks
// without repeats.
func newZstd(level zstd.EncoderLevel, literals bool) (*zstd.Encoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true),
		zstd.WithAllLitEntropyCompression(literals),
		zstd.WithWindowSize(MaxChunk))
	if err != nil {
		return nil, fmt.Errorf("making a zstd encoder: %w", err)
	}
	return z, nil
}

// Encode appends the frames of src, 1 to [MaxChunk] bytes, to dst and returns
// it with the filter that [Decoder.Decode] must be given. It appends at most
// [Bound] bytes.
func (e *Encoder) Encode(dst, src []byte, el Element) ([]byte, Filter, error) {
	if len(src) < 1 || len(src) > MaxChunk {
		return nil, None, fmt.Errorf("chunk of %d bytes: want 1 to %d", len(src), MaxChunk)
	}
	dst = slices.Grow(dst, Bound(len(src)))
	if constant(src) {
		return appendRLE(dst, src[0], len(src)), None, nil
	}
	if el == Bytes || len(src) < minFiltered {
		return e.appendZstd(dst, src), None, nil
	}
	repeats := e.repeats(src)
	f := filterOf(el)
	if f == None {
		return e.appendPlane(dst, src, repeats), None, nil
	}
	start := len(dst)
	dst = e.appendPlanes(dst, src, f, repeats)
	if !repeats {
		return dst, f, nil
	}
	// Grouping bytes tears repeats of whole elements apart: see which is
	// smaller.
	e.second = e.appendZstd(e.second[:0], src)
	if len(e.second) < len(dst)-start {
		return append(dst[:start], e.second...), None, nil
	}
	return dst, f, nil
}

// minFiltered is the smallest chunk worth a filter.
const minFiltered = 4 << 10

// filterOf returns the filter for elements.
func filterOf(el Element) Filter {
	switch el {
	case BF16, F16:
		return BG2R
	case F32:
		return BG4R
	case F64:
		return BG8R
	}
	return None
}

// appendPlanes appends a frame for each plane of src.
func (e *Encoder) appendPlanes(dst, src []byte, f Filter, repeats bool) []byte {
	if cap(e.planes) < len(src) {
		e.planes = make([]byte, MaxChunk)
	}
	p := e.planes[:len(src)]
	split(p, src, f)
	n := len(src) / f.width()
	for range f.width() - 1 {
		dst = e.appendPlane(dst, p[:n], repeats)
		p = p[n:]
	}
	return e.appendPlane(dst, p, repeats)
}

// appendPlane appends a frame that holds p in whichever way suits it.
func (e *Encoder) appendPlane(dst, p []byte, repeats bool) []byte {
	if constant(p) {
		return appendRLE(dst, p[0], len(p))
	}
	start := len(dst)
	if e.shrinks(p) {
		dst = appendHuffman(dst, p, &e.huff)
	} else {
		dst = appendRaw(dst, p)
	}
	if !repeats {
		return dst
	}
	e.second = e.appendZstd(e.second[:0], p)
	if len(e.second) < len(dst)-start {
		dst = append(dst[:start], e.second...)
	}
	return dst
}

// appendZstd appends the frame that the ordinary encoder makes of p, or raw
// blocks where it does not shrink.
func (e *Encoder) appendZstd(dst, p []byte) []byte {
	start := len(dst)
	z := e.zstd
	if !e.shrinks(p) {
		z = e.fast
	}
	dst = z.EncodeAll(p, dst)
	if len(dst)-start >= rawSize(len(p)) {
		dst = appendRaw(dst[:start], p)
	}
	return dst
}

// constant reports whether all bytes of p are the same.
func constant(p []byte) bool {
	return bytes.Equal(p[1:], p[:len(p)-1])
}

const (
	sampleSize = 16 << 10
	sampleRun  = 512
)

// shrinks reports whether Huffman coding would save 1/32 of p, judged by runs
// spread over it.
func (e *Encoder) shrinks(p []byte) bool {
	s := p
	if len(p) > sampleSize {
		const runs = sampleSize / sampleRun
		s = e.sample[:0]
		for i := range runs {
			at := (len(p) - sampleRun) / (runs - 1) * i
			s = append(s, p[at:at+sampleRun]...)
		}
	}
	_, data, _, err := huff0.EstimateSizes(s, &e.probe)
	if err != nil {
		return err == huff0.ErrUseRLE
	}
	return data < len(s)-len(s)/32
}

// Of every repeatStride bytes of a large chunk, repeats looks at the first
// repeatRun.
const (
	repeatRun    = 1 << 10
	repeatStride = 4 << 10
)

// repeats reports whether the 8-byte words of p come again: of those at
// multiples of 8 bytes in the runs that it looks at, the share of one in
// sixteen, chosen by hash so that equal words are chosen alike.
func (e *Encoder) repeats(p []byte) bool {
	clear(e.seen[:])
	stride := repeatStride
	if len(p) < 64<<10 {
		stride = repeatRun
	}
	var words, again int
	for ; len(p) >= 8; p = p[min(stride, len(p)):] {
		for q := p[:min(repeatRun, len(p))]; len(q) >= 8; q = q[8:] {
			w := binary.LittleEndian.Uint64(q)
			h := w * 0x9E3779B97F4A7C15
			if h>>60 != 0 {
				continue
			}
			words++
			if at := h >> 48; e.seen[at] == w {
				again++
			} else {
				e.seen[at] = w
			}
		}
	}
	return again > words/64
}
