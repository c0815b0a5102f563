package oci

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Signatures as referrers have no tag.
func TestAnArchiveKeepsWhatHasNoTag(t *testing.T) {
	c := testClient(t)
	name := "oci-archive:" + filepath.Join(t.TempDir(), "a.tar")
	write := func(f func(b builder)) {
		t.Helper()
		r, err := c.open(t.Context(), reference(t, name), forWrite)
		if err != nil {
			t.Fatal(err)
		}
		f(builder{t, r})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var one, signature ocispec.Descriptor
	write(func(b builder) {
		one = b.manifest("one", nil, "v1")
		signature = b.manifest("signature", &one, "")
	})
	write(func(b builder) { b.manifest("two", nil, "v2") })
	write(func(b builder) { b.manifest("three", nil, "v1") }) // one has no tag now
	r, err := c.Open(t.Context(), reference(t, name))
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.store.Predecessors(t.Context(), one)
	if err != nil || len(list) != 1 || list[0].Digest != signature.Digest {
		t.Errorf("refers to it: %v: %v", list, err)
	}
	tags, err := r.Tags(t.Context())
	if err != nil || strings.Join(tags, " ") != "v1 v2" {
		t.Errorf("tags %v: %v", tags, err)
	}
}

func TestAnArchiveStaysPrivate(t *testing.T) {
	c := testClient(t)
	name := filepath.Join(t.TempDir(), "a.tar")
	for _, tag := range []string{"v1", "v2"} {
		r, err := c.open(t.Context(), reference(t, "oci-archive:"+name), forWrite)
		if err != nil {
			t.Fatal(err)
		}
		builder{t, r}.manifest(tag, nil, tag)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if tag == "v1" {
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if fi, err := os.Stat(name); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("%v: %v", fi.Mode(), err)
	}
}

func TestAnArchiveKeepsBlobsOfAnyAlgorithm(t *testing.T) {
	c := testClient(t)
	ref := reference(t, "oci-archive:"+filepath.Join(t.TempDir(), "a.tar"))
	text := []byte("of another tool")
	d := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.SHA512.FromBytes(text), Size: int64(len(text))}
	for range 2 {
		r, err := c.open(t.Context(), ref, forWrite)
		if err != nil {
			t.Fatal(err)
		}
		if r.write.old == nil {
			err = r.write.Push(t.Context(), d, bytes.NewReader(text))
		}
		builder{t, r}.manifest("m", nil, "v1")
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := r.store.Fetch(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%q: %v", got, err)
	}
}

func TestABlobThatBrokeOffIsWrittenToAnArchiveAgain(t *testing.T) {
	c := testClient(t)
	name := filepath.Join(t.TempDir(), "a.tar")
	r, err := c.open(t.Context(), reference(t, "oci-archive:"+name), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	first, second := bytes.Repeat([]byte("1"), 1000), bytes.Repeat([]byte("2"), 3000)
	for _, b := range [][]byte{first, second} {
		d := descriptor(TypeLayer, b)
		broken := io.MultiReader(bytes.NewReader(b[:700]), iotest.ErrReader(io.ErrUnexpectedEOF))
		if err := r.write.Push(t.Context(), d, broken); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if err := r.write.Push(t.Context(), d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	builder{t, r}.manifest("m", nil, "v1")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	back, err := c.Open(t.Context(), reference(t, "oci-archive:"+name+":v1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{first, second} {
		if got, err := back.bytes(t.Context(), descriptor(TypeLayer, b), 1<<20); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes: %v", len(got), err)
		}
	}
}

func TestAnArchiveOfSomebodyElseIsNotReplaced(t *testing.T) {
	c := testClient(t)
	ref := reference(t, "oci-archive:"+filepath.Join(t.TempDir(), "a.tar"))
	for _, tag := range []string{"v1", "v2"} { // of none, and of one
		mine, err := c.open(t.Context(), ref, forWrite)
		if err != nil {
			t.Fatal(err)
		}
		builder{t, mine}.manifest("mine", nil, "mine")
		other, err := c.open(t.Context(), ref, forWrite)
		if err != nil {
			t.Fatal(err)
		}
		builder{t, other}.manifest(tag, nil, tag)
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		if err := mine.Close(); err == nil || !strings.Contains(err.Error(), "meanwhile") {
			t.Errorf("%s: %v", tag, err)
		}
		r, err := c.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.store.Resolve(t.Context(), tag); err != nil {
			t.Error(err)
		}
	}
}
