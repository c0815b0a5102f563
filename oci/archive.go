package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
)

// archiveWriter writes an OCI layout as a tar file, blob by blob as they
// come, with its index at the end. What the file held before is carried over
// when it is closed, so that an archive can hold several versions. The file
// appears under its name only when it is complete.
type archiveWriter struct {
	path string
	old  *oci.ReadOnlyStore // what was there before; nil: nothing
	was  fs.FileInfo        // its file

	mu    sync.Mutex
	f     *os.File
	tw    *tar.Writer
	blobs map[string]bool // digests written
	tags  map[string]ocispec.Descriptor
	roots []ocispec.Descriptor // manifests pushed
	wrong error                // what makes the tar of no use
}

func newArchiveWriter(ctx context.Context, path string) (*archiveWriter, error) {
	w := &archiveWriter{path: path, blobs: map[string]bool{}, tags: map[string]ocispec.Descriptor{}}
	if fi, err := os.Stat(path); err == nil {
		w.was = fi
		if w.old, err = oci.NewFromTar(ctx, path); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, err
	}
	w.f, w.tw = f, tar.NewWriter(f)
	return w, w.file(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

func (w *archiveWriter) file(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := w.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	_, err = w.tw.Write(b)
	return err
}

// Push implements [content.Pusher].
func (w *archiveWriter) Push(_ context.Context, d ocispec.Descriptor, r io.Reader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong != nil {
		return w.wrong
	}
	if w.blobs[string(d.Digest)] {
		return nil
	}
	if err := d.Digest.Validate(); err != nil {
		return err
	}
	if err := w.tw.Flush(); err != nil { // to where the next begins
		return err
	}
	start, err := w.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	err = w.tw.WriteHeader(&tar.Header{Name: "blobs/" + string(d.Digest.Algorithm()) + "/" + d.Digest.Encoded(), Mode: 0o644, Size: d.Size})
	if err == nil {
		vr := content.NewVerifyReader(r, d)
		if _, err = io.Copy(w.tw, vr); err == nil {
			err = vr.Verify()
		}
	}
	if err != nil { // half a blob: it may be pushed again
		_, seek := w.f.Seek(start, io.SeekStart)
		w.wrong = errors.Join(seek, w.f.Truncate(start))
		w.tw = tar.NewWriter(w.f)
		return err
	}
	w.blobs[string(d.Digest)] = true
	if isManifest(d) {
		w.roots = append(w.roots, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType})
	}
	return nil
}

// fail has Close leave what was there before.
func (w *archiveWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = err
}

// Tag implements [content.Tagger].
func (w *archiveWriter) Tag(_ context.Context, d ocispec.Descriptor, tag string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tags[tag] = d
	return nil
}

// Exists implements [content.ReadOnlyStorage].
func (w *archiveWriter) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blobs[string(d.Digest)], nil
}

// Fetch implements [content.Fetcher]: from what was there before.
func (w *archiveWriter) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if w.old == nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, errdef.ErrNotFound)
	}
	return w.old.Fetch(ctx, d)
}

// Resolve implements [content.Resolver]: of what was there before.
func (w *archiveWriter) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	if w.old == nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", ref, errdef.ErrNotFound)
	}
	return w.old.Resolve(ctx, ref)
}

// Predecessors implements [content.PredecessorFinder]: of what was there before.
func (w *archiveWriter) Predecessors(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if w.old == nil {
		return nil, nil
	}
	return w.old.Predecessors(ctx, d)
}

// Tags implements [registry.TagLister]: of what was there before.
func (w *archiveWriter) Tags(ctx context.Context, last string, fn func([]string) error) error {
	if w.old == nil {
		return nil
	}
	return w.old.Tags(ctx, last, fn)
}

// carry writes what was in the old file and is not in the new one, and returns
// what the old one lists.
func (w *archiveWriter) carry() (list []ocispec.Descriptor, err error) {
	f, err := os.Open(w.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		name := filepath.ToSlash(filepath.Clean(h.Name))
		if h.Typeflag == tar.TypeReg && name == ocispec.ImageIndexFile {
			var ix ocispec.Index
			if err := json.NewDecoder(io.LimitReader(tr, maxIndex)).Decode(&ix); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			list = ix.Manifests
		}
		blob, ok := strings.CutPrefix(name, "blobs/")
		algorithm, hex, in := strings.Cut(blob, "/")
		if h.Typeflag != tar.TypeReg || !ok || !in || strings.Contains(hex, "/") || w.blobs[algorithm+":"+hex] {
			continue
		}
		if err := w.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: h.Size}); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w.tw, tr); err != nil {
			return nil, err
		}
	}
}

// Close writes the rest and gives the file its name; after a failure, or if
// nothing was tagged, it leaves what was there before.
func (w *archiveWriter) Close() error {
	defer os.Remove(w.f.Name())
	defer w.f.Close()
	if w.wrong != nil || (len(w.tags) == 0 && len(w.roots) == 0) {
		return nil
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if w.old != nil {
		old, err := w.carry()
		if err != nil {
			return fmt.Errorf("carry over %s: %w", w.path, err)
		}
		index.Manifests = old
	}
	for t, d := range w.tags {
		index.Manifests = append(untag(index.Manifests, t), ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType,
			Annotations: map[string]string{ocispec.AnnotationRefName: t}})
	}
	index.Manifests = tidy(append(index.Manifests, w.roots...))
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return slices.Compare([]string{refName(a), string(a.Digest)}, []string{refName(b), string(b.Digest)})
	})
	mode := fs.FileMode(0o644)
	if w.was != nil {
		mode = w.was.Mode().Perm()
	}
	if err := errors.Join(w.file(ocispec.ImageIndexFile, index), w.tw.Close(), w.f.Chmod(mode), w.f.Sync(), w.f.Close()); err != nil { // Windows does not move an open file
		return fmt.Errorf("write %s: %w", w.path, err)
	}
	if now, err := os.Stat(w.path); (err == nil) != (w.was != nil) || err == nil && (!os.SameFile(now, w.was) || !now.ModTime().Equal(w.was.ModTime())) {
		return fmt.Errorf("write %s: somebody else has written it meanwhile, and that stays; run the same command again", w.path)
	}
	return os.Rename(w.f.Name(), w.path)
}
