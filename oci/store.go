package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"mpack/layout"
	"mpack/layout/tree"
)

// Store is an OCI image layout on a machine that its pulls share, with the
// files of the artifacts beside it:
//
//	oci-layout, index.json   every artifact that was pulled, by its whole reference
//	blobs/sha256/<hex>       manifests, configs and indexes
//	files/sha256/<hex>       files, see [layout.FileStore]
//	lock, locks/             see below
//
// It keeps files, not layers: a file can be linked into any number of
// directories without a copy, and with the index of its artifact every chunk
// of it can be found, so that the next version moves only what changed,
// whether the last one came as layers or in ranges. Layers would be the same
// bytes once more. To other tools they are blobs that lie elsewhere, which
// image-layout.md allows: they read manifests, configs and indexes here, and
// fetch layers from the registry.
//
// Nothing in the store is trusted: what does not match its digest is removed
// and fetched again. Everything gets its name when it is complete, so that a
// process may be killed at any time; the next pull goes on with its work files,
// whether or not the directory it pulled into is still there.
//
// A pull holds a shared lock on the file lock from beginning to end, [PruneStore]
// an exclusive one. Pulls of one artifact take turns (locks/<hex>): the first
// fetches, the others find what it has fetched. Who writes index.json holds
// locks/index.
//
// The time that a manifest was last changed is when it was last pulled.
type Store struct {
	dir   string
	files layout.FileStore
	lock  *os.File
}

// Directories and files of a store.
const (
	storeFiles = "files/sha256"
	storeBlobs = "blobs/sha256"
	storeLocks = "locks"
)

// OpenStore opens the store in dir, which is made if need be, waiting while it
// is being pruned. Close it.
func OpenStore(ctx context.Context, dir string, link layout.LinkMode) (*Store, error) {
	s, err := openStore(ctx, dir, link, true)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	return s, nil
}

func openStore(ctx context.Context, dir string, link layout.LinkMode, shared bool) (*Store, error) {
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err == nil && !isStore(dir) {
		return nil, errors.New("it is an OCI layout that artifacts were pushed to, whose layers a store does not keep: name another directory")
	}
	for _, d := range []string{storeFiles, storeBlobs, storeLocks} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	s := &Store{dir: dir, files: layout.FileStore{Dir: filepath.Join(dir, storeFiles), Link: link}}
	var err error
	if s.lock, err = flock(ctx, filepath.Join(dir, "lock"), shared); err != nil {
		return nil, err
	}
	if err := initLayout(ctx, dir); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// isStore tells a store from other layouts.
func isStore(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, storeFiles))
	return err == nil
}

// Close lets the store go.
func (s *Store) Close() error { return s.lock.Close() }

// flock takes the lock of a file, waiting for it. It is held until the file is
// closed.
func flock(ctx context.Context, name string, shared bool) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for {
		err := tree.TryLock(f, shared)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, tree.ErrBusy) {
			f.Close()
			return nil, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Store) blobName(d digest.Digest) string {
	return filepath.Join(s.dir, storeBlobs, d.Encoded())
}

// blob returns a blob if it is there and right. A nil Store has none.
func (s *Store) blob(d ocispec.Descriptor) ([]byte, bool) {
	if s == nil || sha256Digest(string(d.Digest)) != nil {
		return nil, false
	}
	f, err := os.Open(s.blobName(d.Digest))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, d.Size+1))
	if err != nil || int64(len(b)) != d.Size || digest.FromBytes(b) != d.Digest {
		return nil, false // keep writes it anew
	}
	return b, true
}

// keep stores a blob that was checked. A nil Store does nothing.
func (s *Store) keep(d ocispec.Descriptor, b []byte) error {
	if s == nil || sha256Digest(string(d.Digest)) != nil {
		return nil
	}
	if err := writeWhole(s.files.Dir, s.blobName(d.Digest), b, false); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// list returns what index.json lists.
func (s *Store) list() ([]ocispec.Descriptor, error) {
	ix, err := readIndex(s.dir)
	if err != nil {
		return nil, fmt.Errorf("%w: remove it, the next pulls write it anew", err)
	}
	return slices.DeleteFunc(ix.Manifests, func(d ocispec.Descriptor) bool { return sha256Digest(string(d.Digest)) != nil }), nil
}

// add lists an artifact as pulled now, by the name of ref. What had the name
// before stays, without a name.
func (s *Store) add(ctx context.Context, ref Reference, d ocispec.Descriptor) error {
	if ref.Tag != "" {
		ref.Digest = ""
	}
	name := ref.String()
	err := changeIndex(ctx, s.dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor {
		there := false
		for i := range ds {
			if ds[i].Annotations[ocispec.AnnotationRefName] != name {
				continue
			}
			if ds[i].Digest == d.Digest {
				there = true
			} else {
				ds[i].Annotations = nil
			}
		}
		if !there {
			ds = append(ds, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType,
				Annotations: map[string]string{ocispec.AnnotationRefName: name}})
		}
		return ds
	})
	now := time.Now()
	err = errors.Join(err, os.Chtimes(s.blobName(d.Digest), now, now))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// index reads manifest and index of an artifact.
func (s *Store) index(d ocispec.Descriptor) (*Artifact, *layout.Index, error) {
	gone := func(d ocispec.Descriptor) error { return fmt.Errorf("%s: %w, or is damaged", d.Digest, ErrNotFound) }
	a := &Artifact{Descriptor: d}
	var ok bool
	if d.Size > maxManifest {
		return nil, nil, gone(d)
	}
	if a.raw, ok = s.blob(d); !ok {
		return nil, nil, gone(d)
	}
	if err := json.Unmarshal(a.raw, &a.Manifest); err != nil {
		return nil, nil, err
	}
	if err := checkManifest(&a.Manifest); err != nil {
		return nil, nil, err
	}
	b, ok := s.blob(a.Manifest.Layers[0])
	if !ok {
		return nil, nil, gone(a.Manifest.Layers[0])
	}
	ix, err := layout.ReadIndex(bytes.NewReader(b), int64(len(b)), a.Layers())
	return a, ix, err
}

// indexes yields the index given and then those of all artifacts, the one that
// was pulled last first. One at a time is in memory.
func (s *Store) indexes(own *layout.Index) iter.Seq[*layout.Index] {
	return func(yield func(*layout.Index) bool) {
		if !yield(own) {
			return
		}
		all, err := s.artifacts()
		if err != nil {
			return // the registry has what the store does not tell
		}
		for _, a := range all {
			if _, ix, err := s.index(a.Descriptor); err == nil && !yield(ix) {
				return
			}
		}
	}
}

// turn waits until no other pull of an artifact is under way, unless the store
// has all its files, and returns what ends the turn.
func (s *Store) turn(ctx context.Context, d digest.Digest, ix *layout.Index, wanted func(path string) bool) (end func(), err error) {
	complete := func() bool {
		for i := range ix.Files {
			if f := &ix.Files[i]; f.Regular() && f.Size > 0 && (wanted == nil || wanted(f.Path)) && !s.files.Has(f) {
				return false
			}
		}
		return true
	}
	if complete() {
		return func() {}, nil
	}
	f, err := flock(ctx, filepath.Join(s.dir, storeLocks, d.Encoded()), false)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if complete() {
		f.Close() // another has fetched it: copying needs no turns
		return func() {}, nil
	}
	return func() { f.Close() }, nil
}

// StoredArtifact is an artifact in a store.
type StoredArtifact struct {
	Descriptor ocispec.Descriptor
	Names      []string  // references that it was pulled by and that no other has got since
	Pulled     time.Time // last
}

// artifacts lists the artifacts, the one that was pulled last first, whether
// or not they can be read.
func (s *Store) artifacts() ([]*StoredArtifact, error) {
	ds, err := s.list()
	if err != nil {
		return nil, err
	}
	var all []*StoredArtifact
	by := map[digest.Digest]*StoredArtifact{}
	for _, d := range ds {
		a := by[d.Digest]
		if a == nil {
			a = &StoredArtifact{Descriptor: d}
			if fi, err := os.Stat(s.blobName(d.Digest)); err == nil {
				a.Pulled = fi.ModTime()
			}
			by[d.Digest] = a
			all = append(all, a)
		}
		if name := d.Annotations[ocispec.AnnotationRefName]; name != "" {
			a.Names = append(a.Names, name)
		}
	}
	slices.SortStableFunc(all, func(a, b *StoredArtifact) int { return b.Pulled.Compare(a.Pulled) })
	return all, nil
}

// StoredUse is what an artifact takes of a store.
type StoredUse struct {
	StoredArtifact
	Size    int64 // bytes of its files
	Present int64 // of these, in the store
	Own     int64 // of these, of files that no artifact pulled later has
	Err     error // why it cannot be read; then the sizes are 0
}

// StoreUsage lists the artifacts of the store in dir, the one that was pulled
// last first.
func StoreUsage(ctx context.Context, dir string) ([]StoredUse, error) {
	var out []StoredUse
	err := withStore(ctx, dir, true, func(s *Store) (err error) {
		out, err = s.usage()
		return err
	})
	return out, err
}

// withStore opens a store that is there already.
func withStore(ctx context.Context, dir string, shared bool, do func(*Store) error) error {
	var s *Store
	err := ErrNoStore // a mistyped directory is not made one
	if isStore(dir) {
		s, err = openStore(ctx, dir, layout.LinkCopy, shared)
	}
	if err == nil {
		err = errors.Join(do(s), s.Close())
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", dir, err)
	}
	return nil
}

func (s *Store) usage() ([]StoredUse, error) {
	all, err := s.artifacts()
	if err != nil {
		return nil, err
	}
	var out []StoredUse
	seen := map[layout.Hash]bool{}
	for _, a := range all {
		u := StoredUse{StoredArtifact: *a}
		_, ix, err := s.index(a.Descriptor)
		if err != nil {
			u.Err = err
			out = append(out, u)
			continue
		}
		mine := map[layout.Hash]bool{}
		for i := range ix.Files {
			f := &ix.Files[i]
			if !f.Regular() {
				continue
			}
			u.Size += f.Size
			if mine[f.SHA256] {
				u.Present += f.Size
				continue
			}
			if !s.files.Has(f) {
				continue
			}
			mine[f.SHA256] = true
			u.Present += f.Size
			if !seen[f.SHA256] {
				seen[f.SHA256] = true
				u.Own += f.Size
			}
		}
		out = append(out, u)
	}
	return out, nil
}

// PruneOptions say what stays in a store. The zero value removes only what no
// artifact needs: what killed processes and replaced versions left.
type PruneOptions struct {
	MaxAge  time.Duration // artifacts not pulled for longer go; 0: none
	MaxSize int64         // bytes of files that stay at most, those of artifacts pulled last; 0: any
	Waits   func()        // called if there are pulls to wait for
}

// Pruned is what a prune removed.
type Pruned struct {
	Artifacts []StoredArtifact
	Files     int   // of files and blobs
	Bytes     int64 // of files and blobs; what hard links elsewhere hold is not free for it
	Left      int64 // bytes of files that stay
}

// PruneStore removes the artifacts of the store in dir that were not pulled
// for the longest time, and every file that no other artifact has. It waits
// until no pull is under way, and pulls wait for it; those that begin while it
// waits go first.
func PruneStore(ctx context.Context, dir string, o PruneOptions) (*Pruned, error) {
	if o.Waits != nil && busy(filepath.Join(dir, "lock"), false) {
		o.Waits()
	}
	var out *Pruned
	err := withStore(ctx, dir, false, func(s *Store) (err error) {
		out, err = s.prune(ctx, o)
		return err
	})
	return out, err
}

// busy reports whether somebody keeps the lock of a file from being taken.
func busy(name string, shared bool) bool {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(tree.TryLock(f, shared), tree.ErrBusy)
}

func (s *Store) prune(ctx context.Context, o PruneOptions) (*Pruned, error) {
	all, err := s.artifacts()
	if err != nil {
		return nil, err
	}
	out := &Pruned{}
	files, blobs := map[string]bool{}, map[string]bool{}
	gone := map[digest.Digest]bool{}
	full := false // what was pulled earlier than what did not fit goes too
	for _, u := range all {
		a, ix, err := s.index(u.Descriptor)
		var own int64
		fresh := map[layout.Hash]bool{}
		if err == nil {
			for i := range ix.Files {
				f := &ix.Files[i]
				if !f.Regular() || files[f.SHA256.String()] || fresh[f.SHA256] {
					continue
				}
				_, err := os.Lstat(s.files.Part(f.SHA256))
				if err == nil || s.files.Has(f) {
					fresh[f.SHA256] = true
					own += f.Size
				}
			}
			full = full || (o.MaxSize > 0 && out.Left+own > o.MaxSize)
		}
		if err != nil || full || (o.MaxAge > 0 && time.Since(u.Pulled) > o.MaxAge) {
			gone[u.Descriptor.Digest] = true
			out.Artifacts = append(out.Artifacts, *u)
			continue
		}
		out.Left += own
		for h := range fresh {
			files[h.String()], files[filepath.Base(s.files.Part(h))] = true, true
		}
		for _, d := range []ocispec.Descriptor{u.Descriptor, a.Manifest.Config, a.Manifest.Layers[0]} {
			blobs[d.Digest.Encoded()] = true
		}
	}
	// The list first: what it names is there whenever this ends.
	if err := changeIndex(ctx, s.dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor {
		return slices.DeleteFunc(ds, func(d ocispec.Descriptor) bool { return gone[d.Digest] })
	}); err != nil {
		return nil, err
	}
	for dir, keep := range map[string]map[string]bool{storeFiles: files, storeBlobs: blobs, storeLocks: {}} {
		if err := s.sweep(ctx, dir, keep, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sweep removes what is in a directory of the store but those files.
func (s *Store) sweep(ctx context.Context, dir string, keep map[string]bool, out *Pruned) error {
	list, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return err
	}
	for _, e := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if keep[e.Name()] || e.IsDir() {
			continue
		}
		fi, err := e.Info()
		if err == nil {
			err = os.Remove(filepath.Join(s.dir, dir, e.Name()))
		}
		if err != nil {
			return err
		}
		if dir != storeLocks {
			out.Files++
			out.Bytes += fi.Size()
		}
	}
	return nil
}

// Verified is what a store was found to hold.
type Verified struct {
	Files   int      // files and blobs that were read
	Bytes   int64    // of them
	Damaged []string // names of those that did not match their digests; they have been removed
}

// VerifyStore reads everything in the store in dir and removes what is
// damaged, which the next pull that needs it fetches again.
func VerifyStore(ctx context.Context, dir string, p layout.Progress) (*Verified, error) {
	var out *Verified
	err := withStore(ctx, dir, true, func(s *Store) (err error) {
		out, err = s.verify(ctx, p)
		return err
	})
	return out, err
}

func (s *Store) verify(ctx context.Context, p layout.Progress) (*Verified, error) {
	out := &Verified{}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, dir := range []string{storeBlobs, storeFiles} {
		list, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			return nil, err
		}
		there := layout.FileStore{Dir: filepath.Join(s.dir, dir)}
		for _, e := range list {
			var h layout.Hash
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() || h.UnmarshalText([]byte(e.Name())) != nil {
				continue // being written, or removed by now
			}
			g.Go(func() error {
				err := there.Check(gctx, h)
				if gctx.Err() != nil {
					return context.Cause(gctx)
				}
				if p != nil {
					p(layout.Delta{Files: 1, Bytes: fi.Size()})
				}
				mu.Lock()
				defer mu.Unlock()
				out.Files++
				out.Bytes += fi.Size()
				if errors.Is(err, layout.ErrCorrupt) {
					out.Damaged = append(out.Damaged, filepath.Join(dir, e.Name()))
				}
				return nil
			})
		}
	}
	err := g.Wait()
	if err == nil && len(out.Damaged) > 0 { // a layout lists nothing that is not there
		err = changeIndex(ctx, s.dir, func(ds []ocispec.Descriptor) []ocispec.Descriptor {
			return slices.DeleteFunc(ds, func(d ocispec.Descriptor) bool {
				_, err := os.Stat(s.blobName(d.Digest))
				return errors.Is(err, fs.ErrNotExist)
			})
		})
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(out.Damaged)
	return out, nil
}
