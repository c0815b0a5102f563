package frame

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// Decoder decodes chunks. It is not safe for concurrent use; each worker has
// its own. Once it has seen its largest chunk it allocates nothing.
type Decoder struct {
	zstd   *zstd.Decoder
	huff   huff0.Scratch
	planes []byte // a filtered chunk
}

// NewDecoder returns a decoder. Close gives its resources back.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(MaxChunk),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("making a zstd decoder: %w", err)
	}
	return &Decoder{zstd: z}, nil
}

// Close gives the decoder's resources back. The decoder must not be used
// afterwards.
func (d *Decoder) Close() { d.zstd.Close() }

// Decode decodes the frames src, filtered by f, to exactly len(dst) bytes, 1
// to [MaxChunk]. Whatever src holds, nothing is written beyond dst and memory
// stays within what its size calls for. Frames that are broken, of another
// shape than the package's, or of another total size are an [ErrCorrupt];
// dst then holds anything.
func (d *Decoder) Decode(dst, src []byte, f Filter) error {
	if len(dst) < 1 || len(dst) > MaxChunk {
		return fmt.Errorf("chunk of %d bytes: want 1 to %d", len(dst), MaxChunk)
	}
	if int(f) >= len(filterNames) {
		return fmt.Errorf("unknown chunk %v", f)
	}
	if f == None {
		return d.decodeFrames(dst, src)
	}
	if cap(d.planes) < len(dst) {
		d.planes = make([]byte, MaxChunk)
	}
	p := d.planes[:len(dst)]
	if err := d.decodeFrames(p, src); err != nil {
		return err
	}
	join(dst, p, f)
	return nil
}

// decodeFrames decodes frames to exactly len(dst) bytes.
func (d *Decoder) decodeFrames(dst, src []byte) error {
	for len(src) > 0 {
		size, body, ok := parseHeader(src)
		if !ok {
			return fmt.Errorf("%w: not the header of a frame", ErrCorrupt)
		}
		if size > len(dst) {
			return fmt.Errorf("%w: more bytes than the chunk's", ErrCorrupt)
		}
		end, own, err := scanBlocks(body)
		if err != nil {
			return err
		}
		if own {
			err = d.decodeBlocks(dst[:size:size], body)
		} else {
			err = d.decodeZstd(dst[:size:size], src[:len(src)-len(body)+end])
		}
		if err != nil {
			return err
		}
		dst, src = dst[size:], body[end:]
	}
	if len(dst) > 0 {
		return fmt.Errorf("%w: %d bytes short of the chunk's", ErrCorrupt, len(dst))
	}
	return nil
}

// scanBlocks finds the end of a frame whose blocks begin at b, and whether
// all of them are such as this package writes by itself.
func scanBlocks(b []byte) (end int, own bool, err error) {
	own = true
	for {
		if len(b)-end < blockHeader {
			return 0, false, fmt.Errorf("%w: cut off at a block", ErrCorrupt)
		}
		last, kind, size := parseBlockHeader(b[end:])
		end += blockHeader
		stored := size
		if kind == rleBlock {
			stored = 1
		}
		if kind > compressedBlock || size > maxBlock || stored > len(b)-end {
			return 0, false, fmt.Errorf("%w: bad block header", ErrCorrupt)
		}
		if kind == compressedBlock && own {
			_, own = parseLiterals(b[end : end+stored])
		}
		end += stored
		if last {
			return end, own, nil
		}
	}
}

// decodeBlocks decodes a frame's blocks, found well by scanBlocks, to exactly
// len(dst) bytes. It accepts what decodeZstd accepts, and is faster.
func (d *Decoder) decodeBlocks(dst, b []byte) error {
	table := false
	for {
		last, kind, size := parseBlockHeader(b)
		b = b[blockHeader:]
		n, stored := size, size
		var l literals
		switch kind {
		case rleBlock:
			stored = 1
		case compressedBlock:
			l, _ = parseLiterals(b[:size])
			n = l.regenerated
		}
		if n > len(dst) || n > maxBlock {
			return fmt.Errorf("%w: a block of more bytes than the frame's", ErrCorrupt)
		}
		switch kind {
		case rawBlock:
			copy(dst, b[:n])
		case rleBlock:
			fill(dst[:n], b[0])
		case compressedBlock:
			if err := d.decodeLiterals(dst[:0:n], l, table); err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			table = true
		}
		dst, b = dst[n:], b[stored:]
		if !last {
			continue
		}
		if len(dst) > 0 {
			return fmt.Errorf("%w: a frame %d bytes short of its size", ErrCorrupt, len(dst))
		}
		return nil
	}
}

// decodeLiterals decodes l to exactly cap(dst) bytes. table says whether the
// frame had a Huffman table before.
func (d *Decoder) decodeLiterals(dst []byte, l literals, table bool) error {
	data := l.data
	if l.treeless {
		if !table {
			return errors.New("no Huffman table to use again")
		}
	} else {
		var err error
		if _, data, err = huff0.ReadTable(data, &d.huff); err != nil {
			return err
		}
	}
	_, err := d.huff.Decoder().Decompress4X(dst, data)
	return err
}

// decodeZstd decodes one frame to exactly cap(dst) bytes.
func (d *Decoder) decodeZstd(dst, frame []byte) error {
	out, err := d.zstd.DecodeAll(frame, dst[:0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(out) != len(dst) {
		return fmt.Errorf("%w: a frame of %d bytes, not %d", ErrCorrupt, len(out), len(dst))
	}
	return nil
}

// fill sets all bytes of p to b.
func fill(p []byte, b byte) {
	if b == 0 {
		clear(p)
		return
	}
	for i := range p {
		p[i] = b
	}
}
