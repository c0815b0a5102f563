package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// imageLayout is an OCI image layout that several processes may write to at
// once, and be killed at it. oras-go's store has index.json in memory and
// writes that over the file: what others have listed meanwhile would be lost.
// So it does not write it; every change is made here, to the file as it is.
//
// Who writes holds a shared lock on the file lock from the first blob to the
// end, who removes an exclusive one, so that no blob goes that another has just
// found to be there. Who writes index.json holds locks/index.
type imageLayout struct {
	*oci.Store
	dir   string
	waits func(dir string) // called if others are waited for

	mu   sync.Mutex
	lock *os.File // nil: nothing was written
}

func openLayout(ctx context.Context, dir string, m mode, waits func(dir string)) (_ *imageLayout, err error) {
	l := &imageLayout{dir: dir, waits: waits}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if m != forRead {
		if err := l.hold(ctx, m == forWrite); err != nil {
			return nil, err
		}
	}
	if m == forWrite {
		if err := initLayout(ctx, dir); err != nil {
			return nil, err
		}
		l.sweep()
	}
	if l.Store, err = oci.NewWithContext(ctx, dir); err != nil {
		return nil, err
	}
	l.AutoSaveIndex, l.AutoGC = false, false
	return l, nil
}

// sweep removes what killed processes have not finished: oras-go writes blobs
// in ingest. What cannot be removed does no harm but to the disk's room. The
// directory may be anybody's, so nothing goes but what has such a name, and
// nothing through a link.
func (l *imageLayout) sweep() {
	for dir, unfinished := range map[string]func(name string) bool{
		"ingest": func(name string) bool {
			hex, _, ok := strings.Cut(name, "_")
			return ok && sha256Digest("sha256:"+hex) == nil
		},
		storeLocks: func(name string) bool { return strings.HasPrefix(name, "tmp-") },
	} {
		dir = filepath.Join(l.dir, dir)
		if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
			continue
		}
		list, _ := os.ReadDir(dir)
		for _, e := range list {
			fi, err := e.Info()
			if err == nil && fi.Mode().IsRegular() && unfinished(e.Name()) && time.Since(fi.ModTime()) > 24*time.Hour {
				_ = os.Remove(filepath.Join(dir, e.Name()))
			}
		}
	}
}

// hold takes the lock, unless it is held.
func (l *imageLayout) hold(ctx context.Context, shared bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lock != nil {
		return nil
	}
	if isStore(l.dir) { // which keeps no layers
		return fmt.Errorf("%s: %w by hand: it is a store that pulls share; mpack store prune removes what is old", l.dir, ErrReadOnly)
	}
	if err := os.MkdirAll(filepath.Join(l.dir, storeLocks), 0o777); err != nil {
		return err
	}
	name := filepath.Join(l.dir, "lock")
	if busy(name, shared) {
		l.waits(l.dir)
	}
	var err error
	l.lock, err = flock(ctx, name, shared)
	return err
}

// Close lets the layout go.
func (l *imageLayout) Close() error {
	if l.lock == nil {
		return nil
	}
	return l.lock.Close()
}

// Exists implements [content.ReadOnlyStorage]. A manifest that is not listed
// is not there, as nobody finds it: a process was killed before it listed it.
func (l *imageLayout) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if isManifest(d) {
		ix, err := readIndex(l.dir)
		if err != nil || !slices.ContainsFunc(ix.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d.Digest }) {
			return false, err
		}
	}
	ok, err := l.Store.Exists(ctx, d)
	return ok && !l.cut(d), err
}

func (l *imageLayout) blobName(d ocispec.Descriptor) string {
	return filepath.Join(l.dir, storeBlobs, d.Digest.Encoded())
}

// cut reports whether a blob has not its size, as after a power failure.
func (l *imageLayout) cut(d ocispec.Descriptor) bool {
	if sha256Digest(string(d.Digest)) != nil {
		return false
	}
	fi, err := os.Stat(l.blobName(d))
	return err == nil && fi.Size() != d.Size
}

// drop removes a blob that was cut. That it was, its digest must say: d may be
// a stranger's, who states another size.
func (l *imageLayout) drop(d ocispec.Descriptor) error {
	f, err := os.Open(l.blobName(d))
	if err != nil {
		return err
	}
	got, err := digest.FromReader(f)
	if err = errors.Join(err, f.Close()); err != nil || got == d.Digest {
		return err
	}
	return os.Remove(l.blobName(d))
}

// Push implements [content.Pusher]. What is there already is as good.
func (l *imageLayout) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	if err := l.hold(ctx, true); err != nil {
		return err
	}
	if l.cut(d) {
		if err := l.drop(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := l.Store.Push(ctx, d, r); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	if !isManifest(d) {
		return nil
	}
	// The list, which is on the disk at once, names none that is not: oras-go
	// would not open the layout any more.
	if f, err := os.Open(l.blobName(d)); err == nil {
		_ = f.Sync() // where that cannot be done, it is left to the system
		f.Close()
	}
	return l.list(ctx, d, "")
}

// Tag implements [content.Tagger].
func (l *imageLayout) Tag(ctx context.Context, d ocispec.Descriptor, tag string) error {
	if err := l.hold(ctx, true); err != nil {
		return err
	}
	if err := l.Store.Tag(ctx, d, tag); err != nil {
		return err
	}
	return l.list(ctx, d, tag)
}

func (l *imageLayout) list(ctx context.Context, d ocispec.Descriptor, name string) error {
	entry := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType, Platform: d.Platform}
	if name != "" {
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	}
	return changeIndex(ctx, l.dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor {
		return tidy(append(untag(ds, name), entry))
	})
}

// Alone calls do while no other process is in it, with the tags that others
// have set since the layout was opened. It is for what reads a tag, and sets it
// to something made of that.
func (l *imageLayout) Alone(ctx context.Context, do func() error) error {
	if err := l.hold(ctx, true); err != nil {
		return err
	}
	lock, err := flock(ctx, filepath.Join(l.dir, storeLocks, "tags"), false)
	if err != nil {
		return err
	}
	defer lock.Close()
	ix, err := readIndex(l.dir)
	if err != nil {
		return err
	}
	for _, d := range ix.Manifests {
		if name := refName(d); name != "" {
			if err := l.Store.Tag(ctx, d, name); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
	}
	return do()
}

// Untag removes a tag.
func (l *imageLayout) Untag(ctx context.Context, tag string) error {
	if err := l.Store.Untag(ctx, tag); err != nil {
		return err
	}
	return changeIndex(ctx, l.dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor { return tidy(untag(ds, tag)) })
}

// remove deletes a manifest with what cosign's tags attach to it, which nobody
// finds without it.
func (l *imageLayout) remove(ctx context.Context, d ocispec.Descriptor) error {
	err := l.Delete(ctx, d)
	for _, suffix := range attachedTags {
		a, errTag := l.Resolve(ctx, attachedTag(d, suffix))
		if errTag == nil {
			errTag = l.Delete(ctx, a)
		}
		if !errors.Is(errTag, ErrNotFound) {
			err = errors.Join(err, errTag)
		}
	}
	return err
}

// Delete removes a manifest, its tags, what refers to it, and the blobs that
// nothing else needs. The layout was opened for removing.
func (l *imageLayout) Delete(ctx context.Context, d ocispec.Descriptor) error {
	refer, parts, err := l.doomed(ctx, d)
	if err != nil {
		return err
	}
	var off []ocispec.Descriptor
	named := map[digest.Digest]bool{}
	// The list first: what it names is there whenever this ends.
	err = changeIndex(ctx, l.dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor {
		return slices.DeleteFunc(ds, func(d ocispec.Descriptor) bool {
			if refer[d.Digest] || parts[d.Digest] && refName(d) == "" {
				off = append(off, d)
				return true
			}
			named[d.Digest] = named[d.Digest] || refName(d) != ""
			return false
		})
	})
	if err == nil {
		err = l.free(ctx, d, named)
	}
	for _, d := range off {
		if ok, _ := l.Store.Exists(ctx, d); ok && parts[d.Digest] { // another index holds it too
			err = errors.Join(err, l.list(ctx, d, ""))
		}
	}
	return err
}

// free deletes what the list does not name: d, what refers to it, and what
// nothing else needs. oras-go's collection of garbage does so too, but ends at
// the first blob that is missing, as in a layout that was damaged.
func (l *imageLayout) free(ctx context.Context, d ocispec.Descriptor, named map[digest.Digest]bool) error {
	var refer []ocispec.Descriptor
	if isManifest(d) {
		var err error
		if refer, err = registry.Referrers(ctx, l.Store, d, ""); err != nil {
			return err
		}
	}
	next, err := l.successors(ctx, d)
	if err != nil {
		return err
	}
	if err := l.Store.Delete(ctx, d); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	for _, r := range refer {
		if err := l.free(ctx, r, named); err != nil {
			return err
		}
	}
	for _, n := range next {
		above, err := l.Predecessors(ctx, n)
		if err != nil {
			return err
		}
		if len(above) == 0 && !named[n.Digest] {
			if err := l.free(ctx, n, named); err != nil {
				return err
			}
		}
	}
	return nil
}

// successors lists what a manifest that is there is made of; what it refers to
// as its subject is no part of it.
func (l *imageLayout) successors(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	next, err := content.Successors(ctx, l.Store, d)
	if errors.Is(err, ErrNotFound) { // an index need not have all members beside it
		return nil, nil
	}
	if err != nil || !isManifest(d) {
		return next, err
	}
	raw, err := content.FetchAll(ctx, l.Store, d)
	if err != nil {
		return nil, err
	}
	var m struct{ Subject *ocispec.Descriptor }
	if err := json.Unmarshal(raw, &m); err != nil || m.Subject == nil {
		return next, err
	}
	return slices.DeleteFunc(next, func(n ocispec.Descriptor) bool { return n.Digest == m.Subject.Digest }), nil
}

// doomed returns the manifests that go with d: itself and what refers to it,
// and parts of these, which go unless something else needs them.
func (l *imageLayout) doomed(ctx context.Context, d ocispec.Descriptor) (refer, parts map[digest.Digest]bool, err error) {
	refer, parts = map[digest.Digest]bool{}, map[digest.Digest]bool{}
	var visit func(d ocispec.Descriptor, seen map[digest.Digest]bool) error
	visit = func(d ocispec.Descriptor, seen map[digest.Digest]bool) error {
		if seen[d.Digest] {
			return nil
		}
		seen[d.Digest] = true
		referrers, err := registry.Referrers(ctx, l.Store, d, "")
		if err != nil {
			return err
		}
		for _, r := range referrers {
			if err := visit(r, seen); err != nil {
				return err
			}
		}
		next, err := l.successors(ctx, d)
		if err != nil {
			return err
		}
		for _, n := range next {
			if isManifest(n) && !refer[n.Digest] {
				if err := visit(n, parts); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return refer, parts, visit(d, refer)
}

func refName(d ocispec.Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] }

// untag takes a name from what has it.
func untag(ds []ocispec.Descriptor, name string) []ocispec.Descriptor {
	for i := range ds {
		if name != "" && refName(ds[i]) == name {
			ds[i].Annotations = maps.Clone(ds[i].Annotations)
			delete(ds[i].Annotations, ocispec.AnnotationRefName)
		}
	}
	return ds
}

// tidy leaves one entry without a name of what has no name, else none.
func tidy(ds []ocispec.Descriptor) []ocispec.Descriptor {
	there := map[digest.Digest]bool{}
	for _, d := range ds {
		if refName(d) != "" {
			there[d.Digest] = true
		}
	}
	return slices.DeleteFunc(ds, func(d ocispec.Descriptor) bool {
		if refName(d) != "" {
			return false
		}
		again := there[d.Digest]
		there[d.Digest] = true
		return again
	})
}

// initLayout writes what makes a directory an OCI layout, unless it is one.
func initLayout(ctx context.Context, dir string) error {
	name := filepath.Join(dir, ocispec.ImageLayoutFile)
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := changeIndex(ctx, dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor { return ds }); err != nil {
		return err
	}
	b, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, storeLocks), name, b, true)
}

// readIndex returns what a layout lists; what has no list yet lists nothing.
func readIndex(dir string) (*ocispec.Index, error) {
	ix := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	f, err := os.Open(filepath.Join(dir, ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ix, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxIndex)).Decode(ix); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return ix, nil
}

// changeIndex rewrites what the layout in dir lists, whoever else does so.
func changeIndex(ctx context.Context, dir string, f func([]ocispec.Descriptor) []ocispec.Descriptor) error {
	lock, err := flock(ctx, filepath.Join(dir, storeLocks, "index"), false)
	if err != nil {
		return err
	}
	defer lock.Close()
	ix, err := readIndex(dir)
	if err != nil {
		return err
	}
	if ix.Manifests = f(ix.Manifests); ix.Manifests == nil {
		ix.Manifests = []ocispec.Descriptor{}
	}
	b, err := json.Marshal(ix)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, storeLocks), filepath.Join(dir, ocispec.ImageIndexFile), b, true)
}

// writeWhole makes a file have its name when it is complete, on the disk if
// sync; until then it lies in tmp. The mode of what had the name stays.
func writeWhole(tmp, name string, b []byte, sync bool) error {
	f, err := os.CreateTemp(tmp, "tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	mode := fs.FileMode(0o644)
	if fi, err := os.Stat(name); err == nil {
		mode = fi.Mode().Perm()
	}
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
