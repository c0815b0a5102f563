package layout

import (
	"context"

	"mpack/layout/chunk"
	"mpack/layout/sums"
)

// baseFile is a file of a base and its chunks, of which no other file has a part.
type baseFile struct {
	*File
	chunks []Chunk
}

// tensorFiles returns the files cut at tensors of an index, by path: large
// ones, whose windows can be checked one by one.
func tensorFiles(ix *Index) map[string]baseFile {
	files := map[string]baseFile{}
	var pos, end int64 // of a file
	var at int64       // where chunk number i begins
	i := 0
	for k := range ix.Files {
		f := &ix.Files[k]
		if !f.Regular() {
			continue
		}
		pos, end = end, end+f.Size
		for i < len(ix.Chunks) && at < pos {
			at += int64(ix.Chunks[i].Size)
			i++
		}
		if f.Format == "" || f.Size < sums.Window || !f.hasStates() || at != pos {
			continue
		}
		first := i
		for i < len(ix.Chunks) && at < end {
			at += int64(ix.Chunks[i].Size)
			i++
		}
		if at == end {
			files[f.Path] = baseFile{f, ix.Chunks[first:i]}
		}
	}
	return files
}

// unchanged emits the chunks of a tensor file without its bytes, if it is the
// base's: its windows are checked side by side, which is several times as fast
// as to hash it from its start and each chunk besides. Its chunks are believed
// to be those that the base's index lists, as where they lie is believed.
func (s *stream) unchanged(ctx context.Context, i int, p Progress) (bool, error) {
	src := &s.sources[i]
	b, ok := s.base[src.path]
	if !ok || b.Size != src.size {
		return false, nil
	}
	pieces := chunk.Tensors(src.size, s.out[i].header.Tensors)
	if len(pieces) != len(b.chunks) {
		return false, nil
	}
	for k := range pieces {
		if pieces[k].Size != int64(b.chunks[k].Size) {
			return false, nil // cut by another version, or for other tensors
		}
	}
	f, err := src.open()
	if err != nil {
		return false, err
	}
	defer f.Close()
	same := b.told(ctx, f, s.workers, p)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if !same {
		return false, nil
	}
	if err := src.sized(f); err != nil {
		return false, err
	}
	s.out[i].sha, s.out[i].states = b.SHA256, b.States
	// The collector gets past chunks before these only if sum lets them go.
	if err := send(ctx, s.chunks, nil); err != nil {
		return false, err
	}
	done := make(chan struct{})
	close(done)
	for k := range pieces {
		c := &raw{element: elementOf(pieces[k].DType), parts: []part{{file: i, n: int(pieces[k].Size)}}, sum: b.chunks[k].SHA256, done: done}
		if err := send(ctx, s.order, c); err != nil {
			return false, err
		}
	}
	p.add(Delta{Files: 1, Deduped: src.size})
	return true, nil
}
