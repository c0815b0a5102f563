package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// What a hostile registry is let do at most.
const (
	maxManifest   = 4 << 20   // bytes
	maxPayload    = 1 << 20   // bytes of a simplesigning payload
	maxEnvelope   = 64 << 20  // bytes of an attestation: SBOMs are large
	maxSignatures = 500       // looked at for one subject
	maxReferrers  = 5000      // listed for one subject, of any kind
	maxMembers    = 5000      // of an index and those in it
	maxTotal      = 512 << 20 // bytes of all that is looked at for one subject
)

// errBroken marks what is there but cannot be a signature or attestation:
// damaged, oversized, missing its blob. A registry that fails is not that.
var errBroken = errors.New("unreadable")

const (
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
	dsseType          = "application/vnd.dsse.envelope.v1+json"
	intotoType        = "application/vnd.in-toto+json"
	bundleType        = "application/vnd.dev.sigstore.bundle.v0.3+json"
	bundleTypePrefix  = "application/vnd.dev.sigstore.bundle"

	// annotations of cosign's bundle referrers (cosign's BUNDLE_SPEC.md)
	bundleContentKey   = "dev.sigstore.bundle.content"
	bundlePredicateKey = "dev.sigstore.bundle.predicateType"
	predicateKey       = "predicateType"
)

// legacyEntry is a layer of a .sig or .att manifest.
type legacyEntry struct {
	manifest ocispec.Descriptor
	sig      oci.Signature
	err      error // why it cannot be read
}

// bundleEntry is a bundle that refers to the subject.
type bundleEntry struct {
	manifest ocispec.Descriptor
	bundle   *sgbundle.Bundle
	err      error
}

// fetch reads a blob or manifest of at most limit bytes and checks its digest.
func fetch(ctx context.Context, from content.Fetcher, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", errBroken, d.Digest, err)
	}
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%w: %s: %d bytes, more than the %d that are read", errBroken, d.Digest, d.Size, limit)
	}
	b, err := content.FetchAll(ctx, from, d)
	for _, broken := range []error{errdef.ErrNotFound, content.ErrMismatchedDigest, content.ErrTrailingData, content.ErrInvalidDescriptorSize} {
		if errors.Is(err, broken) {
			return nil, fmt.Errorf("%w: %s: %w", errBroken, d.Digest, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return b, nil
}

// legacyManifest reads what the tag names; found is false if there is none.
func legacyManifest(ctx context.Context, s Subject, suffix string) (m ocispec.Manifest, d ocispec.Descriptor, found bool, err error) {
	tag := s.attachedTag(suffix)
	d, err = s.Target.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return m, d, false, nil
	}
	if err != nil {
		return m, d, false, fmt.Errorf("resolve %s: %w", tag, err)
	}
	raw, err := fetch(ctx, s.Target, d, maxManifest)
	if err != nil {
		return m, d, false, fmt.Errorf("%s: %w", tag, err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, d, false, fmt.Errorf("%s: %w: %w", tag, errBroken, err)
	}
	if len(m.Layers) > maxSignatures {
		return m, d, false, fmt.Errorf("%s: %w: %d signatures, more than the %d that are looked at", tag, errBroken, len(m.Layers), maxSignatures)
	}
	return m, d, true, nil
}

// legacyEntries reads the layers of the subject's .sig or .att manifest that
// have the media type.
func legacyEntries(ctx context.Context, s Subject, suffix, mediaType string, limit int64) ([]legacyEntry, error) {
	m, d, found, err := legacyManifest(ctx, s, suffix)
	if err != nil || !found {
		return nil, err
	}
	entries := make([]legacyEntry, 0, len(m.Layers))
	total := int64(0)
	for _, l := range m.Layers {
		if l.MediaType != mediaType {
			continue
		}
		if total += l.Size; total > maxTotal {
			return nil, fmt.Errorf("%s: %w: more than the %d bytes that are looked at", s.attachedTag(suffix), errBroken, maxTotal)
		}
		e := legacyEntry{manifest: d}
		payload, err := fetch(ctx, s.Target, l, limit)
		if ctx.Err() != nil {
			return nil, err
		}
		if err == nil {
			e.sig, err = parseLegacy(l, payload)
		}
		e.err = err
		entries = append(entries, e)
	}
	return entries, nil
}

// parseLegacy makes cosign's view of a layer.
func parseLegacy(l ocispec.Descriptor, payload []byte) (oci.Signature, error) {
	a := l.Annotations
	opts := []static.Option{static.WithLayerMediaType(types.MediaType(l.MediaType)), static.WithAnnotations(maps.Clone(a))}
	if cert := a[static.CertificateAnnotationKey]; cert != "" {
		opts = append(opts, static.WithCertChain([]byte(cert), []byte(a[static.ChainAnnotationKey])))
	}
	if raw := a[static.BundleAnnotationKey]; raw != "" {
		var b bundle.RekorBundle
		if err := json.Unmarshal([]byte(raw), &b); err != nil {
			return nil, fmt.Errorf("%w: annotation %s: %w", errBroken, static.BundleAnnotationKey, err)
		}
		// cosign asserts that it is one
		if _, ok := b.Payload.Body.(string); !ok {
			return nil, fmt.Errorf("%w: annotation %s: body is not a string", errBroken, static.BundleAnnotationKey)
		}
		opts = append(opts, static.WithBundle(&b))
	}
	if raw := a[static.RFC3161TimestampAnnotationKey]; raw != "" {
		var t bundle.RFC3161Timestamp
		if err := json.Unmarshal([]byte(raw), &t); err != nil {
			return nil, fmt.Errorf("%w: annotation %s: %w", errBroken, static.RFC3161TimestampAnnotationKey, err)
		}
		opts = append(opts, static.WithRFC3161Timestamp(&t))
	}
	sig, err := static.NewSignature(payload, a[static.SignatureAnnotationKey], opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	return sig, nil
}

// alone is a target that keeps others from changing its tags while do runs.
type alone interface {
	Alone(ctx context.Context, do func() error) error
}

// appendTries is how often a layer is added that others' writing undoes.
const appendTries = 20

// appendLegacy adds a layer to the subject's .sig or .att manifest, and moves
// the tag. A layer for which same reports true is not added again. A registry
// has no way to move a tag only if it is where it was, so there the layer is
// added until it stays.
func appendLegacy(ctx context.Context, s Subject, suffix string, sig oci.Signature, same func(ocispec.Descriptor) bool) (d ocispec.Descriptor, err error) {
	if t, ok := s.Target.(alone); ok {
		err = t.Alone(ctx, func() (err error) {
			d, _, err = addLegacy(ctx, s, suffix, sig, same)
			return err
		})
		return d, err
	}
	for range appendTries {
		began := time.Now()
		d, there, err := addLegacy(ctx, s, suffix, sig, same)
		if err != nil || there {
			return d, err
		}
		// Who read the tag before it was moved here will soon have moved it.
		select {
		case <-time.After(2 * time.Since(began)):
		case <-ctx.Done():
			return d, context.Cause(ctx)
		}
	}
	return d, fmt.Errorf("write %s: others write it too, and what is added does not stay: try again when they are done", s.attachedTag(suffix))
}

// addLegacy is one try of appendLegacy; there reports that the layer was there
// before, in the manifest that is returned.
func addLegacy(ctx context.Context, s Subject, suffix string, sig oci.Signature, same func(ocispec.Descriptor) bool) (_ ocispec.Descriptor, there bool, err error) {
	tag := s.attachedTag(suffix)
	fail := func(err error) (ocispec.Descriptor, bool, error) {
		return ocispec.Descriptor{}, false, fmt.Errorf("write %s: %w", tag, err)
	}
	m, was, found, err := legacyManifest(ctx, s, suffix)
	if err != nil {
		return fail(err)
	}
	payload, err := sig.Payload()
	if err != nil {
		return fail(err)
	}
	mediaType, err := sig.MediaType()
	if err != nil {
		return fail(err)
	}
	annotations, err := sig.Annotations()
	if err != nil {
		return fail(err)
	}
	layer := content.NewDescriptorFromBytes(string(mediaType), payload)
	layer.Annotations = annotations
	if found {
		for _, l := range m.Layers {
			if l.Digest == layer.Digest && l.MediaType == layer.MediaType && (maps.Equal(l.Annotations, layer.Annotations) || same(l)) {
				return was, true, nil
			}
		}
	}
	m.Layers = append(m.Layers, layer)
	if len(m.Layers) > maxSignatures {
		return fail(fmt.Errorf("there are %d already", len(m.Layers)-1))
	}
	// cosign appends with tools for images, so the config must be an image's
	var image ocispec.Image
	image.RootFS.Type = "layers"
	for _, l := range m.Layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest)
		image.History = append(image.History, ocispec.History{Created: &time.Time{}})
	}
	config, err := json.Marshal(image)
	if err != nil {
		return fail(err)
	}
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Config = content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, config)
	raw, err := json.Marshal(m)
	if err != nil {
		return fail(err)
	}
	if err := push(ctx, s.Target, layer, payload); err != nil {
		return fail(err)
	}
	if err := push(ctx, s.Target, m.Config, config); err != nil {
		return fail(err)
	}
	now, err := s.Target.Resolve(ctx, tag)
	if err != nil && (found || !errors.Is(err, errdef.ErrNotFound)) {
		return fail(err)
	}
	if now.Digest != was.Digest { // others have written it meanwhile
		return now, false, nil
	}
	d := content.NewDescriptorFromBytes(m.MediaType, raw)
	if t, ok := s.Target.(registry.ReferencePusher); ok { // at once, before others do
		err = t.PushReference(ctx, d, bytes.NewReader(raw), tag)
	} else if err = push(ctx, s.Target, d, raw); err == nil {
		err = s.Target.Tag(ctx, d, tag)
	}
	if err != nil {
		return fail(err)
	}
	return d, false, nil
}

// push stores what is not there yet.
func push(ctx context.Context, to oras.Target, d ocispec.Descriptor, b []byte) error {
	ok, err := to.Exists(ctx, d)
	if err != nil || ok {
		return err
	}
	err = to.Push(ctx, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, bytes.NewReader(b))
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return nil
	}
	return err
}

// bundleEntries reads the sigstore bundles that refer to the subject.
// Other referrers are left alone.
func bundleEntries(ctx context.Context, s Subject) ([]bundleEntry, error) {
	// go-containerregistry, where it keeps the fallback tag, puts the config's
	// type for the artifact type; so the listing alone does not say.
	referrers, err := referrersOf(ctx, s)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", s.Descriptor.Digest, err)
	}
	var entries []bundleEntry
	total := 0
	for _, r := range referrers {
		if r.MediaType != ocispec.MediaTypeImageManifest || r.ArtifactType != "" && r.ArtifactType != ocispec.MediaTypeEmptyJSON && !strings.HasPrefix(r.ArtifactType, bundleTypePrefix) {
			continue
		}
		if len(entries) == maxSignatures {
			return nil, fmt.Errorf("referrers of %s: %w: more than the %d that are looked at", s.Descriptor.Digest, errBroken, maxSignatures)
		}
		raw, err := readBundle(ctx, s, r)
		if ctx.Err() != nil {
			return nil, err
		}
		if total += len(raw); total > maxTotal {
			return nil, fmt.Errorf("referrers of %s: %w: more than the %d bytes that are looked at", s.Descriptor.Digest, errBroken, maxTotal)
		}
		e := bundleEntry{manifest: r, err: err}
		if err == nil && raw != nil {
			e.bundle, e.err = parseBundle(raw)
		}
		if e.bundle != nil || e.err != nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// referrersOf lists what refers to the subject, of any kind.
func referrersOf(ctx context.Context, s Subject) ([]ocispec.Descriptor, error) {
	lister, ok := s.Target.(registry.ReferrerLister)
	if !ok {
		return registry.Referrers(ctx, s.Target, s.Descriptor, "")
	}
	var all []ocispec.Descriptor
	err := lister.Referrers(ctx, s.Descriptor, "", func(page []ocispec.Descriptor) error {
		if all = append(all, page...); len(all) > maxReferrers {
			return fmt.Errorf("%w: more than the %d that are listed", errBroken, maxReferrers)
		}
		return nil
	})
	return all, err
}

// readBundle reads the bundle that a referrer holds; nil if it holds none.
func readBundle(ctx context.Context, s Subject, d ocispec.Descriptor) ([]byte, error) {
	raw, err := fetch(ctx, s.Target, d, maxManifest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errBroken, d.Digest, err)
	}
	if len(m.Layers) != 1 || !strings.HasPrefix(m.Layers[0].MediaType, bundleTypePrefix) {
		return nil, nil
	}
	if m.Subject == nil || m.Subject.Digest != s.Descriptor.Digest {
		return nil, fmt.Errorf("%w: %s: listed as a referrer of %s, which it is not", errBroken, d.Digest, s.Descriptor.Digest)
	}
	return fetch(ctx, s.Target, m.Layers[0], maxEnvelope)
}

// parseBundle reads a sigstore bundle of version 0.3 or later.
func parseBundle(raw []byte) (*sgbundle.Bundle, error) {
	var b sgbundle.Bundle
	if err := b.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("%w: sigstore bundle: %w", errBroken, err)
	}
	if !b.MinVersion("v0.3") {
		return nil, fmt.Errorf("%w: sigstore bundle: %s is older than v0.3", errBroken, b.MediaType)
	}
	return &b, nil
}

// writeBundle stores a bundle as a referrer of the subject, as cosign does.
func writeBundle(ctx context.Context, s Subject, raw []byte, predicateType string) (ocispec.Descriptor, error) {
	layer := content.NewDescriptorFromBytes(bundleType, raw)
	err := push(ctx, s.Target, layer, raw)
	if err == nil {
		subject := ocispec.Descriptor{MediaType: s.Descriptor.MediaType, Digest: s.Descriptor.Digest, Size: s.Descriptor.Size}
		var d ocispec.Descriptor
		d, err = oras.PackManifest(ctx, s.Target, oras.PackManifestVersion1_1, bundleType, oras.PackManifestOptions{
			Subject: &subject,
			Layers:  []ocispec.Descriptor{layer},
			ManifestAnnotations: map[string]string{
				ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339),
				bundleContentKey:          "dsse-envelope",
				bundlePredicateKey:        predicateType,
			},
		})
		if err == nil {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("write bundle of %s: %w", s.Descriptor.Digest, err)
}

// members lists the manifests of an index, with those of indexes in it, each
// once and before what holds it.
func members(ctx context.Context, s Subject) ([]Subject, error) {
	var all []Subject
	seen := map[digest.Digest]bool{s.Descriptor.Digest: true}
	var walk func(Subject) error
	walk = func(s Subject) error {
		if s.Descriptor.MediaType != ocispec.MediaTypeImageIndex && s.Descriptor.MediaType != "application/vnd.docker.distribution.manifest.list.v2+json" {
			return nil
		}
		raw, err := fetch(ctx, s.Target, s.Descriptor, maxManifest)
		if err != nil {
			return err
		}
		var index ocispec.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			return fmt.Errorf("%s: %w", s.Descriptor.Digest, err)
		}
		for _, d := range index.Manifests {
			if seen[d.Digest] {
				continue
			}
			if seen[d.Digest] = true; len(seen) > maxMembers {
				return fmt.Errorf("%s: more than %d manifests", s.Descriptor.Digest, maxMembers)
			}
			child := Subject{s.Repository, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, s.Target}
			if err := child.check(); err != nil {
				return err
			}
			if err := walk(child); err != nil {
				return err
			}
			all = append(all, child)
		}
		return nil
	}
	err := walk(s)
	return all, err
}

// readLimited reads a predicate or a file that a user names.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}
