package layout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"mpack/layout/chunk"
	"mpack/layout/frame"
	"mpack/layout/tensor"
	"mpack/layout/tree"
)

// Sizes of layers, in raw bytes. The step is doubled until about wantLayers
// layers hold the tree; a layer ends at about one step, within half and two.
const (
	firstStep  = 16 << 20
	wantLayers = 1000
)

// uploadsFor returns how many finished layers of a step may be under way at
// once: the more, the less a push waits for a registry that brings each to its
// disk, but their bytes are held.
func uploadsFor(step int64) int {
	const held = 6 * firstStep
	return int(max(3, held/step))
}

// Base is an earlier artifact whose chunks need not be stored again.
type Base struct {
	Index  *Index
	Layers []Layer
}

// PackOptions are how a tree is packed. The zero value is good.
type PackOptions struct {
	Level    frame.Level // of chunks that are neither weights nor compressed already
	Workers  int         // goroutines that encode; 0: one a CPU
	Base     *Base       // nil: nothing is known
	Progress Progress
}

// Packed is a packed tree.
type Packed struct {
	Index   *Index
	Layers  []Layer                   // by number
	Headers map[string]*tensor.Header // of files cut at tensors, by path
	Lines   map[string]int64          // newlines of JSONL, CSV and text files, by path
	Reused  []bool                    // whether the layer of that number is the base's
}

// Put stores a finished layer. It is called from several goroutines at once,
// may read body more than once, and must not keep it.
type Put func(ctx context.Context, l Layer, body io.ReadSeeker) error

// Pack reads the tree once, calls put for every layer that the base does not
// have, and returns the index. The result depends on the tree, the level and
// the base alone. Errors of put come back as they are.
func Pack(ctx context.Context, t *tree.Tree, o PackOptions, put Put) (*Packed, error) {
	sources := sourcesOf(t)
	p := newPacker(o, o.Progress.begin(sources))
	p.useBase(o.Base)
	s := newStream(sources, o.Workers)
	if o.Base != nil {
		s.base = tensorFiles(o.Base.Index)
	}
	for range s.workers {
		e, err := frame.NewEncoder(o.Level)
		if err != nil {
			return nil, err
		}
		p.encoders = append(p.encoders, e)
	}

	ctx = p.start(ctx, put)
	err := s.run(ctx, o.Progress, p.encode, p.collect)
	if err == nil {
		err = p.restore(ctx, sources)
	}
	if err := p.end(ctx, err); err != nil {
		return nil, err
	}
	return p.finish(t, s), nil
}

// start makes put ready to be called and returns the context to work under.
func (p *packer) start(ctx context.Context, put Put) context.Context {
	p.putters, ctx = errgroup.WithContext(ctx)
	p.putters.SetLimit(uploadsFor(p.step))
	p.put = func(l Layer, body io.ReadSeeker) error { return put(ctx, l, body) }
	return ctx
}

// end ends the last layer, unless err says that there is no use in it, and
// waits for the calls of put. It returns what failed first.
func (p *packer) end(ctx context.Context, err error) error {
	if err == nil {
		err = p.endLayer(ctx)
	} else if p.body != nil {
		err = errors.Join(err, p.body.Close())
	}
	// What put failed with is the cause; that the rest was cancelled is not.
	if putErr := p.putters.Wait(); putErr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = putErr
	}
	return err
}

// Scan reads the tree and returns its index with no chunk placed in a layer,
// to be compared with others.
func Scan(ctx context.Context, t *tree.Tree, p Progress) (*Index, error) {
	sources := sourcesOf(t)
	p.begin(sources)
	s := newStream(sources, 0)
	var chunks []Chunk
	err := s.run(ctx, p,
		func(int, *raw) error { return nil },
		func(_ context.Context, c *raw) error {
			var n int
			for _, part := range c.parts {
				n += part.n
			}
			chunks = append(chunks, Chunk{SHA256: c.sum, Size: int32(n)})
			return nil
		})
	if err != nil {
		return nil, err
	}
	return &Index{Files: filesOf(t, s.out), Chunks: chunks}, nil
}

func sourcesOf(t *tree.Tree) []source {
	var ss []source
	for _, e := range t.Entries() {
		if e.Kind == tree.File {
			ss = append(ss, source{path: e.Path, size: e.Size, open: func() (*os.File, error) { return t.Open(e) }})
		}
	}
	return ss
}

// stepFor returns the layer step of a tree of total raw bytes.
func stepFor(total int64) int64 {
	step := int64(firstStep)
	for total/step > wantLayers {
		step *= 2
	}
	return step
}

// entry is a chunk known by its SHA-256.
type entry struct {
	owner *raw // whose encoding it is, until it is placed
	enc   []byte
	place placed
}

// placed is where an encoded chunk lies.
type placed struct {
	layer  *building // nil: nowhere yet
	offset int64
	length int32
	filter frame.Filter
}

// building is a layer that the artifact may list: one of the base, or one
// that is being made.
type building struct {
	Layer
	base   bool
	used   int64 // encoded bytes that chunks of this artifact use
	number int32 // final, from 0; -1 until known
}

type packer struct {
	opts     PackOptions
	step     int64
	put      func(l Layer, body io.ReadSeeker) error // with the putters' context
	putters  *errgroup.Group
	encoders []*frame.Encoder
	encBufs  sync.Pool

	mu   sync.Mutex
	seen map[Hash]*entry

	// Of the collector alone.
	chunks   []Chunk         // in stream order; places are filled in at the end
	places   []*entry        // beside chunks
	elements []frame.Element // beside chunks
	cur      *building
	body     *spool
	digest   hash.Hash
	rawLen   int64
}

// newPacker makes a packer for a tree of total raw bytes.
func newPacker(o PackOptions, total int64) *packer {
	return &packer{opts: o, step: stepFor(total), seen: map[Hash]*entry{}}
}

// useBase enters the chunks of the base.
func (p *packer) useBase(b *Base) {
	if b == nil {
		return
	}
	layers := baseLayers(b.Layers)
	for _, c := range b.Index.Chunks {
		if _, ok := p.seen[c.SHA256]; !ok {
			p.seen[c.SHA256] = &entry{place: placed{layers[c.Layer], c.Offset, c.Length, c.Filter}}
		}
	}
}

func baseLayers(layers []Layer) []*building {
	bs := make([]*building, len(layers))
	for i, l := range layers {
		bs[i] = &building{Layer: l, base: true, number: -1}
	}
	return bs
}

// encode encodes a chunk if nobody has yet. It is called by many workers.
func (p *packer) encode(worker int, c *raw) error {
	p.mu.Lock()
	e, ok := p.seen[c.sum]
	if !ok {
		e = &entry{owner: c}
		p.seen[c.sum] = e
	}
	p.mu.Unlock()
	c.known = e
	if ok {
		p.opts.Progress.add(Delta{Deduped: int64(len(c.buf))})
		return nil
	}
	var err error
	e.enc, e.place.filter, err = p.encoders[worker].Encode(p.encBuffer(), c.buf, c.element)
	return err
}

func (p *packer) encBuffer() []byte {
	if b, ok := p.encBufs.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return nil
}

// collect takes the chunks in stream order and appends the new ones to layers.
func (p *packer) collect(ctx context.Context, c *raw) error {
	var size int
	for _, part := range c.parts {
		size += part.n
	}
	e := c.known
	if e == nil {
		p.mu.Lock()
		e = p.seen[c.sum]
		p.mu.Unlock()
	}
	p.chunks = append(p.chunks, Chunk{SHA256: c.sum, Size: int32(size)})
	p.places = append(p.places, e)
	p.elements = append(p.elements, c.element)
	if e.place.layer != nil {
		return nil
	}
	if e.owner != c {
		select {
		case <-e.owner.done: // a later twin was faster and is being encoded
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return p.store(ctx, e, c.sum, size)
}

// store appends an encoded chunk to the current layer, and ends the layer
// where the chunk's hash says so.
func (p *packer) store(ctx context.Context, e *entry, sum Hash, size int) error {
	if p.cur == nil {
		p.cur = &building{number: -1}
		p.body = new(spool)
		p.digest = sha256.New()
		p.rawLen = 0
	}
	e.place.layer, e.place.offset, e.place.length = p.cur, p.body.Len(), int32(len(e.enc))
	p.digest.Write(e.enc)
	if err := p.body.Append(e.enc); err != nil {
		return err
	}
	p.opts.Progress.add(Delta{Stored: int64(len(e.enc))})
	enc := e.enc
	e.enc, e.owner = nil, nil
	p.encBufs.Put(&enc)
	p.rawLen += int64(size)
	if endsLayer(sum, size, p.rawLen, p.step) {
		return p.endLayer(ctx)
	}
	return nil
}

// endsLayer reports whether a layer with rawLen raw bytes ends after a chunk
// of size bytes. The chance of it is size/step, drawn from the chunk's hash,
// so that the ends at one step are a subset of those at half of it.
func endsLayer(sum Hash, size int, rawLen, step int64) bool {
	if rawLen < step/2 {
		return false
	}
	perByte := (1 << 63) / uint64(step) * 2
	return rawLen >= 2*step || binary.BigEndian.Uint64(sum[:]) < perByte*uint64(size)
}

func (p *packer) endLayer(ctx context.Context) error {
	if p.cur == nil {
		return nil
	}
	l, body := p.cur, p.body
	l.Digest, l.Size = Hash(p.digest.Sum(nil)), body.Len()
	p.cur, p.body = nil, nil
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), body.Close())
	}
	p.putters.Go(func() error {
		return errors.Join(p.put(l.Layer, body.Reader()), body.Close())
	})
	return nil
}

// sparse returns the layers of the base of which too little is used: those
// less than half used, then, while there are more layers than an artifact
// should have, the emptiest of the rest.
func (p *packer) sparse() map[*building]bool {
	base := map[*building]bool{}
	made := map[*building]bool{}
	counted := map[*entry]bool{}
	for _, e := range p.places {
		if l := e.place.layer; l.base && !counted[e] {
			counted[e] = true
			l.used += int64(e.place.length)
			base[l] = true
		} else if !l.base {
			made[l] = true
		}
	}
	var byUse []*building
	for l := range base {
		byUse = append(byUse, l)
	}
	slices.SortFunc(byUse, func(a, b *building) int { // by part used, ascending
		if c := compareRatio(a.used, a.Size, b.used, b.Size); c != 0 {
			return c
		}
		return slices.Compare(a.Digest[:], b.Digest[:])
	})
	drop := map[*building]bool{}
	for i, l := range byUse {
		if l.used*2 < l.Size || len(made)+len(byUse)-i > 2*wantLayers {
			drop[l] = true
		}
	}
	return drop
}

// restore stores anew the chunks that lie in sparse layers of the base.
func (p *packer) restore(ctx context.Context, sources []source) error {
	drop := p.sparse()
	if len(drop) == 0 {
		return nil
	}
	r := newStreamReader(sources)
	defer r.Close()
	buf := make([]byte, chunk.Max)
	var pos int64
	for i := range p.chunks {
		c, e := &p.chunks[i], p.places[i]
		if drop[e.place.layer] {
			buf = buf[:c.Size]
			path, err := r.read(buf, pos)
			if err != nil {
				return err
			}
			if sha256.Sum256(buf) != c.SHA256 {
				return fmt.Errorf("%s: %w", path, tree.ErrChanged)
			}
			if e.enc, e.place.filter, err = p.encoders[0].Encode(p.encBuffer(), buf, p.elements[i]); err != nil {
				return err
			}
			if err := p.store(ctx, e, c.SHA256, int(c.Size)); err != nil {
				return err
			}
		}
		pos += int64(c.Size)
	}
	return nil
}

// compareRatio compares a/b with c/d without division, for sizes below 2^53.
func compareRatio(a, b, c, d int64) int {
	x, y := float64(a)*float64(d), float64(c)*float64(b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// finish puts together what packing a tree has given.
func (p *packer) finish(t *tree.Tree, s *stream) *Packed {
	out := p.number()
	out.Headers, out.Lines = map[string]*tensor.Header{}, map[string]int64{}
	for i := range s.out {
		if h := s.out[i].header; h != nil {
			out.Headers[s.sources[i].path] = h
		}
		if hasLines(s.sources[i].path) {
			out.Lines[s.sources[i].path] = s.out[i].lines
		}
	}
	out.Index.Files = filesOf(t, s.out)
	return out
}

// number numbers the layers in the order that the stream first needs them.
func (p *packer) number() *Packed {
	out := &Packed{Index: &Index{Chunks: p.chunks}}
	byDigest := map[Hash]int32{}
	for i, e := range p.places {
		l := e.place.layer
		if l.number < 0 {
			n, ok := byDigest[l.Digest]
			if !ok {
				n = int32(len(out.Layers))
				byDigest[l.Digest] = n
				out.Layers = append(out.Layers, l.Layer)
				out.Reused = append(out.Reused, l.base)
			}
			l.number = n
		}
		c := &p.chunks[i]
		c.Layer, c.Offset, c.Length, c.Filter = l.number, e.place.offset, e.place.length, e.place.filter
	}
	return out
}

// filesOf puts the entries of a tree and what reading them told together.
func filesOf(t *tree.Tree, read []scanned) []File {
	files := make([]File, 0, len(t.Entries()))
	next := 0
	for _, e := range t.Entries() {
		f := File{Path: e.Path, Size: e.Size, Mode: ModeFile}
		switch {
		case e.Kind == tree.Dir:
			f.Mode, f.Size, f.SHA256 = ModeDir, 0, sha256.Sum256(nil)
		case e.Kind == tree.Symlink:
			f.Mode, f.Link, f.SHA256 = ModeSymlink, e.Link, sha256.Sum256([]byte(e.Link))
		default:
			if e.Exec {
				f.Mode = ModeExec
			}
			out := &read[next]
			next++
			f.SHA256, f.States = out.sha, out.states
			if out.header != nil {
				f.Format, f.Tensors = out.header.Format, out.header.Tensors
			}
		}
		files = append(files, f)
	}
	return files
}
