package layout

import (
	"context"
	"crypto/sha256"
	"fmt"

	"mpack/layout/chunk"
	"mpack/layout/frame"
)

// Used returns, for each layer, the encoded bytes that chunks of the index
// use; a chunk that occurs twice counts once.
func (ix *Index) Used(layers int) []int64 {
	used := make([]int64, layers)
	counted := make(map[Hash]bool, len(ix.Chunks))
	for i := range ix.Chunks {
		if c := &ix.Chunks[i]; !counted[c.SHA256] {
			counted[c.SHA256] = true
			used[c.Layer] += int64(c.Length)
		}
	}
	return used
}

// RepackOptions are how an artifact is rewritten. The zero value rewrites
// nothing but layers without any use.
type RepackOptions struct {
	MinUse   float64 // layers of which a smaller part is used are rewritten, 0 to 1
	Progress Progress
}

// Repack moves the chunks that lie in sparse layers into new ones, which it
// gives to put, and returns an index of the same files. Chunks are checked but
// not encoded anew, so that what others share stays as it is.
func Repack(ctx context.Context, ix *Index, layers []Layer, fetch Fetch, o RepackOptions, put Put) (*Packed, error) {
	sparse := make([]bool, len(layers))
	var total int64
	for i, used := range ix.Used(len(layers)) {
		sparse[i] = float64(used) < o.MinUse*float64(layers[i].Size)
	}
	for i := range ix.Chunks {
		if sparse[ix.Chunks[i].Layer] {
			total += int64(ix.Chunks[i].Size)
		}
	}
	o.Progress.add(Delta{TotalBytes: total})
	p := newPacker(PackOptions{Progress: o.Progress}, ix.Size())
	ctx = p.start(ctx, put)
	if err := p.end(ctx, p.move(ctx, ix, baseLayers(layers), sparse, fetch)); err != nil {
		return nil, err
	}
	out := p.number()
	out.Index.Files = ix.Files
	return out, nil
}

// move enters every chunk: those in sparse layers are stored anew.
func (p *packer) move(ctx context.Context, ix *Index, layers []*building, sparse []bool, fetch Fetch) error {
	dec, err := frame.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	r := rangeReader{ctx: ctx, ix: ix, fetch: fetch}
	defer r.close()
	raw := make([]byte, chunk.Max)
	for i := range ix.Chunks {
		c := &ix.Chunks[i]
		e, known := p.seen[c.SHA256]
		if !known {
			e = &entry{place: placed{layers[c.Layer], c.Offset, c.Length, c.Filter}}
			p.seen[c.SHA256] = e
		}
		p.chunks = append(p.chunks, Chunk{SHA256: c.SHA256, Size: c.Size})
		p.places = append(p.places, e)
		if !sparse[c.Layer] {
			continue
		}
		p.opts.Progress.add(Delta{Bytes: int64(c.Size)})
		if known {
			continue
		}
		enc, err := r.next(i, firstStep)
		if err != nil {
			return fmt.Errorf("layer sha256:%s: %w", layers[c.Layer].Digest, err)
		}
		b := raw[:c.Size]
		if err := dec.Decode(b, enc, c.Filter); err != nil {
			return fmt.Errorf("layer sha256:%s: chunk at %d: %w: %w", layers[c.Layer].Digest, c.Offset, ErrCorrupt, err)
		}
		if sha256.Sum256(b) != c.SHA256 {
			return fmt.Errorf("layer sha256:%s: %w: chunk at %d has another SHA-256", layers[c.Layer].Digest, ErrCorrupt, c.Offset)
		}
		e.enc = append(p.encBuffer(), enc...)
		if err := p.store(ctx, e, c.SHA256, int(c.Size)); err != nil {
			return err
		}
	}
	return nil
}
