package layout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"

	"mpack/layout/chunk"
	"mpack/layout/frame"
)

// Nobody can read terabytes in a test: these plans are made of chunks with
// made-up hashes that are encoded in four bytes each.

// planner packs such trees.
type planner struct {
	t   testing.TB
	ctx context.Context
	*packer
}

func newPlanner(t testing.TB, total int64, base *Packed) *planner {
	p := &planner{t: t, packer: newPacker(PackOptions{}, total)}
	if base != nil {
		p.useBase(&Base{Index: base.Index, Layers: base.Layers})
	}
	p.ctx = p.start(t.Context(), func(context.Context, Layer, io.ReadSeeker) error { return nil })
	return p
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// add adds a chunk of size bytes with the content that n stands for.
func (p *planner) add(n uint64, size int) {
	var in [8]byte
	binary.LittleEndian.PutUint64(in[:], n)
	c := &raw{sum: sha256.Sum256(in[:]), done: closed, parts: []part{{n: size}}}
	e := p.seen[c.sum]
	if e == nil {
		e = &entry{owner: c, enc: append(p.encBuffer(), in[:4]...)}
		p.seen[c.sum] = e
	}
	c.known = e
	if err := p.collect(p.ctx, c); err != nil {
		p.t.Fatal(err)
	}
}

// done does what Pack does after the last chunk.
func (p *planner) done() *Packed {
	drop := p.sparse()
	for i, e := range p.places {
		if drop[e.place.layer] {
			e.enc = append(p.encBuffer(), "test"...)
			if err := p.store(p.ctx, e, p.chunks[i].SHA256, int(p.chunks[i].Size)); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	if err := p.end(p.ctx, nil); err != nil {
		p.t.Fatal(err)
	}
	return p.number()
}

// mostLayers is what package oci and registries take.
const mostLayers = 4000

func TestPlanOf2TBHasFewLayers(t *testing.T) {
	const total = 2 << 40
	p := newPlanner(t, total, nil)
	for n := range uint64(total / chunk.Max) {
		p.add(n, chunk.Max)
	}
	out := p.done()
	t.Logf("%d chunks in %d layers, a step is %d MiB", len(out.Index.Chunks), len(out.Layers), p.step>>20)
	if n := len(out.Layers); n > mostLayers/2 || n < wantLayers/4 {
		t.Errorf("%d layers", n)
	}
	var last Chunk
	for i, c := range out.Index.Chunks {
		if i > 0 && c.Layer == last.Layer && c.Offset != last.Offset+int64(last.Length) || c.Layer < last.Layer || c.Layer > last.Layer+1 {
			t.Fatalf("chunk %d lies at %d of layer %d, behind one at %d of layer %d", i, c.Offset, c.Layer, last.Offset, last.Layer)
		}
		last = c
	}
}

func TestStepsKeepTheNumberOfLayers(t *testing.T) {
	for total := int64(1); total < 1<<50; total *= 2 {
		if n := total / stepFor(total); n > wantLayers {
			t.Errorf("%d bytes: %d steps", total, n)
		}
	}
}

// A layer's end at one step is an end at half of it, so that a tree that grows
// over a threshold keeps many of its layers.
func TestEndsAtOneStepAreEndsAtHalf(t *testing.T) {
	var in [8]byte
	ends := 0
	for n := range uint64(1 << 20) {
		binary.LittleEndian.PutUint64(in[:], n)
		sum := Hash(sha256.Sum256(in[:]))
		if endsLayer(sum, chunk.Avg, 64<<20, 128<<20) {
			ends++
			if !endsLayer(sum, chunk.Avg, 64<<20, 64<<20) {
				t.Fatalf("%s ends a layer at one step, not at half of it", sum)
			}
		}
	}
	if want := (1 << 20) * chunk.Avg / (128 << 20); ends < want*9/10 || ends > want*11/10 {
		t.Errorf("%d ends, want about %d", ends, want)
	}
}

// However many versions one is based on the other, layers do not add up, none
// is listed for less than half of it, and little is stored twice.
func TestALongSeriesOfBasesHasFewLayers(t *testing.T) {
	const total, size, versions = 32 << 30, chunk.Max, 10
	for _, c := range []struct {
		name   string
		change func(n, version uint64) bool // whether chunk n is new in a version
		part   float64                      // of the chunks, about
	}{
		{"a chunk here and there", func(n, v uint64) bool { return (n*2654435761+v*40503)>>7%100 == 0 }, 0.01},
		{"runs of chunks", func(n, v uint64) bool { return (n/64*2654435761+v*40503)>>7%20 == 0 }, 0.05},
		{"a third", func(n, v uint64) bool { return (n+v)%3 == 0 }, 1. / 3},
		{"nearly nothing", func(n, v uint64) bool { return n == v*1000 }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			content := make([]uint64, total/size)
			for n := range content {
				content[n] = uint64(n)
			}
			var base *Packed
			var stored, most int
			for v := range uint64(versions) {
				p := newPlanner(t, total, base)
				for n := range content {
					if v > 0 && c.change(uint64(n), v) {
						content[n] = v<<32 | uint64(n)
					}
					p.add(content[n], size)
				}
				out := p.done()
				used := out.Index.Used(len(out.Layers))
				for i, l := range out.Layers {
					if !out.Reused[i] {
						stored += int(l.Size) / 4
					} else if used[i]*2 < l.Size {
						t.Fatalf("version %d lists a layer of the base for %d of its %d bytes", v, used[i], l.Size)
					}
				}
				most = max(most, len(out.Layers))
				base = out
			}
			changed := float64(versions-1)*c.part*float64(len(content)) + float64(len(content))
			t.Logf("at most %d layers; stored %d chunks of %.0f that were new", most, stored, changed)
			if most > mostLayers {
				t.Errorf("%d layers", most)
			}
			if float64(stored) > 3*changed {
				t.Errorf("stored %d chunks, %.0f were new", stored, changed)
			}
		})
	}
}

// The figures in SPEC.md: what an index takes of a registry and of memory.
func TestAnIndexIsSmall(t *testing.T) {
	p := newPlanner(t, 1<<37, nil)
	for n := range uint64(1 << 17) {
		p.add(n, chunk.Max)
	}
	ix := p.done().Index
	var at int64
	for i := range ix.Chunks { // as BF16 weights have them
		c := &ix.Chunks[i]
		if i == 0 || c.Layer != ix.Chunks[i-1].Layer {
			at = 0
		}
		c.Filter, c.Offset, c.Length = frame.Filter(1), at, 690_000+int32(c.SHA256[0])*16
		at += int64(c.Length)
	}
	b, err := ix.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	each := float64(len(b)) / float64(len(ix.Chunks))
	t.Logf("%.1f bytes a chunk, %.5f %% of the weights", each, 100*each/chunk.Max)
	if each > 48 {
		t.Errorf("%.1f bytes a chunk", each)
	}
}
