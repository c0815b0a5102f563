package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Every push opens the layout anew, so they exclude each other as processes do.
func TestPushesIntoOneLayoutAtOnceKeepAllTags(t *testing.T) {
	c := testClient(t)
	dir, tree := filepath.Join(t.TempDir(), "out"), t.TempDir()
	parts(t, tree, 1)
	const n = 12
	var want []string
	var wg sync.WaitGroup
	for i := range n {
		want = append(want, fmt.Sprintf("v%d", i))
		ref := reference(t, "oci:"+dir+":"+want[i])
		wg.Go(func() {
			if _, err := c.Push(t.Context(), ref, tree, PushOptions{Annotations: map[string]string{"n": ref.Tag}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r, err := c.Open(t.Context(), reference(t, "oci:"+dir))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Tags(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v: %v", got, err)
	}
	ix, err := readIndex(dir)
	if err != nil || len(ix.Manifests) != n {
		t.Errorf("%d manifests are listed: %v", len(ix.Manifests), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, storeLocks, "tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A layout that is open has not seen what others have listed since.
func TestATagOfAnotherProcessStays(t *testing.T) {
	c := testClient(t)
	dir, tree := t.TempDir(), t.TempDir()
	parts(t, tree, 1)
	push := func(tag string, o PushOptions) *Pushed {
		t.Helper()
		p, err := c.Push(t.Context(), reference(t, "oci:"+dir+":"+tag), tree, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	push("v1", PushOptions{})
	open, err := c.open(t.Context(), reference(t, "oci:"+dir+":v1"), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	d := push("v2", PushOptions{Annotations: map[string]string{"n": "2"}}).Descriptor
	b := []byte(`{"schemaVersion":2,"manifests":[]}`)
	ix := descriptor(ocispec.MediaTypeImageIndex, b)
	if err := errors.Join(open.pushManifest(t.Context(), ix, b), open.tag(t.Context(), ix, b, "v1"), open.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := c.Open(t.Context(), reference(t, "oci:"+dir+":v2"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Resolve(t.Context()); err != nil || got.Digest != d.Digest {
		t.Errorf("v2 is %s: %v", got.Digest, err)
	}
	if got, err := r.store.Resolve(t.Context(), "v1"); err != nil || got.Digest != ix.Digest {
		t.Errorf("v1 is %s: %v", got.Digest, err)
	}
	// What v1 was has no name now, but is there.
	all, err := readIndex(dir)
	if err != nil || len(all.Manifests) != 3 {
		t.Errorf("%v: %v", all, err)
	}
}

func TestWhoIsAloneSeesEveryTag(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	ref := reference(t, "oci:"+dir+":v1")
	w, err := c.open(t.Context(), ref, forWrite)
	if err != nil {
		t.Fatal(err)
	}
	builder{t, w}.index("0")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const n = 8
	var wg sync.WaitGroup
	for range n {
		r, err := c.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			err := r.layout.Alone(t.Context(), func() error {
				tags, err := r.Tags(t.Context())
				if err != nil {
					return err
				}
				d, err := r.store.Resolve(t.Context(), "0")
				if err != nil {
					return err
				}
				return r.layout.Tag(t.Context(), d, fmt.Sprint(len(tags)))
			})
			if err := errors.Join(err, r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r, err := c.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := r.Tags(t.Context()); err != nil || len(tags) != n+1 {
		t.Errorf("%v: %v", tags, err)
	}
}

func TestRemovingWaitsForAPush(t *testing.T) {
	c := testClient(t)
	waits := make(chan string, 1)
	c.opts.Waits = func(dir string) { waits <- dir }
	dir, tree := t.TempDir(), t.TempDir()
	parts(t, tree, 1)
	v1, v2 := reference(t, "oci:"+dir+":v1"), reference(t, "oci:"+dir+":v2")
	if _, err := c.Push(t.Context(), v1, tree, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	if _, err := c.Push(t.Context(), v2, tree, PushOptions{Annotations: map[string]string{"n": "2"}}); err != nil {
		t.Fatal(err)
	}
	open, err := c.open(t.Context(), v2, forWrite)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := c.Remove(t.Context(), v1)
		removed <- err
	}()
	select {
	case err := <-removed:
		t.Errorf("removed under a push: %v", err)
	case got := <-waits:
		if got != dir {
			t.Errorf("waits for %s, not %s", got, dir)
		}
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pull(t.Context(), v2, t.TempDir(), PullOptions{}); err != nil {
		t.Errorf("v2 lost what it had in common with v1: %v", err)
	}
}

// builder stores manifests of other tools.
type builder struct {
	t *testing.T
	r *Repo
}

func (b builder) put(v any, mediaType, tag string) ocispec.Descriptor {
	b.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	d := descriptor(mediaType, raw)
	if isManifest(d) {
		err = b.r.pushManifest(b.t.Context(), d, raw)
	} else {
		_, err = b.r.pushBlob(b.t.Context(), d, bytes.NewReader(raw), nil)
	}
	if err == nil && tag != "" {
		err = b.r.tag(b.t.Context(), d, raw, tag)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b builder) manifest(name string, subject *ocispec.Descriptor, tag string) ocispec.Descriptor {
	b.t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: b.put(struct{}{}, ocispec.MediaTypeEmptyJSON, ""),
		Layers: []ocispec.Descriptor{b.put(name, "text/plain", "")}, Subject: subject}
	m.SchemaVersion = 2
	return b.put(m, m.MediaType, tag)
}

func (b builder) index(tag string, members ...ocispec.Descriptor) ocispec.Descriptor {
	b.t.Helper()
	ix := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: members}
	ix.SchemaVersion = 2
	return b.put(ix, ix.MediaType, tag)
}

func TestRemovingFromALayoutLeavesWhatOthersNeed(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	r, err := c.open(t.Context(), reference(t, "oci:"+dir), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	b := builder{t, r}
	manifest, index := b.manifest, b.index
	shared, own, named := manifest("shared", nil, ""), manifest("own", nil, ""), manifest("named", nil, "member")
	plain := manifest("plain", nil, "")
	one := index("one", shared, own, named, plain)
	two := index("two", shared)
	signature := manifest("signature", &one, "")
	other := manifest("another signature", &two, "")
	ofOwn := manifest("of a member", &own, "")
	tagged := manifest("a tagged signature", nil, attachedTag(one, "sig"))
	ofTwo := manifest("another", nil, attachedTag(two, "sig"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(t.Context(), reference(t, "oci:"+dir+":one")); err != nil {
		t.Fatal(err)
	}
	ix, err := readIndex(dir)
	if err != nil {
		t.Fatal(err)
	}
	for what, d := range map[string]struct {
		ocispec.Descriptor
		stays bool
	}{
		"the index": {one, false}, "its signature": {signature, false}, "its signature by tag": {tagged, false}, "another by tag": {ofTwo, true}, "its member": {plain, false},
		"its member that is signed": {own, true}, "the signature of that": {ofOwn, true},
		"the member of two": {shared, true}, "the member with a tag": {named, true}, "the other index": {two, true}, "its signature too": {other, true},
	} {
		listed := slices.ContainsFunc(ix.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d.Digest })
		_, err := os.Stat(filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()))
		if listed != d.stays || (err == nil) != d.stays {
			t.Errorf("%s: listed: %v, there: %v", what, listed, err)
		}
	}
	if _, err := c.Open(t.Context(), reference(t, "oci:"+dir)); err != nil {
		t.Error(err)
	}
}

// The copy of a layout may lack blobs, and an index members for other platforms.
func TestWhatIsDamagedIsRemovedWhole(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	r, err := c.open(t.Context(), reference(t, "oci:"+dir), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	b := builder{t, r}
	here, elsewhere := b.manifest("here", nil, ""), descriptor(ocispec.MediaTypeImageManifest, []byte("elsewhere"))
	one := b.index("v1", here, elsewhere)
	b.manifest("signature", &one, "")
	lost := b.put("here", "text/plain", "")
	if err := errors.Join(r.Close(), os.Remove(filepath.Join(dir, storeBlobs, lost.Digest.Encoded()))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(t.Context(), reference(t, "oci:"+dir+":v1")); err != nil {
		t.Error(err)
	}
	holds(t, dir, 0)
}

// holds checks that a layout lists certain manifests, in order, and has so many blobs.
func holds(t *testing.T, dir string, blobs int, manifests ...ocispec.Descriptor) {
	t.Helper()
	ix, err := readIndex(dir)
	if err != nil || !slices.EqualFunc(ix.Manifests, manifests, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest }) {
		t.Errorf("%v: %v", ix, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, storeBlobs)); err != nil || len(left) != blobs {
		t.Errorf("%d blobs, want %d: %v: %v", len(left), blobs, left, err)
	}
}

// What a signature is about may have no tag any more, and be pulled by digest.
func TestWhatWasSignedStaysWithoutItsSignature(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	r, err := c.open(t.Context(), reference(t, "oci:"+dir), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	b := builder{t, r}
	one := b.manifest("one", nil, "")
	signature := b.manifest("signature", &one, "")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(t.Context(), reference(t, "oci:"+dir+"@"+string(signature.Digest))); err != nil {
		t.Fatal(err)
	}
	holds(t, dir, 3, one)
}

// A process may be killed after it has stored a signature and before that is listed.
func TestAManifestThatIsNotListedIsPushedAgain(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	b := []byte(`{"schemaVersion":2,"manifests":[]}`)
	d := descriptor(ocispec.MediaTypeImageIndex, b)
	for range 2 {
		r, err := c.open(t.Context(), reference(t, "oci:"+dir), forWrite)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.pushManifest(t.Context(), d, b), r.Close()); err != nil {
			t.Fatal(err)
		}
		if ix, err := readIndex(dir); err != nil || len(ix.Manifests) != 1 {
			t.Errorf("%v: %v", ix, err)
		}
		if err := os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Blobs are not waited for to be on the disk.
func TestABlobThatWasCutIsPushedAgain(t *testing.T) {
	c := testClient(t)
	dir, tree := t.TempDir(), t.TempDir()
	parts(t, tree, 1)
	ref := reference(t, "oci:"+dir+":v1")
	p, err := c.Push(t.Context(), ref, tree, PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.Artifact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(dir, storeBlobs, a.Manifest.Layers[1].Digest.Encoded())
	if err := errors.Join(os.Chmod(layer, 0o600), os.Truncate(layer, 10)); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Push(t.Context(), ref, tree, PushOptions{Base: BaseNone}); err != nil || again.Descriptor.Digest != p.Descriptor.Digest {
		t.Fatalf("%v: %v", again, err)
	}
	lie := a.Manifest.Layers[1]
	lie.Size--
	w, err := c.open(t.Context(), ref, forWrite)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.pushBlob(t.Context(), lie, bytes.NewReader(make([]byte, lie.Size)), nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pull(t.Context(), ref, t.TempDir(), PullOptions{}); err != nil {
		t.Error(err)
	}
}

func TestWhatKilledPushesLeftIsRemovedInTime(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	write := func() {
		t.Helper()
		r, err := c.open(t.Context(), reference(t, "oci:"+dir), forWrite)
		if err != nil {
			t.Fatal(err)
		}
		builder{t, r}.manifest("m", nil, "v1")
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write()
	blob := descriptor("", nil).Digest.Encoded()
	old, fresh, list := filepath.Join(dir, "ingest", blob+"_1"), filepath.Join(dir, "ingest", blob+"_2"), filepath.Join(dir, storeLocks, "tmp-1")
	stranger := filepath.Join(dir, "ingest", "load.py") // of a directory that was something else
	for _, name := range []string{old, fresh, list, stranger} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-25 * time.Hour)
	if err := errors.Join(os.Chtimes(old, before, before), os.Chtimes(list, before, before), os.Chtimes(stranger, before, before)); err != nil {
		t.Fatal(err)
	}
	write()
	for name, want := range map[string]bool{old: false, list: false, fresh: true, stranger: true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothingIsRemovedThroughALink(t *testing.T) {
	c := testClient(t)
	dir, elsewhere := t.TempDir(), t.TempDir()
	file := filepath.Join(elsewhere, descriptor("", nil).Digest.Encoded()+"_1")
	before := time.Now().Add(-25 * time.Hour)
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chtimes(file, before, before)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, "ingest")); err != nil {
		t.Skip(err) // Windows lets not everybody
	}
	r, err := c.open(t.Context(), reference(t, "oci:"+dir), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
