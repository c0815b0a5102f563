package layout

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"mpack/layout/chunk"
	"mpack/layout/frame"
	"mpack/layout/sums"
)

// mergeGap is how many unwanted bytes are fetched rather than asking again.
const mergeGap = 128 << 10

// piece is a wanted chunk in a layer.
type piece struct {
	Chunk
	places []int32 // where in the stream
	later  bool    // it is verified with its file
}

// fetchAll gets the chunks that are nowhere on this machine.
func (a *assembly) fetchAll(ctx context.Context) error {
	w := a.wanted()
	order := make([]int32, 0, w.left) // first places, as they lie in the layers
	for i := 0; i < len(w.places); i += len(w.at(i)) {
		order = append(order, int32(i))
	}
	chunkAt := func(first int32) *Chunk { return &a.ix.Chunks[w.places[first]] }
	slices.SortFunc(order, func(i, j int32) int {
		c, d := chunkAt(i), chunkAt(j)
		return cmp.Or(cmp.Compare(c.Layer, d.Layer), cmp.Compare(c.Offset, d.Offset))
	})
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.opts.Workers)
	idle := make(chan *fetcher, a.opts.Workers) // a sync.Pool would let their buffers go, and touch new ones
	for len(order) > 0 && gctx.Err() == nil {
		l := chunkAt(order[0]).Layer
		n := 1
		for n < len(order) && chunkAt(order[n]).Layer == l {
			n++
		}
		mine := order[:n]
		order = order[n:]
		g.Go(func() error {
			ps := make([]piece, len(mine))
			for i, first := range mine {
				places := w.at(int(first))
				ps[i] = piece{*chunkAt(first), places, a.verifiedLater(places)}
			}
			var f *fetcher
			select {
			case f = <-idle:
			default:
				f = newFetcher(a)
			}
			defer func() { idle <- f }()
			if err := f.layer(gctx, int(l), ps); err != nil {
				return fmt.Errorf("layer sha256:%s: %w", a.layers[l].Digest, err)
			}
			return nil
		})
	}
	err := g.Wait()
	a.result.Fetched, a.result.Local = a.fetched.Load(), a.local.Load()
	if err != nil {
		return err
	}
	return context.Cause(ctx)
}

// fetcher fetches layers, one at a time.
type fetcher struct {
	a   *assembly
	dec *frame.Decoder
	enc []byte

	// What is decoded and not yet verified: as many chunks as are hashed at once.
	raw  []byte // what bufs holds lies in it
	bufs [][]byte
	sums [][sha256.Size]byte
}

func newFetcher(a *assembly) *fetcher {
	d, err := frame.NewDecoder()
	if err != nil {
		panic(err) // its options are constants
	}
	n := a.batch()
	return &fetcher{
		a: a, dec: d,
		enc:  make([]byte, frame.Bound(chunk.Max)),
		bufs: make([][]byte, 0, n),
		sums: make([][sha256.Size]byte, n),
	}
}

// batchMemory is how many bytes of chunks wait for their hash at most, in all
// workers together.
const batchMemory = 40 << 20

// batch returns how many chunks a worker hashes at once: only one where there
// are too many workers, and so processors, for more to be worth the memory.
func (a *assembly) batch() int {
	n := min(sums.Lanes, batchMemory/chunk.Max/a.opts.Workers)
	if n < sums.Lanes/2 {
		return 1
	}
	return max(1, n)
}

// maxWait is how long what has come waits to be hashed with more: where the
// network is slow there is time to hash it at once, and a pull that is killed
// should lose little.
const maxWait = 100 * time.Millisecond

// tries is how often a transfer is begun again without a chunk gained.
const tries = 4

// layer fetches the wanted pieces of one layer, in order of their offsets.
func (f *fetcher) layer(ctx context.Context, l int, ps []piece) error {
	// A layer of which nearly all is wanted comes as a whole: one request, and a cache can serve it.
	var want int64
	for _, p := range ps {
		want += int64(p.Length)
	}
	gap := int64(mergeGap)
	if want*8 >= f.a.layers[l].Size*7 {
		gap = f.a.layers[l].Size
	}
	if n := room(ps, cap(f.bufs)); n > cap(f.raw) {
		f.raw = make([]byte, 0, n)
	}
	for failed := 0; len(ps) > 0; {
		n := run(ps, gap)
		done, err := f.pieces(ctx, l, ps[:n], ps)
		ps = ps[done:]
		if err == nil {
			failed = 0
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var local *localError
		if done > 0 {
			failed = 0
		}
		if errors.Is(err, ErrCorrupt) {
			failed++ // a broken connection is likelier to mend than a broken blob
		}
		if failed++; failed >= tries || errors.As(err, &local) || !retryable(err) {
			return err
		}
		f.a.opts.Progress.add(Delta{Retries: 1})
		select {
		case <-time.After(time.Duration(failed*failed) * 200 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// localError is a failure of this machine's disk, which no retry mends.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// retryable reports whether a transfer that failed may succeed when begun
// again: any but those whose source says that it will not.
func retryable(err error) bool {
	var f Final
	return !errors.As(err, &f) || !f.Final()
}

// run returns how many pieces from the first on come with one request.
func run(ps []piece, gap int64) int {
	n := 1
	for n < len(ps) && ps[n].Offset-(ps[n-1].Offset+int64(ps[n-1].Length)) <= gap {
		n++
	}
	return n
}

// room returns how many raw bytes of ps wait to be verified at most, if n
// chunks are verified at once.
func room(ps []piece, n int) int {
	var from, sum, most int
	for i, p := range ps {
		sum += int(p.Size)
		if i-from >= n {
			sum -= int(ps[i-n].Size)
		}
		most = max(most, sum)
		if p.later {
			from, sum = i+1, 0
		}
	}
	return most
}

// pieces fetches ps with one request and returns how many were written. If the
// source sends the whole layer all the same, it takes the rest of the layer's
// pieces from it too.
func (f *fetcher) pieces(ctx context.Context, l int, ps, all []piece) (done int, err error) {
	start := ps[0].Offset
	end := ps[len(ps)-1].Offset + int64(ps[len(ps)-1].Length)
	body, whole, err := f.a.fetch(ctx, l, start, end-start)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	pos := start
	if whole {
		ps, pos = all, 0
	}
	r := bufio.NewReaderSize(body, 256<<10)
	f.raw, f.bufs = f.raw[:0], f.bufs[:0]
	began := time.Now()
	for i := range ps {
		p := &ps[i]
		if err = f.decode(r, p, &pos); err != nil {
			break
		}
		if p.later || len(f.bufs) == cap(f.bufs) || time.Since(began) > maxWait {
			n, err := f.flush(ctx, ps[done:])
			if done += n; err != nil {
				return done, err
			}
			began = time.Now()
		}
	}
	// What came before a failure is kept.
	n, flushErr := f.flush(ctx, ps[done:])
	return done + n, cmp.Or(flushErr, err)
}

// decode reads and decodes a piece behind those that wait to be verified. pos
// is where in the layer r is.
func (f *fetcher) decode(r *bufio.Reader, p *piece, pos *int64) error {
	// Two pieces never overlap in an honest index; a lying one is refused here, not earlier, as it costs nothing.
	if p.Offset < *pos {
		return fmt.Errorf("%w: chunks overlap in the layer", ErrCorrupt)
	}
	if _, err := r.Discard(int(p.Offset - *pos)); err != nil {
		return err
	}
	enc := f.enc[:p.Length]
	if _, err := io.ReadFull(r, enc); err != nil {
		return fmt.Errorf("read chunk at %d: %w", p.Offset, err)
	}
	*pos = p.Offset + int64(p.Length)
	raw := f.raw[len(f.raw):][:p.Size]
	if err := f.dec.Decode(raw, enc, p.Filter); err != nil {
		return fmt.Errorf("%w: chunk at %d: %w", ErrCorrupt, p.Offset, err)
	}
	f.raw, f.bufs = f.raw[:len(f.raw)+len(raw)], append(f.bufs, raw)
	return nil
}

// flush verifies what was decoded, which are the first of ps, writes it and
// returns how many were written. Only the last may be verified later.
func (f *fetcher) flush(ctx context.Context, ps []piece) (done int, err error) {
	hashed := f.bufs
	if n := len(hashed); n > 0 && ps[n-1].later {
		hashed = hashed[:n-1]
	}
	sums.Sum256(f.sums, hashed)
	for i, raw := range f.bufs {
		p := &ps[i]
		if i < len(hashed) && f.sums[i] != p.SHA256 {
			return i, fmt.Errorf("%w: chunk at %d has another SHA-256", ErrCorrupt, p.Offset)
		}
		if err := f.write(ctx, p, raw); err != nil {
			return i, &localError{err}
		}
	}
	done = len(f.bufs)
	f.raw, f.bufs = f.raw[:0], f.bufs[:0]
	return done, nil
}

// write writes a decoded piece wherever it is wanted.
func (f *fetcher) write(ctx context.Context, p *piece, raw []byte) error {
	a := f.a
	a.fetched.Add(int64(p.Length))
	a.opts.Progress.add(Delta{Bytes: int64(p.Size) * int64(len(p.places)), Stored: int64(p.Length), Sent: int64(p.Length)})
	for _, i := range p.places {
		full, err := a.write(int(i), raw)
		if err != nil {
			return err
		}
		for _, t := range full {
			if err := a.complete(ctx, t); err != nil {
				return err
			}
		}
	}
	return nil
}
