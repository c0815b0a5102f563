// Package oci keeps trees of files as OCI artifacts: in registries, in OCI
// image layouts and in archives of those, through oras-go.
//
//	reference ─▶ Repo ─▶ manifest ─┬─ config: what a person asks (Config)
//	                               ├─ layers[0]: the index (package layout)
//	                               └─ layers[1:]: layers of chunks
//
// A tag is resolved to a digest once; from there on only digests count, and
// every blob is checked against its own. Operations are methods of [Client]:
// Push, Pull, Open, Copy, Tag, Remove. The package knows nothing of
// signatures, flags or terminals.
package oci

import (
	"cmp"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Media types of mpack, version 1.
const (
	TypeModel  = "application/vnd.mpack.model.v1"
	TypeCorpus = "application/vnd.mpack.corpus.v1"
	TypeConfig = "application/vnd.mpack.config.v1+json"
	TypeIndex  = "application/vnd.mpack.index.v1+zstd"
	TypeLayer  = "application/vnd.mpack.layer.v1+zstd"
)

// Media types of others' manifests.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	oldArtifact    = "application/vnd.oci.artifact.manifest.v1+json" // of image-spec 1.1's release candidates
)

// Limits of what is read from, and sent to, a registry.
const (
	maxManifest = 4 << 20 // bytes, what registries accept
	maxLayers   = 4000
	maxConfig   = 1 << 20
	maxIndex    = 2 << 30

	maxMembers       = 5000 // of an index and those in it
	maxReferrerPages = 1000
	maxTagPages      = 10_000
	maxTags          = 1_000_000
	maxLayer         = 1 << 48 // so that maxLayers of them add up
)

// Errors that callers decide on.
var (
	ErrNotFound    = errdef.ErrNotFound
	ErrNotArtifact = errors.New("not an mpack artifact")
	ErrCorrupt     = errors.New("content does not match its digest")
	ErrReadOnly    = errors.New("cannot be written to")
	ErrNoMatch     = fmt.Errorf("%w: no file matches", ErrNotFound)
	ErrNoStore     = fmt.Errorf("%w: no store there", ErrNotFound)
)

// checkManifest makes sure that a manifest is one of mpack's.
func checkManifest(m *ocispec.Manifest) error {
	if m.ArtifactType != TypeModel && m.ArtifactType != TypeCorpus {
		return fmt.Errorf("%w: its type is %s", ErrNotArtifact, cmp.Or(m.ArtifactType, m.Config.MediaType, "not stated"))
	}
	if m.Config.MediaType != TypeConfig || m.Config.Size > maxConfig || m.Config.Size < 0 {
		return fmt.Errorf("%w: config %s of %d bytes", ErrNotArtifact, m.Config.MediaType, m.Config.Size)
	}
	if err := sha256Digest(string(m.Config.Digest)); err != nil {
		return fmt.Errorf("%w: config digest: %w", ErrNotArtifact, err)
	}
	if len(m.Layers) == 0 || len(m.Layers) > maxLayers+1 || m.Layers[0].MediaType != TypeIndex {
		return fmt.Errorf("%w: its first layer is not an index", ErrNotArtifact)
	}
	for i, l := range m.Layers {
		if l.Size < 0 || l.Size > maxLayer || (i == 0 && l.Size > maxIndex) {
			return fmt.Errorf("%w: layer of %d bytes", ErrNotArtifact, l.Size)
		}
		if i > 0 && l.MediaType != TypeLayer {
			return fmt.Errorf("%w: layer of type %s", ErrNotArtifact, l.MediaType)
		}
		if l.Digest.Validate() != nil || l.Digest.Algorithm() != "sha256" {
			return fmt.Errorf("%w: layer digest %q", ErrNotArtifact, l.Digest)
		}
	}
	return nil
}
