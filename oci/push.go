package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"mpack/layout"
	"mpack/layout/frame"
	"mpack/layout/tree"
)

// ManualFile is the file in a tree that says what cannot be guessed.
const ManualFile = "mpack.yaml"

// Values of PushOptions.Base that are not references.
const (
	BaseAuto = "auto" // the tag being replaced, else the newest artifact of the kind that the last tags name
	BaseNone = "none" // layers depend on the tree alone
)

// PushOptions are how a tree is pushed. The zero value is good.
type PushOptions struct {
	Kind        string            // "model" or "corpus"; "": guessed
	Annotations map[string]string // added to the manifest's, and winning
	Include     []string          // patterns, see layout/tree
	Exclude     []string
	Base        string      // a reference, BaseAuto or BaseNone; "" is BaseAuto
	Level       frame.Level // zstd level of what are not weights
	Workers     int         // goroutines that compress; 0: one a CPU
	Created     time.Time   // written as org.opencontainers.image.created; zero: not written
	Progress    layout.Progress

	// Before is called when everything is stored and before the tag moves; an
	// error leaves the tag where it was.
	Before func(ctx context.Context, r *Repo, d ocispec.Descriptor, c *Config) error
}

// Pushed is what a push did.
type Pushed struct {
	Reference  Reference // with tag and digest
	Descriptor ocispec.Descriptor
	Config     *Config
	Base       string // reference@digest of the base; "" without one
	Files      int
	Read       int64 // raw bytes
	Stored     int64 // bytes of all blobs that the manifest lists, with itself
	Sent       int64 // bytes uploaded
	Present    int64 // bytes of blobs that were there already
	Warnings   []string
}

// Push packs the directory and stores it under ref, in one pass: layers are
// sent while later ones are packed.
func (c *Client) Push(ctx context.Context, ref Reference, dir string, o PushOptions) (*Pushed, error) {
	p := &push{client: c, opts: o, ref: ref}
	out, err := p.run(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", ref, err)
	}
	return out, nil
}

type push struct {
	client *Client
	opts   PushOptions
	ref    Reference
	repo   *Repo
	base   *Artifact // nil without one
	sent   atomic.Int64
	there  atomic.Int64
}

func (p *push) run(ctx context.Context, dir string) (_ *Pushed, err error) {
	if p.ref.Digest != "" {
		return nil, fmt.Errorf("%w: a push makes the digest; give a tag alone", ErrReference)
	}
	t, err := tree.Walk(ctx, dir, tree.Options{Include: p.opts.Include, Exclude: p.opts.Exclude})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if len(t.Entries()) == 0 {
		return nil, fmt.Errorf("%s: nothing to pack: no file, or all are ignored", dir)
	}
	if err := p.notInItself(dir, t.Entries()); err != nil {
		return nil, err
	}
	manual, err := readManual(dir)
	if err != nil {
		return nil, err
	}
	if p.opts.Kind != "" {
		manual.Kind = p.opts.Kind
	}
	if p.repo, err = p.client.open(ctx, p.ref, forWrite); err != nil {
		return nil, err
	}
	defer func() { err = p.repo.end(err) }()
	if err := p.findBase(ctx, manual.Kind); err != nil {
		return nil, err
	}
	lo := layout.PackOptions{Level: p.opts.Level, Workers: p.opts.Workers, Progress: p.opts.Progress}
	if p.base != nil {
		ix, err := p.base.Index(ctx)
		if err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
		lo.Base = &layout.Base{Index: ix, Layers: p.base.Layers()}
	}
	packed, err := layout.Pack(ctx, t, lo, func(ctx context.Context, l layout.Layer, body io.ReadSeeker) error {
		return p.blob(ctx, layerDescriptor(l), body)
	})
	if err != nil {
		return nil, err
	}
	if err := p.ensureBase(ctx, packed); err != nil {
		return nil, err
	}
	config, warnings, err := describe(ctx, t, packed, manual)
	if err != nil {
		return nil, err
	}
	d, raw, err := p.manifest(ctx, packed, config)
	if err != nil {
		return nil, err
	}
	if err := p.repo.pushManifest(ctx, d, raw); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if p.opts.Before != nil {
		if err := p.opts.Before(ctx, p.repo, d, config); err != nil {
			return nil, err
		}
	}
	if err := p.repo.tag(ctx, d, raw, p.ref.Tag); err != nil {
		return nil, fmt.Errorf("tag: %w", err)
	}
	out := &Pushed{Reference: p.ref, Descriptor: d, Config: config, Files: len(packed.Index.Files), Read: packed.Index.Size(),
		Sent: p.sent.Load(), Present: p.there.Load(), Warnings: warnings}
	out.Reference.Digest = d.Digest
	if p.base != nil {
		out.Base = p.base.Repo.Ref.Name() + "@" + string(p.base.Descriptor.Digest)
	}
	a := Artifact{raw: raw}
	if err := json.Unmarshal(raw, &a.Manifest); err != nil {
		return nil, err
	}
	out.Stored = a.StoredSize()
	return out, nil
}

// notInItself refuses to pack the layout or archive that is written to: every
// push would pack those before.
func (p *push) notInItself(dir string, entries []tree.Entry) error {
	if p.ref.Scheme == Registry {
		return nil
	}
	root, err := filepath.Abs(dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return err
	}
	to, err := filepath.Abs(p.ref.Path)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(to); err == nil {
		to = real
	}
	rel, err := filepath.Rel(root, to)
	if err != nil || !filepath.IsLocal(rel) {
		return nil // another place
	}
	rel = filepath.ToSlash(rel)
	if rel == "." || slices.ContainsFunc(entries, func(e tree.Entry) bool { return e.Path == rel || strings.HasPrefix(e.Path, rel+"/") }) {
		return fmt.Errorf("%w: %s lies in %s and would be packed too: put it elsewhere, or leave it out with --exclude", ErrReference, p.ref.Path, dir)
	}
	return nil
}

func readManual(dir string) (*Manual, error) {
	f, err := os.Open(filepath.Join(dir, ManualFile))
	if errors.Is(err, os.ErrNotExist) {
		return new(Manual), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := ReadManual(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ManualFile), err)
	}
	return m, nil
}

func layerDescriptor(l layout.Layer) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: TypeLayer, Digest: digest.NewDigestFromEncoded(digest.SHA256, l.Digest.String()), Size: l.Size}
}

// blob stores a blob and counts it.
func (p *push) blob(ctx context.Context, d ocispec.Descriptor, body io.ReadSeeker) error {
	count := &countedBody{ReadSeeker: body, p: p}
	sent, err := p.repo.pushBlob(ctx, d, count, func() { p.report(layout.Delta{Retries: 1}) })
	if err != nil {
		return err
	}
	if !sent {
		p.there.Add(d.Size)
		p.report(layout.Delta{Present: d.Size})
	}
	return nil
}

func (p *push) report(d layout.Delta) {
	if p.opts.Progress != nil {
		p.opts.Progress(d)
	}
}

// countedBody counts what is really sent, also what is sent twice.
type countedBody struct {
	io.ReadSeeker
	p *push
}

func (b *countedBody) Read(q []byte) (int, error) {
	n, err := b.ReadSeeker.Read(q)
	b.p.sent.Add(int64(n))
	b.p.report(layout.Delta{Sent: int64(n)})
	return n, err
}

// findBase opens the artifact whose chunks need not be stored again.
func (p *push) findBase(ctx context.Context, kind string) error {
	switch p.opts.Base {
	case BaseNone:
		return nil
	case "", BaseAuto:
		a, err := p.autoBase(ctx, kind)
		if err != nil {
			// Without a base the push is larger, not wrong.
			p.client.opts.Debug("no base: %v", err)
		}
		p.base = a
		return ctx.Err()
	}
	ref, err := ParseReference(p.opts.Base)
	if err != nil {
		return err
	}
	r, err := p.client.Open(ctx, ref)
	if err != nil {
		return fmt.Errorf("base: %w", err)
	}
	if p.base, err = r.Artifact(ctx); err != nil {
		return fmt.Errorf("base: %w", err)
	}
	return nil
}

// baseTries is how many tags are looked at for one that holds an artifact, and
// for the newest of those that do.
const baseTries = 5

func (p *push) autoBase(ctx context.Context, kind string) (*Artifact, error) {
	look := func(tag string) (*Artifact, error) {
		r := *p.repo
		r.Ref.Tag = tag
		a, err := r.Artifact(ctx)
		if err == nil && kind != "" && a.Config.Kind != kind {
			err = fmt.Errorf("%w of kind %s", ErrNotArtifact, kind)
		}
		return a, err
	}
	a, err := look(p.ref.Tag)
	if err == nil {
		_, err = a.Index(ctx)
	}
	if err == nil {
		return a, nil
	}
	if !isNotArtifact(err) {
		return nil, err
	}
	tags, err := p.repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	slices.Reverse(tags)
	var newest []*Artifact
	dated := true
	for _, tag := range tags[:min(len(tags), baseTries)] {
		a, err := look(tag)
		if err != nil {
			continue
		}
		newest = append(newest, a)
		if dated = !a.made().IsZero(); !dated {
			break // the order of tags must do
		}
	}
	if dated {
		slices.SortStableFunc(newest, func(a, b *Artifact) int { return b.made().Compare(a.made()) })
	}
	for _, a := range newest {
		if _, err := a.Index(ctx); err == nil {
			return a, nil
		}
	}
	return nil, nil
}

// ensureBase makes sure that every layer of the base that the new artifact
// lists is where the artifact goes: mounted or copied if it lies elsewhere.
func (p *push) ensureBase(ctx context.Context, packed *layout.Packed) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * p.client.opts.Concurrency)
	for i, l := range packed.Layers {
		if !packed.Reused[i] {
			continue
		}
		g.Go(func() error {
			d := layerDescriptor(l)
			sent, err := p.repo.transfer(ctx, p.base.Repo, d, func(n int64) {
				p.sent.Add(n)
				p.report(layout.Delta{Sent: n})
			})
			if err != nil {
				return fmt.Errorf("layer of the base: %w (--base none does without it)", err)
			}
			if !sent {
				p.there.Add(d.Size)
				p.report(layout.Delta{Present: d.Size})
			}
			return nil
		})
	}
	return g.Wait()
}

// manifest stores index and config and returns the manifest.
func (p *push) manifest(ctx context.Context, packed *layout.Packed, c *Config) (ocispec.Descriptor, []byte, error) {
	var none ocispec.Descriptor
	index, err := packed.Index.Marshal()
	if err != nil {
		return none, nil, err
	}
	config, err := c.Marshal()
	if err != nil {
		return none, nil, err
	}
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: TypeModel,
		Config:       descriptor(TypeConfig, config),
		Layers:       []ocispec.Descriptor{descriptor(TypeIndex, index)},
		Annotations:  annotations(c, p.opts.Created),
	}
	if c.Kind == KindCorpus {
		m.ArtifactType = TypeCorpus
	}
	for _, l := range packed.Layers {
		m.Layers = append(m.Layers, layerDescriptor(l))
	}
	maps.Copy(m.Annotations, p.opts.Annotations)
	if len(m.Annotations) == 0 {
		m.Annotations = nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return none, nil, err
	}
	if len(packed.Layers) > maxLayers || len(raw) > maxManifest {
		return none, nil, fmt.Errorf("%d layers and a manifest of %d bytes are more than registries take; push with --base none", len(packed.Layers), len(raw))
	}
	if err := p.blob(ctx, m.Config, bytes.NewReader(config)); err != nil {
		return none, nil, err
	}
	if err := p.blob(ctx, m.Layers[0], bytes.NewReader(index)); err != nil {
		return none, nil, err
	}
	d := descriptor(ocispec.MediaTypeImageManifest, raw)
	d.ArtifactType = m.ArtifactType
	return d, raw, nil
}

// describe makes the config of a packed tree.
func describe(ctx context.Context, t *tree.Tree, packed *layout.Packed, m *Manual) (*Config, []string, error) {
	entries := map[string]tree.Entry{}
	for _, e := range t.Entries() {
		entries[e.Path] = e
	}
	src := Tree{Open: func(path string) (*os.File, error) {
		e, ok := entries[path]
		if !ok {
			return nil, fmt.Errorf("%s: %w", path, os.ErrNotExist)
		}
		return t.Open(e)
	}}
	for i := range packed.Index.Files {
		f := &packed.Index.Files[i]
		if !f.Regular() {
			continue
		}
		s := TreeFile{Path: f.Path, Size: f.Size, Lines: -1, Tensors: f.Tensors}
		if n, ok := packed.Lines[f.Path]; ok {
			s.Lines = n
		}
		if h := packed.Headers[f.Path]; h != nil {
			s.Metadata = h.Metadata
		}
		src.Files = append(src.Files, s)
	}
	c, warnings, err := Describe(ctx, src, *m)
	if err != nil {
		return nil, nil, err
	}
	c.TotalSize = packed.Index.Size()
	c.Files = len(packed.Index.Files)
	c.ContentDigest = "sha256:" + packed.Index.ContentDigest().String()
	return c, warnings, nil
}
