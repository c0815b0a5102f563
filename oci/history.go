package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mpack/layout"
)

// Version is an artifact of a repository that has tags.
type Version struct {
	*Artifact
	Tags []string // in version order
}

// Created returns what the artifact states as its creation time, "" for nothing.
func (a *Artifact) Created() string { return a.Manifest.Annotations[ocispec.AnnotationCreated] }

// made is Created as a time; zero if it states none.
func (a *Artifact) made() time.Time {
	t, err := time.Parse(time.RFC3339, a.Created())
	if err != nil {
		return time.Time{}
	}
	return t
}

// Versions returns the repository's artifacts, the oldest first: by their
// creation times where all state one, else by their tags as version numbers.
// Tags of what is not mpack's are passed over, and those removed meanwhile.
func (r *Repo) Versions(ctx context.Context) ([]*Version, error) {
	tags, err := r.Tags(ctx)
	if err != nil {
		return nil, err
	}
	byDigest := map[digest.Digest]*Version{}
	var vs []*Version
	dated := true
	for _, tag := range tags {
		at := *r
		at.Ref.Tag, at.Ref.Digest = tag, ""
		d, err := at.Resolve(ctx)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if v := byDigest[d.Digest]; v != nil {
			v.Tags = append(v.Tags, tag)
			continue
		}
		a, err := at.ArtifactAt(ctx, d)
		if errors.Is(err, ErrNotFound) { // it was removed, or it is broken
			if now, again := at.Resolve(ctx); errors.Is(again, ErrNotFound) || again == nil && now.Digest != d.Digest {
				continue
			}
		}
		if errors.Is(err, ErrNotArtifact) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v := &Version{Artifact: a, Tags: []string{tag}}
		byDigest[d.Digest] = v
		vs = append(vs, v)
		dated = dated && !v.made().IsZero()
	}
	slices.SortStableFunc(vs, func(a, b *Version) int {
		if byTime := a.made().Compare(b.made()); dated && byTime != 0 {
			return byTime
		}
		return compareVersions(a.Tags[0], b.Tags[0])
	})
	return vs, nil
}

// Step is a version beside the one before it.
type Step struct {
	*Version
	Added   int64              // encoded bytes of chunks that the version before has not
	Removed int64              // encoded bytes of chunks that this version has no more
	Diff    *layout.Difference // from the version before; of the first, from nothing
}

// Log calls f for every version of the repository, the oldest first.
func (r *Repo) Log(ctx context.Context, f func(Step) error) error {
	vs, err := r.Versions(ctx)
	if err != nil {
		return err
	}
	before := new(layout.Index)
	for _, v := range vs {
		ix, err := v.Index(ctx)
		if err != nil {
			return err
		}
		v.index = nil // two at a time are enough
		s := Step{Version: v, Diff: layout.Compare(before, ix)}
		s.Added, s.Removed = s.Diff.Fetch, layout.Compare(ix, before).Fetch
		if err := f(s); err != nil {
			return err
		}
		before = ix
	}
	return nil
}

// LayerUse says who uses a layer of a repository.
type LayerUse struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	Kept      bool          `json:"kept"`      // a kept version lists it
	UsedBytes int64         `json:"usedBytes"` // encoded bytes of chunks that a kept version uses there
	OldBytes  int64         `json:"oldBytes"`  // encoded bytes of chunks that old versions alone use there
	OldChunks int           `json:"oldChunks"`
}

// Usage is what old versions hold on to.
type Usage struct {
	Kept, Old []*Version
	Layers    []LayerUse // that hold chunks of old versions alone, largest OldBytes first
	Stored    int64      // bytes of all layers
	Free      int64      // bytes of layers that no kept version lists: freed when the old ones are removed
	Dead      int64      // OldBytes of layers that a kept version lists: freed by Repack alone
}

// Usage tells apart the keep newest versions and the old ones, and says which
// chunks of which layers old versions alone use.
func (r *Repo) Usage(ctx context.Context, keep int) (*Usage, error) {
	vs, err := r.Versions(ctx)
	if err != nil {
		return nil, err
	}
	cut := max(0, len(vs)-keep)
	u := &Usage{Old: vs[:cut], Kept: vs[cut:]}
	type place struct {
		layer  layout.Hash
		offset int64
	}
	layers := map[layout.Hash]*LayerUse{}
	seen := map[place]bool{}
	for i := range vs {
		v := vs[len(vs)-1-i] // the kept first: what they use is not old
		kept := i < len(u.Kept)
		ix, err := v.Index(ctx)
		if err != nil {
			return nil, err
		}
		v.index = nil
		ls := v.Layers()
		for n, l := range ls {
			if layers[l.Digest] == nil {
				layers[l.Digest] = &LayerUse{Digest: v.Manifest.Layers[n+1].Digest, Size: l.Size}
				u.Stored += l.Size
			}
			layers[l.Digest].Kept = layers[l.Digest].Kept || kept
		}
		for j := range ix.Chunks {
			c := &ix.Chunks[j]
			at := place{ls[c.Layer].Digest, c.Offset}
			if seen[at] {
				continue
			}
			seen[at] = true
			if use := layers[at.layer]; kept {
				use.UsedBytes += int64(c.Length)
			} else {
				use.OldBytes += int64(c.Length)
				use.OldChunks++
			}
		}
	}
	for _, l := range layers {
		switch {
		case !l.Kept:
			u.Free += l.Size
		case l.OldBytes > 0:
			u.Dead += l.OldBytes
		default:
			continue
		}
		u.Layers = append(u.Layers, *l)
	}
	slices.SortFunc(u.Layers, func(a, b LayerUse) int {
		if a.OldBytes != b.OldBytes {
			return int(min(1, max(-1, b.OldBytes-a.OldBytes)))
		}
		return bytes.Compare([]byte(a.Digest), []byte(b.Digest))
	})
	return u, nil
}

// Repacked is what Repack did.
type Repacked struct {
	Reference  Reference // with tag and digest
	Descriptor ocispec.Descriptor
	Before     int64 // bytes of all blobs of the version as it was
	Stored     int64 // and as it is
	Sent       int64 // bytes uploaded
}

// Repack rewrites the version that ref names so that no layer of it is used
// less than minUse, 0 to 1, and moves the tag. The files stay the same; the
// digest does not, so the new version has no signature. When no layer is
// sparse nothing changes.
func (c *Client) Repack(ctx context.Context, ref Reference, minUse float64, progress layout.Progress) (*Repacked, error) {
	out, err := c.repack(ctx, ref, minUse, progress)
	if err != nil {
		return nil, fmt.Errorf("repack %s: %w", ref, err)
	}
	return out, nil
}

func (c *Client) repack(ctx context.Context, ref Reference, minUse float64, progress layout.Progress) (_ *Repacked, err error) {
	if ref.Digest != "" {
		return nil, fmt.Errorf("%w: a repack makes a new digest; give a tag alone", ErrReference)
	}
	p := &push{client: c, ref: ref, opts: PushOptions{Progress: progress}}
	if p.repo, err = c.open(ctx, ref, forWrite); err != nil {
		return nil, err
	}
	defer func() { err = p.repo.end(err) }()
	a, err := p.repo.Artifact(ctx)
	if err != nil {
		return nil, err
	}
	ix, err := a.Index(ctx)
	if err != nil {
		return nil, err
	}
	packed, err := layout.Repack(ctx, ix, a.Layers(), a.Fetch, layout.RepackOptions{MinUse: minUse, Progress: progress},
		func(ctx context.Context, l layout.Layer, body io.ReadSeeker) error {
			return p.blob(ctx, layerDescriptor(l), body)
		})
	if err != nil {
		return nil, err
	}
	out := &Repacked{Reference: ref, Descriptor: a.Descriptor, Before: a.StoredSize(), Stored: a.StoredSize()}
	out.Reference.Digest = a.Descriptor.Digest
	if !slices.Contains(packed.Reused, false) && len(packed.Layers) == len(a.Layers()) {
		return out, nil
	}
	index, err := packed.Index.Marshal()
	if err != nil {
		return nil, err
	}
	m := a.Manifest
	m.Layers = []ocispec.Descriptor{descriptor(TypeIndex, index)}
	for _, l := range packed.Layers {
		m.Layers = append(m.Layers, layerDescriptor(l))
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if err := p.blob(ctx, m.Layers[0], bytes.NewReader(index)); err != nil {
		return nil, err
	}
	d := descriptor(ocispec.MediaTypeImageManifest, raw)
	d.ArtifactType = m.ArtifactType
	if err := p.repo.pushManifest(ctx, d, raw); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	// It took its time: what was pushed meanwhile is not to be undone. A layout
	// or archive is as it was opened, so it is opened anew.
	fresh, err := c.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer fresh.Close()
	if now, err := fresh.Resolve(ctx); err != nil {
		return nil, err
	} else if now.Digest != a.Descriptor.Digest {
		return nil, fmt.Errorf("the tag has moved to %s meanwhile and stays there; repack that", now.Digest)
	}
	if err := p.repo.tag(ctx, d, raw, ref.Tag); err != nil {
		return nil, fmt.Errorf("tag: %w", err)
	}
	out.Reference.Digest, out.Descriptor = d.Digest, d
	out.Stored, out.Sent = (&Artifact{raw: raw, Manifest: m}).StoredSize(), p.sent.Load()
	return out, nil
}
