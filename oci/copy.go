package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"mpack/layout"
)

// Target returns the repo for what reads and writes beside an artifact, such
// as signatures. Where nothing can be written, writing is [ErrReadOnly].
func (r *Repo) Target() oras.GraphTarget {
	if t, ok := r.store.(oras.GraphTarget); ok {
		return t
	}
	return readOnly{r.store, r.Ref}
}

// readOnly makes a store that cannot be written look like one that refuses to.
type readOnly struct {
	store
	ref Reference
}

func (r readOnly) Push(context.Context, ocispec.Descriptor, io.Reader) error {
	return r.ref.readOnly()
}

func (r readOnly) Tag(context.Context, ocispec.Descriptor, string) error {
	return r.ref.readOnly()
}

func (r Reference) readOnly() error {
	return fmt.Errorf("%s: %w: copy it into an oci: layout or a registry first", r.Name(), ErrReadOnly)
}

// transfer makes a blob be in r that is in from: it is there already, mounted
// or copied. moved is told of bytes that crossed the network; sent is false
// if none had to.
func (r *Repo) transfer(ctx context.Context, from *Repo, d ocispec.Descriptor, moved func(int64)) (sent bool, err error) {
	w, err := r.writer()
	if err != nil {
		return false, err
	}
	err = r.retried(ctx, nil, func() error {
		if ok, err := r.store.Exists(ctx, d); err != nil || ok {
			return err
		}
		open := func() (io.ReadCloser, error) {
			rc, err := from.store.Fetch(ctx, d)
			if err != nil {
				return nil, err
			}
			sent = true
			return &countedReader{rc, moved}, nil
		}
		if r.mountable(from) {
			return r.remote.Mount(ctx, d, from.Ref.Repository, open)
		}
		rc, err := open()
		if err != nil {
			return err
		}
		defer rc.Close()
		return w.Push(ctx, d, rc)
	})
	if err != nil {
		return false, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return sent, nil
}

func (r *Repo) mountable(from *Repo) bool {
	return r.remote != nil && from.remote != nil && r.Ref.Host == from.Ref.Host && r.Ref.Repository != from.Ref.Repository
}

type countedReader struct {
	io.ReadCloser
	moved func(int64)
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.moved(int64(n))
	return n, err
}

// CopyOptions are how an artifact is copied.
type CopyOptions struct {
	NoReferrers bool // leave signatures, attestations and other referrers behind
	Progress    layout.Progress
}

// Copied is what a copy did.
type Copied struct {
	Reference  Reference // of the copy, with digest
	Descriptor ocispec.Descriptor
	Sent       int64 // bytes moved over the network
	Present    int64 // bytes that were there already or were mounted
	Referrers  int   // manifests copied beside the artifact
}

// attachedTags are the tags that cosign keeps beside an artifact where it does
// not use referrers (cosign's SIGNATURE_SPEC.md, "Tag-based discovery").
var attachedTags = []string{"sig", "att", "sbom"}

func attachedTag(d ocispec.Descriptor, suffix string) string {
	return "sha256-" + d.Digest.Encoded() + "." + suffix
}

// Copy copies whatever src names, an artifact of mpack or not, to dst, with
// what refers to it. Within one registry blobs are mounted, not moved. The tag
// of dst is set last. A dst without a tag gets the one of src.
func (c *Client) Copy(ctx context.Context, src, dst Reference, o CopyOptions) (*Copied, error) {
	out, err := c.copy(ctx, src, dst, o)
	if err != nil {
		return nil, fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	return out, nil
}

func (c *Client) copy(ctx context.Context, src, dst Reference, o CopyOptions) (_ *Copied, err error) {
	if dst.Digest != "" {
		return nil, fmt.Errorf("%w: give the destination a tag, not a digest", ErrReference)
	}
	if dst.Tag == "" {
		dst.Tag = src.Tag
	}
	from, err := c.Open(ctx, src)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := c.open(ctx, dst, forWrite)
	if err != nil {
		return nil, err
	}
	defer func() { err = to.end(err) }()
	d, err := from.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	out := &Copied{Reference: dst, Descriptor: d}
	out.Reference.Digest = d.Digest
	var sent, present atomic.Int64
	var referrers atomic.Int32
	report := func(p layout.Delta) {
		if o.Progress != nil {
			o.Progress(p)
		}
	}
	there := func(_ context.Context, d ocispec.Descriptor) error {
		present.Add(d.Size)
		report(layout.Delta{Present: d.Size})
		return nil
	}
	opts := oras.CopyGraphOptions{
		Concurrency: c.opts.Concurrency,
		PostCopy: func(_ context.Context, d ocispec.Descriptor) error {
			sent.Add(d.Size)
			report(layout.Delta{Sent: d.Size})
			return nil
		},
		OnCopySkipped: there,
		OnMounted:     there,
	}
	if to.mountable(from) {
		opts.MountFrom = func(context.Context, ocispec.Descriptor) ([]string, error) {
			return []string{from.Ref.Repository}, nil
		}
	}
	source, target := from.Target(), to.Target()
	retried := func(do func() error) error {
		return to.retried(ctx, func() { report(layout.Delta{Retries: 1}) }, do)
	}
	if err := retried(func() error { return oras.CopyGraph(ctx, source, target, d, opts) }); err != nil {
		return nil, err
	}
	if !o.NoReferrers {
		// What refers to it goes one at a time: of several at once olareg 0.1
		// lists but some, and says nothing.
		opts.Concurrency = 1
		copied := opts.PostCopy
		opts.PostCopy = func(ctx context.Context, d ocispec.Descriptor) error {
			if isManifest(d) {
				referrers.Add(1)
			}
			return copied(ctx, d)
		}
		all, err := from.manifests(ctx, d)
		if err != nil {
			return nil, err
		}
		for _, d := range all {
			if err := attached(ctx, from, to, d, opts, retried); err != nil {
				return nil, err
			}
		}
	}
	if dst.Tag != "" {
		if err := to.retried(ctx, nil, func() error { return target.Tag(ctx, d, dst.Tag) }); err != nil {
			return nil, err
		}
	}
	out.Sent, out.Present, out.Referrers = sent.Load(), present.Load(), int(referrers.Load())
	return out, nil
}

// attached copies what belongs to a manifest that is copied: what refers to it,
// and what cosign's tags name.
func attached(ctx context.Context, from, to *Repo, d ocispec.Descriptor, o oras.CopyGraphOptions, retried func(func() error) error) error {
	source, target := from.Target(), to.Target()
	graph := func(d ocispec.Descriptor) error {
		skipped := o.OnCopySkipped
		o := oras.ExtendedCopyGraphOptions{CopyGraphOptions: o}
		o.OnCopySkipped = func(ctx context.Context, at ocispec.Descriptor) error {
			if at.Digest == d.Digest {
				return nil // counted already
			}
			return skipped(ctx, at)
		}
		// An index in a layout that holds it does not belong to it.
		o.FindPredecessors = func(ctx context.Context, src content.ReadOnlyGraphStorage, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			return registry.Referrers(ctx, src, d, "")
		}
		return retried(func() error { return oras.ExtendedCopyGraph(ctx, source, target, d, o) })
	}
	if err := graph(d); err != nil {
		return err
	}
	for _, suffix := range attachedTags {
		tag := attachedTag(d, suffix)
		a, err := from.store.Resolve(ctx, tag)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			err = graph(a)
		}
		if err == nil && suffix != "sbom" {
			a, err = joined(ctx, from, to, a, tag)
		}
		if err == nil {
			err = retried(func() error { return target.Tag(ctx, a, tag) })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", tag, err)
		}
	}
	return nil
}

// joined returns what a tag of cosign's shall name at the target: the manifest
// that was copied or, where others have signed at the target, one that lists
// their signatures too. Otherwise the next copy to a mirror would remove what
// the mirror's owner signed.
func joined(ctx context.Context, from, to *Repo, copied ocispec.Descriptor, tag string) (ocispec.Descriptor, error) {
	old, err := to.store.Resolve(ctx, tag)
	if errors.Is(err, ErrNotFound) || err == nil && (old.Digest == copied.Digest || old.MediaType != ocispec.MediaTypeImageManifest || copied.MediaType != ocispec.MediaTypeImageManifest) {
		return copied, nil
	}
	if err != nil {
		return copied, err
	}
	read := func(r *Repo, d ocispec.Descriptor) (m ocispec.Manifest, err error) {
		raw, err := r.bytes(ctx, d, maxManifest)
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		return m, err
	}
	m, err := read(to, old)
	if err != nil {
		return copied, err
	}
	more, err := read(from, copied)
	if err != nil {
		return copied, err
	}
	missing := func(from, in []ocispec.Descriptor) []ocispec.Descriptor {
		return slices.DeleteFunc(slices.Clone(from), func(d ocispec.Descriptor) bool {
			return slices.ContainsFunc(in, func(l ocispec.Descriptor) bool {
				return l.Digest == d.Digest && maps.Equal(l.Annotations, d.Annotations)
			})
		})
	}
	add := missing(more.Layers, m.Layers)
	switch {
	case len(add) == 0:
		return old, nil
	case len(missing(m.Layers, more.Layers)) == 0:
		return copied, nil
	}
	m.Layers = append(m.Layers, add...)
	// cosign appends with tools for images, so the config must be an image's
	var image ocispec.Image
	image.RootFS.Type = "layers"
	for _, l := range m.Layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest)
		image.History = append(image.History, ocispec.History{Created: &time.Time{}})
	}
	config, err := json.Marshal(image)
	if err != nil {
		return copied, err
	}
	m.Config = descriptor(ocispec.MediaTypeImageConfig, config)
	if _, err := to.pushBlob(ctx, m.Config, bytes.NewReader(config), nil); err != nil {
		return copied, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return copied, err
	}
	d := descriptor(ocispec.MediaTypeImageManifest, raw)
	return d, to.pushManifest(ctx, d, raw)
}

// manifests lists a manifest and, of an index, those in it, each once.
func (r *Repo) manifests(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	all := []ocispec.Descriptor{d}
	seen := map[digest.Digest]bool{d.Digest: true}
	for i := 0; i < len(all); i++ {
		if t := all[i].MediaType; t != ocispec.MediaTypeImageIndex && t != dockerList {
			continue
		}
		raw, err := r.bytes(ctx, all[i], maxManifest)
		if err != nil {
			return nil, err
		}
		var ix ocispec.Index
		if err := json.Unmarshal(raw, &ix); err != nil {
			return nil, fmt.Errorf("%s: %w", all[i].Digest, err)
		}
		for _, m := range ix.Manifests {
			if isManifest(m) && !seen[m.Digest] {
				seen[m.Digest] = true
				all = append(all, m)
			}
		}
		if len(all) > maxMembers {
			return nil, fmt.Errorf("%s: an index of more than %d manifests", d.Digest, maxMembers)
		}
	}
	return all, nil
}

func isManifest(d ocispec.Descriptor) bool {
	switch d.MediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList, oldArtifact:
		return true
	}
	return false
}

// Tag gives what ref names further tags.
func (c *Client) Tag(ctx context.Context, ref Reference, tags ...string) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("tag %s: %w", ref, err)
	}
	for _, t := range tags {
		if !tagPattern.MatchString(t) {
			return fail(fmt.Errorf("%w: %q is not a tag; it stays in its repository, mpack copy takes it to another", ErrReference, t))
		}
	}
	if ref.Scheme == Archive {
		return fail(fmt.Errorf("%w: mpack copy %s to a new archive or an oci: layout", ErrReadOnly, ref))
	}
	r, err := c.open(ctx, ref, forRead)
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	d, err := r.Resolve(ctx)
	if err != nil {
		return fail(err)
	}
	raw, err := r.bytes(ctx, d, maxManifest)
	if err != nil {
		return fail(err)
	}
	for _, t := range tags {
		if err := r.tag(ctx, d, raw, t); err != nil {
			return fail(err)
		}
	}
	return d, nil
}

// Tags lists the tags, in the order of versions, without those that cosign
// and the referrers tag schema keep.
func (r *Repo) Tags(ctx context.Context) ([]string, error) {
	var all []string
	err := r.store.Tags(ctx, "", func(tags []string) error {
		for _, t := range tags {
			if !strings.HasPrefix(t, "sha256-") {
				all = append(all, t)
			}
		}
		if len(all) > maxTags {
			return fmt.Errorf("more than %d", maxTags)
		}
		return nil
	})
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) && resp.StatusCode == http.StatusNotFound {
		err = fmt.Errorf("%w: the registry knows no such repository", ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", r.Ref.Name(), err)
	}
	slices.SortFunc(all, compareVersions)
	return all, nil
}

// compareVersions compares strings with the numbers in them as numbers: v9 is
// before v10.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			na, errA := strconv.ParseUint(a[:da], 10, 64)
			nb, errB := strconv.ParseUint(b[:db], 10, 64)
			if errA == nil && errB == nil && na != nb {
				if na < nb {
					return -1
				}
				return 1
			}
			if a[:da] == b[:db] {
				a, b = a[da:], b[db:]
				continue
			}
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// Remove removes a tag, or with a digest a manifest and every tag of it. Blobs
// are freed by the registry's garbage collection, in a layout at once.
func (c *Client) Remove(ctx context.Context, ref Reference) (ocispec.Descriptor, error) {
	d, err := c.remove(ctx, ref)
	if err != nil {
		return d, fmt.Errorf("remove %s: %w", ref, err)
	}
	return d, nil
}

func (c *Client) remove(ctx context.Context, ref Reference) (ocispec.Descriptor, error) {
	r, err := c.open(ctx, ref, forRemove)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer r.Close()
	d, err := r.Resolve(ctx)
	if err != nil {
		return d, err
	}
	switch {
	case r.layout != nil && ref.Digest == "":
		shared, err := r.sharedTags(ctx, d)
		if err != nil {
			return d, err
		}
		if len(shared) > 0 {
			return d, r.layout.Untag(ctx, ref.Tag)
		}
		return d, r.layout.remove(ctx, d)
	case r.layout != nil:
		return d, r.layout.remove(ctx, d)
	case r.remote == nil:
		return d, fmt.Errorf("%w: an archive is written whole", ErrReadOnly)
	case ref.Digest == "":
		return d, r.removeTag(ctx, d)
	}
	return d, deletable(r.remote.Manifests().Delete(ctx, d))
}

// sharedTags lists the other tags of a manifest.
func (r *Repo) sharedTags(ctx context.Context, d ocispec.Descriptor) ([]string, error) {
	tags, err := r.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var shared []string
	for _, t := range tags {
		if t == r.Ref.Tag {
			continue
		}
		td, err := r.store.Resolve(ctx, t)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err // it may be one of them
		}
		if err == nil && td.Digest == d.Digest {
			shared = append(shared, t)
		}
	}
	return shared, nil
}

// removeTag removes a tag alone. The distribution specification lets a
// registry refuse that; then, if no other tag would go with it, the manifest
// is removed.
func (r *Repo) removeTag(ctx context.Context, d ocispec.Descriptor) error {
	err := deleteTag(ctx, r.remote, r.Ref.Tag)
	if err == nil || IsAuth(err) || errors.Is(err, ErrNotFound) {
		return err
	}
	shared, err2 := r.sharedTags(ctx, d)
	if err2 != nil {
		return err
	}
	if len(shared) > 0 {
		return fmt.Errorf("the registry does not remove single tags (%w), and %s would go too; name the digest to remove all", err, strings.Join(shared, ", "))
	}
	return deletable(r.remote.Manifests().Delete(ctx, d))
}

func deleteTag(ctx context.Context, repo *remote.Repository, tag string) error {
	ref := repo.Reference
	ctx = auth.AppendRepositoryScope(ctx, ref, auth.ActionPull, auth.ActionDelete)
	scheme := "https"
	if repo.PlainHTTP {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, fmt.Sprintf("%s://%s/v2/%s/manifests/%s", scheme, ref.Host(), ref.Repository, tag), nil)
	if err != nil {
		return err
	}
	resp, err := repo.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return responseError(resp)
	}
	return nil
}

// deletable says what to do when a registry does not let anything be removed.
func deletable(err error) error {
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) && (resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusBadRequest) {
		return fmt.Errorf("the registry does not allow removing: %w; its operator can (distribution: storage.delete.enabled)", err)
	}
	return err
}
