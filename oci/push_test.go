package oci

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

// registryFor serves a registry on loopback, and returns its host and what it
// is asked for: "METHOD path?query".
func registryFor(t *testing.T) (host string, requests func() []string) {
	t.Helper()
	reg := olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem},
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	var mu sync.Mutex
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.URL.RequestURI())
		mu.Unlock()
		reg.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.Close()
		reg.Close()
	})
	return strings.TrimPrefix(s.URL, "http://"), func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := seen
		seen = nil
		return out
	}
}

func reference(t *testing.T, s string) Reference {
	t.Helper()
	r, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// parts writes files of a mebibyte of random bytes, whose content is the seeds'.
func parts(t *testing.T, dir string, seeds ...uint64) {
	t.Helper()
	for i, s := range seeds {
		b := make([]byte, 1<<20)
		r := rand.NewChaCha8([32]byte{byte(s), byte(s >> 8)})
		_, _ = r.Read(b)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("part-%03d.bin", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func testClient(t *testing.T) *Client {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	c, err := NewClient(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func numbered(from, n uint64) (seeds []uint64) {
	for i := range n {
		seeds = append(seeds, from+i)
	}
	return seeds
}

func TestLayersOfABaseElsewhereAreMounted(t *testing.T) {
	c := testClient(t)
	host, requests := registryFor(t)
	dir := t.TempDir()
	seeds := numbered(0, 48)
	parts(t, dir, seeds...)
	first, err := c.Push(t.Context(), reference(t, host+"/team/base:v1"), dir, PushOptions{})
	if err != nil {
		t.Fatal(err)
	}

	seeds[5] = 1000 // one file of 48 is another
	parts(t, dir, seeds...)
	requests()
	ref := reference(t, host+"/other/tuned:v1")
	done, err := c.Push(t.Context(), ref, dir, PushOptions{Base: host + "/team/base:v1"})
	if err != nil {
		t.Fatal(err)
	}
	if done.Base != host+"/team/base@"+string(first.Descriptor.Digest) {
		t.Errorf("the base is %q", done.Base)
	}
	if done.Sent > 3<<19 {
		t.Errorf("sent %d bytes for one of 1 MiB that changed", done.Sent)
	}
	mounts := 0
	for _, r := range requests() {
		if strings.HasPrefix(r, "POST /v2/other/tuned/blobs/uploads/?") && strings.Contains(r, "mount=sha256") && strings.Contains(r, "from=team/base") {
			mounts++
		}
	}
	repo, err := c.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	a, err := repo.Artifact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if listed := len(a.Manifest.Layers) - 2; mounts != listed { // less the index and the layer that is new
		t.Errorf("%d layers mounted of %d that are the base's", mounts, listed)
	}
	for _, l := range a.Manifest.Layers {
		if ok, err := repo.store.Exists(t.Context(), l); err != nil || !ok {
			t.Errorf("%s is not in the repository: %v", l.Digest, err)
		}
	}
	out := t.TempDir()
	if _, err := c.Pull(t.Context(), ref, out, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, dir, out)
}

func same(t *testing.T, a, b string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(a, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		x, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		if y, err := os.ReadFile(filepath.Join(b, filepath.Base(n))); err != nil || !slices.Equal(x, y) {
			t.Errorf("%s differs: %v", filepath.Base(n), err)
		}
	}
}

func TestABaseElsewhereIsCopied(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	another, _ := registryFor(t)
	dir := t.TempDir()
	parts(t, dir, numbered(0, 20)...)
	base := "oci:" + filepath.Join(t.TempDir(), "layout") + ":v1"
	if _, err := c.Push(t.Context(), reference(t, base), dir, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{host, another} {
		ref := reference(t, to+"/m:v1")
		done, err := c.Push(t.Context(), ref, dir, PushOptions{Base: base})
		if err != nil {
			t.Fatal(err)
		}
		if done.Base == "" {
			t.Error("no base")
		}
		out := t.TempDir()
		if _, err := c.Pull(t.Context(), ref, out, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		same(t, dir, out)
		base = to + "/m:v1"
	}
}

func TestSparseLayersOfTheBaseAreNotListed(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	dir := t.TempDir()
	seeds := numbered(0, 64)
	parts(t, dir, seeds...)
	ref := reference(t, host+"/m:v1")
	first, err := c.Push(t.Context(), ref, dir, PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Of the first half of the files two in three are others, of the rest none.
	for i := range seeds[:32] {
		if i%3 > 0 {
			seeds[i] = uint64(1000 + i)
		}
	}
	parts(t, dir, seeds...)
	if _, err := c.Push(t.Context(), ref, dir, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	repo, err := c.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	a, err := repo.Artifact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ix, err := a.Index(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := Reference{Host: host, Repository: "m", Digest: first.Descriptor.Digest}
	was, err := c.Open(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	b, err := was.Artifact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers := a.Layers()
	kept := 0
	for i, used := range ix.Used(len(layers)) {
		if slices.Contains(b.Layers(), layers[i]) {
			kept++
			if used*2 < layers[i].Size {
				t.Errorf("layer %d of the base is listed for %d of %d bytes", i, used, layers[i].Size)
			}
		}
	}
	if kept == 0 || kept == len(b.Layers()) {
		t.Errorf("%d of the base's %d layers are listed", kept, len(b.Layers()))
	}
}

func TestTheNewestArtifactIsTheBase(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	parts(t, dir, 1)
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	for _, k := range []struct {
		what    string
		created map[string]time.Time
		base    string
		most    int // requests for manifests and configs, and one of the list
	}{
		{"by time", map[string]time.Time{"adam": day(3), "sgd": day(1), "warm": day(2)}, "adam", 12},
		{"by tags where one states no time", map[string]time.Time{"v9": day(3), "v10": {}, "v8": day(4)}, "v10", 6},
		{"of the last five", map[string]time.Time{"a": day(9), "b": day(1), "c": day(2), "d": day(7), "e": day(3), "f": day(4)}, "d", 18},
	} {
		host, requests := registryFor(t)
		repo := host + "/team/model"
		digests := map[string]string{}
		for tag, created := range k.created {
			p, err := c.Push(t.Context(), reference(t, repo+":"+tag), dir, PushOptions{Base: BaseNone, Created: created, Annotations: map[string]string{"tag": tag}})
			if err != nil {
				t.Fatal(err)
			}
			digests[tag] = string(p.Descriptor.Digest)
		}
		requests()
		p := &push{client: c, ref: reference(t, repo+":next")}
		var err error
		if p.repo, err = c.Open(t.Context(), p.ref); err != nil {
			t.Fatal(err)
		}
		a, err := p.autoBase(t.Context(), "")
		if err != nil || a == nil || string(a.Descriptor.Digest) != digests[k.base] {
			t.Errorf("%s: not %s: %v", k.what, k.base, err)
		}
		asked := 0
		for _, r := range requests() {
			if strings.Contains(r, "/team/model/") {
				asked++
			}
		}
		if asked > k.most {
			t.Errorf("%s: %d requests", k.what, asked)
		}
	}
}

func TestALayoutIsNotPackedIntoItself(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	parts(t, dir, 1)
	t.Chdir(dir)
	for _, name := range []string{"oci:out:v1", "oci-archive:a.tar:v1"} {
		if _, err := c.Push(t.Context(), reference(t, name), ".", PushOptions{Exclude: []string{"out", "a.tar"}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, again := range []string{".", dir} {
			if _, err := c.Push(t.Context(), reference(t, name), again, PushOptions{}); !errors.Is(err, ErrReference) {
				t.Errorf("%s from %s: %v", name, again, err)
			}
		}
		if _, err := c.Push(t.Context(), reference(t, name), dir, PushOptions{Exclude: []string{"out", "a.tar"}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Push(t.Context(), reference(t, "oci:.:v1"), ".", PushOptions{}); !errors.Is(err, ErrReference) {
		t.Error(err)
	}
}
