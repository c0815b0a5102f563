package layout

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"

	"mpack/layout/chunk"
	"mpack/layout/frame"
)

// maxLinks is how many symlinks Cat follows before it gives up.
const maxLinks = 40

// ErrNotThere says that the index has no such file.
var ErrNotThere = fmt.Errorf("no such file: %w", fs.ErrNotExist)

// File returns the file of a path; symlinks are followed.
func (ix *Index) File(name string) (*File, error) {
	p := name
	for range maxLinks {
		i := sort.Search(len(ix.Files), func(i int) bool { return ix.Files[i].Path >= p })
		if i == len(ix.Files) || ix.Files[i].Path != p {
			return nil, fmt.Errorf("%s: %w", name, ErrNotThere)
		}
		f := &ix.Files[i]
		if f.Mode != ModeSymlink {
			return f, nil
		}
		p = path.Join(path.Dir(p), f.Link)
	}
	return nil, fmt.Errorf("%s: %w: too many symlinks", name, ErrNotThere)
}

// Cat writes one regular file to w, fetching only the chunks it lies in. Every
// chunk is checked before its bytes are written.
func Cat(ctx context.Context, ix *Index, name string, w io.Writer, fetch Fetch) error {
	f, err := ix.File(name)
	if err != nil {
		return err
	}
	if !f.Regular() {
		return fmt.Errorf("%s: it is a directory", name)
	}
	var start int64 // of the file in the stream
	for i := range ix.Files {
		if &ix.Files[i] == f {
			break
		}
		if ix.Files[i].Regular() {
			start += ix.Files[i].Size
		}
	}
	dec, err := frame.NewDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	r := rangeReader{ctx: ctx, ix: ix, fetch: fetch}
	defer r.close()
	sum := sha256.New()
	raw := make([]byte, chunk.Max)
	var pos int64
	for i := range ix.Chunks {
		c := &ix.Chunks[i]
		from, to := max(start, pos), min(start+f.Size, pos+int64(c.Size))
		if from < to {
			enc, err := r.next(i, start+f.Size-pos)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			b := raw[:c.Size]
			if err := dec.Decode(b, enc, c.Filter); err != nil {
				return fmt.Errorf("%s: %w: %w", name, ErrCorrupt, err)
			}
			if sha256.Sum256(b) != c.SHA256 {
				return fmt.Errorf("%s: %w: chunk at %d of layer %d has another SHA-256", name, ErrCorrupt, c.Offset, c.Layer)
			}
			b = b[from-pos : to-pos]
			sum.Write(b)
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		if pos += int64(c.Size); pos >= start+f.Size {
			break
		}
	}
	if Hash(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s: %w: its chunks do not make the SHA-256 that the index states", name, ErrCorrupt)
	}
	return nil
}

// rangeReader reads encoded chunks one after the other, with one request for
// as many as lie side by side.
type rangeReader struct {
	ctx   context.Context
	ix    *Index
	fetch Fetch
	body  io.ReadCloser
	r     *bufio.Reader
	layer int32
	pos   int64 // in the layer
	end   int64 // of what was asked for
	enc   []byte
}

// next returns the encoding of chunk number i; need is how many raw bytes from
// its start on are wanted.
func (r *rangeReader) next(i int, need int64) ([]byte, error) {
	c := &r.ix.Chunks[i]
	if r.body == nil || r.layer != c.Layer || r.pos > c.Offset || c.Offset-r.pos > mergeGap || c.Offset+int64(c.Length) > r.end {
		r.close()
		end := c.Offset + int64(c.Length)
		for j := i + 1; j < len(r.ix.Chunks) && need > int64(r.ix.Chunks[j-1].Size); j++ {
			need -= int64(r.ix.Chunks[j-1].Size)
			n := &r.ix.Chunks[j]
			if n.Layer != c.Layer || n.Offset != end {
				break
			}
			end += int64(n.Length)
		}
		body, whole, err := r.fetch(r.ctx, int(c.Layer), c.Offset, end-c.Offset)
		if err != nil {
			return nil, err
		}
		r.body, r.layer, r.pos, r.end = body, c.Layer, c.Offset, end
		if whole {
			r.pos = 0
		}
		r.r = bufio.NewReaderSize(body, 256<<10)
	}
	if _, err := r.r.Discard(int(c.Offset - r.pos)); err != nil {
		return nil, err
	}
	if cap(r.enc) < int(c.Length) {
		r.enc = make([]byte, frame.Bound(chunk.Max))
	}
	if _, err := io.ReadFull(r.r, r.enc[:c.Length]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	r.pos = c.Offset + int64(c.Length)
	return r.enc[:c.Length], nil
}

func (r *rangeReader) close() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
}
