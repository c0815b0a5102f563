package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mpack/layout"
)

// Artifact is a packed tree as it lies in a Repo. All of it was checked
// against Descriptor's digest.
type Artifact struct {
	Repo       *Repo
	Descriptor ocispec.Descriptor // of the manifest
	Manifest   ocispec.Manifest
	Config     *Config
	raw        []byte // of the manifest
	index      *layout.Index
}

// Artifact resolves the reference and reads manifest and config. Of what is
// not mpack's, the error is [ErrNotArtifact].
func (r *Repo) Artifact(ctx context.Context) (*Artifact, error) {
	d, err := r.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	return r.ArtifactAt(ctx, d)
}

// ArtifactAt is Artifact for what was resolved already.
func (r *Repo) ArtifactAt(ctx context.Context, d ocispec.Descriptor) (*Artifact, error) {
	raw, err := r.bytes(ctx, d, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", r.Ref, err)
	}
	if err := oneMeaning(raw, d.MediaType); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", r.Ref, ErrNotArtifact, err)
	}
	if d.MediaType == ocispec.MediaTypeImageIndex {
		var ix ocispec.Index
		if err := json.Unmarshal(raw, &ix); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", r.Ref, ErrNotArtifact, err)
		}
		i := slices.IndexFunc(ix.Manifests, func(m ocispec.Descriptor) bool {
			return m.MediaType == ocispec.MediaTypeImageManifest && (m.ArtifactType == TypeModel || m.ArtifactType == TypeCorpus)
		})
		if i < 0 {
			return nil, fmt.Errorf("%s: %w: it is an image index", r.Ref, ErrNotArtifact)
		}
		return r.ArtifactAt(ctx, ix.Manifests[i])
	}
	a := &Artifact{Repo: r, Descriptor: d, raw: raw}
	if d.MediaType != ocispec.MediaTypeImageManifest {
		return nil, fmt.Errorf("%s: %w: it is a %s", r.Ref, ErrNotArtifact, d.MediaType)
	}
	if err := json.Unmarshal(raw, &a.Manifest); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", r.Ref, ErrNotArtifact, err)
	}
	if err := checkManifest(&a.Manifest); err != nil {
		return nil, fmt.Errorf("%s: %w; mpack inspect, pull and copy need what mpack push made", r.Ref, err)
	}
	a.Descriptor.ArtifactType = a.Manifest.ArtifactType
	b, err := r.bytes(ctx, a.Manifest.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("config of %s: %w", r.Ref, err)
	}
	if a.Config, err = ParseConfig(b); err != nil {
		return nil, fmt.Errorf("config of %s: %w", r.Ref, err)
	}
	return a, nil
}

// oneMeaning refuses what may be read as a manifest and as an index: of which
// type it is, the registry says, and no signature covers that (CVE-2021-41190;
// image-spec, "mediaType").
func oneMeaning(raw []byte, mediaType string) error {
	var m struct {
		MediaType                 string
		Manifests, Config, Layers json.RawMessage
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	if m.MediaType != "" && m.MediaType != mediaType {
		return fmt.Errorf("it says that it is a %q, not a %q", m.MediaType, mediaType)
	}
	if m.Manifests != nil && (m.Config != nil || m.Layers != nil) {
		return errors.New("it is a manifest and an index in one")
	}
	return nil
}

// Layers returns the data layers by their number in the index.
func (a *Artifact) Layers() []layout.Layer {
	ls := make([]layout.Layer, len(a.Manifest.Layers)-1)
	for i, d := range a.Manifest.Layers[1:] {
		ls[i].Size = d.Size
		_ = ls[i].Digest.UnmarshalText([]byte(d.Digest.Encoded())) // checked by checkManifest
	}
	return ls
}

// Index fetches and checks the index, once.
func (a *Artifact) Index(ctx context.Context) (*layout.Index, error) {
	if a.index != nil {
		return a.index, nil
	}
	d := a.Manifest.Layers[0]
	fail := func(err error) (*layout.Index, error) {
		return nil, fmt.Errorf("index of %s: %s: %w", a.Repo.Ref, d.Digest, err)
	}
	b, err := a.Repo.bytes(ctx, d, maxIndex)
	if err != nil {
		return fail(err)
	}
	ix, err := layout.ReadIndex(bytes.NewReader(b), d.Size, a.Layers())
	if err != nil {
		return fail(err)
	}
	if got := ix.ContentDigest(); a.Config.ContentDigest != "" && a.Config.ContentDigest != "sha256:"+got.String() {
		return fail(fmt.Errorf("%w: the config states another content digest", layout.ErrCorrupt))
	}
	a.index = ix
	return ix, nil
}

// Fetch opens a part of a data layer; it is a [layout.Fetch].
func (a *Artifact) Fetch(ctx context.Context, layer int, offset, length int64) (io.ReadCloser, bool, error) {
	return a.Repo.openRange(ctx, a.Manifest.Layers[layer+1], offset, length)
}

// StoredSize returns the bytes of all blobs of the artifact.
func (a *Artifact) StoredSize() int64 {
	n := int64(len(a.raw)) + a.Manifest.Config.Size
	for _, l := range a.Manifest.Layers {
		n += l.Size
	}
	return n
}

// Cat writes one file to w, fetching only its chunks.
func (a *Artifact) Cat(ctx context.Context, path string, w io.Writer) error {
	ix, err := a.Index(ctx)
	if err != nil {
		return err
	}
	return layout.Cat(ctx, ix, path, w, a.Fetch)
}

// descriptor describes a blob of bytes.
func descriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// isNotArtifact reports whether there is something else than an artifact, or nothing.
func isNotArtifact(err error) bool {
	return errors.Is(err, ErrNotArtifact) || errors.Is(err, ErrNotFound)
}
