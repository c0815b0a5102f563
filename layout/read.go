package layout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"mpack/layout/chunk"
	"mpack/layout/frame"
	"mpack/layout/sums"
	"mpack/layout/tensor"
	"mpack/layout/tree"
)

// ownRun is the size in bytes from which on a file starts a chunk of its own;
// smaller files share chunks with their neighbours.
const ownRun = 1 << 20

// source is a regular file of the stream.
type source struct {
	path string
	size int64
	open func() (*os.File, error)
}

// scanned is what reading a source tells.
type scanned struct {
	sha    Hash
	states []sums.State // of the SHA-256
	lines  int64        // newlines, of files whose rows are lines
	header *tensor.Header
}

// raw is a chunk on its way through the pipeline. Its bytes are shared by the
// worker that encodes them and the goroutine that hashes files.
type raw struct {
	buf     []byte
	owners  atomic.Int32
	element frame.Element
	parts   []part
	sum     Hash          // of the bytes, known to the worker
	known   *entry        // the chunk's entry, set by the worker; nil: the base has it
	done    chan struct{} // closed by the worker
}

// part is a run of bytes of a chunk that belong to one file.
type part struct {
	file int // number of the source
	n    int
	last bool // ends the file
}

// stream reads sources one after the other, cuts them into chunks and hands
// each, hashed, to the workers and, in stream order, to hash and collect.
type stream struct {
	sources []source
	out     []scanned
	workers int
	chunks  chan *raw // from read to sum
	work    chan *raw // from sum to the workers
	hashes  chan *raw // from read to hash
	order   chan *raw // from read to collect
	bufs    sync.Pool
	win     []byte

	chunksOnly bool                // files are not hashed
	base       map[string]baseFile // files that may be as they were, by path
}

// newStream returns a stream for so many workers; 0: one a CPU. Two chunks for
// each and those that are hashed together are in flight at most.
func newStream(sources []source, workers int) *stream {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	window := 2*workers + 4 + sums.Lanes
	s := &stream{
		sources: sources,
		out:     make([]scanned, len(sources)),
		workers: workers,
		chunks:  make(chan *raw, window),
		work:    make(chan *raw, window),
		hashes:  make(chan *raw, window),
		order:   make(chan *raw, window),
	}
	s.bufs.New = func() any { b := make([]byte, chunk.Max); return &b }
	return s
}

// run reads everything, calls encode from all workers at once and collect from
// one goroutine, in stream order, and returns when all is done.
func (s *stream) run(ctx context.Context, p Progress, encode func(worker int, c *raw) error, collect func(ctx context.Context, c *raw) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(s.chunks)
		defer close(s.hashes)
		defer close(s.order)
		return s.read(ctx, p)
	})
	g.Go(func() error {
		defer close(s.work)
		return s.sum(ctx)
	})
	for i := range s.workers {
		g.Go(func() error {
			for c := range s.work {
				if err := encode(i, c); err != nil {
					return err
				}
				close(c.done)
				s.release(c)
			}
			return nil
		})
	}
	g.Go(func() error {
		return s.hash(p)
	})
	g.Go(func() error {
		for c := range s.order {
			select {
			case <-c.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if err := collect(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// sum computes the SHA-256 of chunks, as many at once as the machine can. At
// nil, as at the end, it waits for no more.
func (s *stream) sum(ctx context.Context) error {
	var batch []*raw
	var bufs [][]byte
	out := make([][sha256.Size]byte, sums.Lanes)
	for more := true; more; {
		var c *raw
		if c, more = <-s.chunks; more && c != nil {
			batch, bufs = append(batch, c), append(bufs, c.buf)
			if len(batch) < sums.Lanes {
				continue
			}
		}
		sums.Sum256(out, bufs)
		for i, c := range batch {
			c.sum = out[i]
			if err := send(ctx, s.work, c); err != nil {
				return err
			}
		}
		batch, bufs = batch[:0], bufs[:0]
	}
	return nil
}

func (s *stream) release(c *raw) {
	if c.owners.Add(-1) == 0 {
		b := c.buf[:cap(c.buf)]
		c.buf = nil
		s.bufs.Put(&b)
	}
}

// emit sends a chunk of data down the pipeline.
func (s *stream) emit(ctx context.Context, buf []byte, el frame.Element, parts []part) error {
	c := &raw{buf: buf, element: el, parts: parts, done: make(chan struct{})}
	c.owners.Store(2)
	for _, to := range []chan *raw{s.order, s.hashes, s.chunks} {
		if err := send(ctx, to, c); err != nil {
			return err
		}
	}
	return nil
}

func send(ctx context.Context, to chan<- *raw, c *raw) error {
	select {
	case to <- c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stream) buffer() []byte { return *s.bufs.Get().(*[]byte) }

// read walks the sources: runs of small files together, others alone.
func (s *stream) read(ctx context.Context, p Progress) error {
	for i := 0; i < len(s.sources); {
		src := &s.sources[i]
		if h, err := s.header(src); err != nil {
			return err
		} else if h != nil {
			s.out[i].header = h
			done, err := s.unchanged(ctx, i, p)
			if err == nil && !done {
				err = s.tensors(ctx, i)
			}
			if err != nil {
				return err
			}
			i++
			continue
		}
		n := 1
		if src.size < ownRun {
			for i+n < len(s.sources) && s.sources[i+n].size < ownRun && !maybeTensors(s.sources[i+n].path) {
				n++
			}
		}
		if err := s.bytes(ctx, i, i+n); err != nil {
			return err
		}
		i += n
	}
	return nil
}

func maybeTensors(p string) bool {
	switch strings.ToLower(path.Ext(p)) {
	case ".safetensors", ".gguf":
		return true
	}
	return false
}

// header returns the tensors of a file cut at tensors, nil for any other. A
// malformed header makes a file plain bytes: mpack packs it all the same.
func (s *stream) header(src *source) (*tensor.Header, error) {
	if !maybeTensors(src.path) || src.size == 0 {
		return nil, nil
	}
	f, err := src.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := tensor.Read(src.path, f, src.size)
	if err != nil {
		return nil, nil
	}
	return h, nil
}

// tensors emits the chunks of a tensor file.
func (s *stream) tensors(ctx context.Context, i int) error {
	src := &s.sources[i]
	f, err := src.open()
	if err != nil {
		return err
	}
	defer f.Close()
	var done int64
	for _, p := range chunk.Tensors(src.size, s.out[i].header.Tensors) {
		buf := s.buffer()[:p.Size]
		if _, err := io.ReadFull(f, buf); err != nil {
			return readError(src, err)
		}
		done += p.Size
		if err := s.emit(ctx, buf, elementOf(p.DType), []part{{i, len(buf), done == src.size}}); err != nil {
			return err
		}
	}
	return ended(src, f)
}

// bytes emits the content-defined chunks of sources from to to, as one run.
func (s *stream) bytes(ctx context.Context, from, to int) error {
	if s.win == nil {
		s.win = make([]byte, 4*chunk.Max)
	}
	var (
		win    = s.win[:0]
		parts  []part // of the bytes in win, in order
		start  int    // of the bytes not emitted yet
		el     = frame.Bytes
		single = to-from == 1
	)
	if single {
		el = elementOfFile(s.sources[from].path)
	}
	flush := func(all bool) error {
		for len(win)-start >= chunk.Max || (all && start < len(win)) {
			n := chunk.Cut(win[start:])
			buf := s.buffer()[:n]
			copy(buf, win[start:])
			start += n
			var mine []part
			for n > 0 {
				p := &parts[0]
				k := min(n, p.n)
				n -= k
				mine = append(mine, part{p.file, k, p.last && k == p.n})
				if p.n -= k; p.n == 0 {
					parts = parts[1:]
				}
			}
			if err := s.emit(ctx, buf, el, mine); err != nil {
				return err
			}
		}
		win = s.win[:copy(s.win, win[start:])]
		start = 0
		return nil
	}
	for i := from; i < to; i++ {
		src := &s.sources[i]
		if src.size == 0 {
			s.out[i].sha = sha256.Sum256(nil)
			continue
		}
		f, err := src.open()
		if err != nil {
			return err
		}
		for left := src.size; left > 0; {
			if cap(win)-len(win) < chunk.Max {
				if err := flush(false); err != nil {
					f.Close()
					return err
				}
			}
			n, err := io.ReadFull(f, win[len(win):len(win)+int(min(left, int64(cap(win)-len(win))))])
			if err != nil {
				f.Close()
				return readError(src, err)
			}
			win = win[:len(win)+n]
			left -= int64(n)
			parts = append(parts, part{i, n, left == 0})
		}
		err = ended(src, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return flush(true)
}

func readError(src *source, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w: shorter than it was", src.path, tree.ErrChanged)
	}
	return fmt.Errorf("%s: %w", src.path, err)
}

// ended makes sure that a file has no more bytes than it had when it was listed.
func ended(src *source, f *os.File) error {
	var b [1]byte
	if n, _ := f.Read(b[:]); n > 0 {
		return fmt.Errorf("%s: %w: longer than it was", src.path, tree.ErrChanged)
	}
	return nil
}

// hash computes the SHA-256 of every file and counts the lines of those whose
// rows are lines.
func (s *stream) hash(p Progress) error {
	h := sums.NewFile()
	for c := range s.hashes {
		if s.chunksOnly {
			s.release(c)
			continue
		}
		b := c.buf
		for _, part := range c.parts {
			h.Write(b[:part.n])
			out := &s.out[part.file]
			if hasLines(s.sources[part.file].path) {
				out.lines += int64(bytes.Count(b[:part.n], []byte{'\n'}))
				if part.last && part.n > 0 && b[part.n-1] != '\n' {
					out.lines++ // the last line has no end
				}
			}
			b = b[part.n:]
			if part.last {
				out.sha, out.states = h.End()
				p.add(Delta{Files: 1})
			}
		}
		p.add(Delta{Bytes: int64(len(c.buf))})
		s.release(c)
	}
	return nil
}

func hasLines(p string) bool {
	switch strings.ToLower(path.Ext(p)) {
	case ".jsonl", ".ndjson", ".csv", ".tsv", ".txt":
		return true
	}
	return false
}

// elementOf says which bytes a tensor's dtype makes.
func elementOf(dtype string) frame.Element {
	switch dtype {
	case "BF16":
		return frame.BF16
	case "F16":
		return frame.F16
	case "F32":
		return frame.F32
	case "F64":
		return frame.F64
	case "F8_E4M3", "F8_E5M2":
		return frame.F8
	case "":
		return frame.Bytes
	}
	return frame.Opaque
}

// elementOfFile says the same of a file that is not cut at tensors.
func elementOfFile(p string) frame.Element {
	switch strings.ToLower(path.Ext(p)) {
	case ".gz", ".zst", ".xz", ".bz2", ".zip", ".7z", ".png", ".jpg", ".jpeg", ".webp", ".mp3", ".mp4", ".parquet":
		return frame.Opaque
	}
	return frame.Bytes
}

// streamReader reads runs of the stream again.
type streamReader struct {
	sources []source
	starts  []int64 // of each source in the stream
	cur     int     // number of the open source
	f       *os.File
}

func newStreamReader(sources []source) *streamReader {
	r := &streamReader{sources: sources, starts: make([]int64, len(sources)+1)}
	for i, s := range sources {
		r.starts[i+1] = r.starts[i] + s.size
	}
	return r
}

// read fills dst with the bytes from pos on, and names the file they begin in.
func (r *streamReader) read(dst []byte, pos int64) (path string, err error) {
	i := sort.Search(len(r.sources), func(i int) bool { return r.starts[i+1] > pos })
	if i == len(r.sources) {
		return "", io.ErrUnexpectedEOF
	}
	path = r.sources[i].path
	for ; len(dst) > 0; i++ {
		if i == len(r.sources) {
			return path, io.ErrUnexpectedEOF
		}
		n := min(int64(len(dst)), r.starts[i+1]-pos)
		if n == 0 {
			continue
		}
		if r.f == nil || r.cur != i {
			r.Close()
			if r.f, err = r.sources[i].open(); err != nil {
				return path, err
			}
			r.cur = i
		}
		if _, err := r.f.ReadAt(dst[:n], pos-r.starts[i]); err != nil {
			return path, readError(&r.sources[i], err)
		}
		dst, pos = dst[n:], pos+n
	}
	return path, nil
}

// Close closes the file that was read last.
func (r *streamReader) Close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}
