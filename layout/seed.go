package layout

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"mpack/layout/chunk"
)

// wants are the chunks that are still missing, a few bytes for each, as an
// artifact may have millions.
type wants struct {
	chunks []Chunk // of the index
	places []int32 // numbers of the missing ones, those of one content side by side

	mu    sync.Mutex
	found []bool // beside places: of the first of a content, whether it is wanted no more
	left  int    // contents that are wanted
}

// wanted lists the missing chunks.
func (a *assembly) wanted() *wants {
	w := &wants{chunks: a.ix.Chunks}
	prev := -1
	for _, t := range a.missing() {
		for i := t.first; i < t.last; i++ {
			if i == prev || t.have[i-t.first] {
				continue // a chunk that two files share is listed once
			}
			prev = i
			w.places = append(w.places, int32(i))
		}
	}
	slices.SortFunc(w.places, func(i, j int32) int {
		return cmp.Or(w.chunks[i].compare(w.chunks[j].SHA256, w.chunks[j].Size), cmp.Compare(i, j))
	})
	w.found = make([]bool, len(w.places))
	for i := 0; i < len(w.places); i += len(w.at(i)) {
		w.left++
	}
	return w
}

// compare orders chunks by their content. An index may claim one SHA-256 of
// two sizes, of which at most one is true.
func (c *Chunk) compare(sum Hash, size int32) int {
	return cmp.Or(bytes.Compare(c.SHA256[:], sum[:]), cmp.Compare(c.Size, size))
}

// take reports whether a content is wanted, by the first of its places, and
// has it wanted no more.
func (w *wants) take(sum Hash, size int32) (first int, ok bool) {
	first, ok = sort.Find(len(w.places), func(i int) int {
		return -w.chunks[w.places[i]].compare(sum, size)
	})
	if !ok {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.found[first] {
		return 0, false
	}
	w.found[first] = true
	w.left--
	return first, true
}

// none reports whether nothing is wanted any more.
func (w *wants) none() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left == 0
}

// giveBack has what take returned wanted again.
func (w *wants) giveBack(first int) {
	w.mu.Lock()
	w.found[first] = false
	w.left++
	w.mu.Unlock()
}

// at returns all places of the content whose first place is given.
func (w *wants) at(first int) []int32 {
	c := &w.chunks[w.places[first]]
	n := 1
	for first+n < len(w.places) && w.chunks[w.places[first+n]].compare(c.SHA256, c.Size) == 0 {
		n++
	}
	return w.places[first : first+n]
}

// seed takes what the old files of the destination, the seeds and the store
// hold. It is done before the first file is replaced.
func (a *assembly) seed(ctx context.Context) error {
	w := a.wanted()
	var old []source
	for _, t := range a.targets {
		if t.right {
			continue
		}
		f, fi, err := a.w.Existing(t.Path)
		if err != nil {
			continue
		}
		f.Close()
		old = append(old, source{path: t.Path, size: fi.Size(), open: func() (*os.File, error) {
			f, _, err := a.w.Existing(t.Path)
			return f, err
		}})
	}
	all := [][]source{old}
	for _, s := range a.opts.Seeds {
		all = append(all, sourcesOf(s))
	}
	h := &harvest{a: a, wants: w}
	sources, finds := a.kept(w)
	if err := h.pick(ctx, sources, finds); err != nil {
		return err
	}
	for _, sources := range all {
		if err := h.search(ctx, sources); err != nil {
			return err
		}
	}
	if a.opts.Store != nil && a.opts.Stored != nil && !w.none() {
		for ix := range a.opts.Stored {
			if err := h.pick(ctx, a.opts.Store.sources(ix), w.in(ix.Chunks)); err != nil {
				return err
			}
			if w.none() {
				break
			}
		}
	}
	return a.named(ctx, h.full, a.complete)
}

// find is a wanted chunk that may lie at a place of a stream.
type find struct {
	first int // as wants.take returned it
	at    int64
}

// in returns the wanted chunks among those of a stream.
func (w *wants) in(chunks []Chunk) []find {
	var finds []find
	var pos int64
	for i := range chunks {
		c := &chunks[i]
		if first, ok := w.take(c.SHA256, c.Size); ok {
			finds = append(finds, find{first, pos})
		}
		pos += int64(c.Size)
	}
	return finds
}

// kept returns the stream of the files that are right already, and the wanted
// chunks that lie in it.
func (a *assembly) kept(w *wants) ([]source, []find) {
	var sources []source
	var finds []find
	var pos int64
	for _, t := range a.targets {
		if !t.right || t.Size == 0 {
			continue
		}
		for i := t.first; i < t.last; i++ {
			if a.starts[i] < t.start || a.starts[i+1] > t.start+t.Size {
				continue
			}
			c := &a.ix.Chunks[i]
			if first, ok := w.take(c.SHA256, c.Size); ok {
				finds = append(finds, find{first, pos + a.starts[i] - t.start})
			}
		}
		pos += t.Size
		sources = append(sources, source{path: t.Path, size: t.Size, open: func() (*os.File, error) {
			f, _, err := a.w.Existing(t.Path)
			return f, err
		}})
	}
	return sources, finds
}

// harvest takes wanted chunks from this machine's files.
type harvest struct {
	a     *assembly
	wants *wants

	mu   sync.Mutex
	full []*target // that have all their bytes now
}

var chunkBufs = sync.Pool{New: func() any { return new([chunk.Max]byte) }}

// put writes a verified chunk wherever it is wanted. Errors are a [localError].
func (h *harvest) put(first int, b []byte) error {
	places := h.wants.at(first)
	for _, i := range places {
		full, err := h.a.write(int(i), b)
		if err != nil {
			return &localError{err}
		}
		h.mu.Lock()
		h.full = append(h.full, full...)
		h.mu.Unlock()
	}
	n := int64(len(b)) * int64(len(places))
	h.a.local.Add(n)
	h.a.opts.Progress.add(Delta{Bytes: n, Deduped: n})
	return nil
}

// pick reads what was found in the sources and verifies it. What is not there
// after all is wanted again.
func (h *harvest) pick(ctx context.Context, sources []source, finds []find) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(h.a.opts.Workers)
	each := max(16, len(finds)/(4*h.a.opts.Workers)) // for each, files are opened anew
	for len(finds) > 0 {
		part := finds[:min(each, len(finds))]
		finds = finds[len(part):]
		g.Go(func() error {
			r := newStreamReader(sources)
			defer r.Close()
			buf := chunkBufs.Get().(*[chunk.Max]byte)
			defer chunkBufs.Put(buf)
			for _, f := range part {
				if gctx.Err() != nil {
					return context.Cause(gctx)
				}
				c := &h.a.ix.Chunks[h.wants.at(f.first)[0]]
				b := buf[:c.Size]
				if _, err := r.read(b, f.at); err != nil || sha256.Sum256(b) != c.SHA256 {
					h.wants.giveBack(f.first)
					continue
				}
				if err := h.put(f.first, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// errAllFound ends a search early.
var errAllFound = errors.New("nothing is wanted any more")

// search reads and cuts the sources as if to pack them. Sources that cannot be
// read save nothing, and harm nothing either.
func (h *harvest) search(ctx context.Context, sources []source) error {
	if len(sources) == 0 || h.wants.none() {
		return nil
	}
	s := newStream(sources, 0)
	s.chunksOnly = true
	err := s.run(ctx, nil,
		func(_ int, c *raw) error {
			first, ok := h.wants.take(c.sum, int32(len(c.buf)))
			if !ok {
				return nil
			}
			if err := h.put(first, c.buf); err != nil {
				return err
			}
			if h.wants.none() {
				return errAllFound
			}
			return nil
		},
		func(context.Context, *raw) error { return nil })
	var local *localError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &local):
		return err
	}
	return nil
}
