package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mpack/layout"
)

func pullWith(t *testing.T, c *Client, store, ref, out string) (*Pulled, error) {
	s, err := OpenStore(t.Context(), store, layout.LinkAuto)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return c.Pull(t.Context(), reference(t, ref), out, PullOptions{Store: s})
}

// published pushes n versions, each with one file of 12 that the last had not.
func published(t *testing.T, c *Client, host string, n int) (refs, dirs []string) {
	t.Helper()
	seeds := numbered(0, 12)
	for v := range n {
		seeds[v] = uint64(1000 + v)
		dir := t.TempDir()
		parts(t, dir, seeds...)
		ref := fmt.Sprintf("%s/m:v%d", host, v)
		if _, err := c.Push(t.Context(), reference(t, ref), dir, PushOptions{Base: BaseNone}); err != nil {
			t.Fatal(err)
		}
		refs, dirs = append(refs, ref), append(dirs, dir)
	}
	return refs, dirs
}

func TestStoreUnderPullsPrunesAndVerifiesAtOnce(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	refs, dirs := published(t, c, host, 3)
	store := filepath.Join(t.TempDir(), "store")
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for round := range 3 {
				v := (i + round) % len(refs)
				out := filepath.Join(t.TempDir(), fmt.Sprint(i, round))
				if _, err := pullWith(t, c, store, refs[v], out); err != nil {
					t.Error(err)
					return
				}
				same(t, dirs[v], out)
			}
		})
	}
	for range 2 {
		g.Go(func() {
			for range 5 {
				time.Sleep(20 * time.Millisecond)
				_, err := PruneStore(t.Context(), store, PruneOptions{MaxSize: 14 << 20})
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				done, err := VerifyStore(t.Context(), store, nil)
				if err == nil && len(done.Damaged) > 0 {
					t.Errorf("damaged: %v", done.Damaged)
				}
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	// What is listed is there, for other tools too.
	b, err := os.ReadFile(filepath.Join(store, ocispec.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	var ix ocispec.Index
	if err := json.Unmarshal(b, &ix); err != nil {
		t.Fatal(err)
	}
	for _, d := range ix.Manifests {
		r, err := c.Open(t.Context(), Reference{Scheme: Layout, Path: store, Digest: d.Digest})
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.Artifact(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Index(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Who prunes a store is told what for it takes so long, and may stop.
func TestStorePruneSaysThatItWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := OpenStore(t.Context(), dir, layout.LinkCopy)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := 0
	o := PruneOptions{Waits: func() { waits++; cancel() }}
	if _, err := PruneStore(ctx, dir, o); !errors.Is(err, context.Canceled) || waits != 1 {
		t.Errorf("said %d times that it waits, then %v", waits, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := PruneStore(t.Context(), dir, o); err != nil || waits != 1 {
		t.Errorf("nobody to wait for: said %d times that it waits, then %v", waits, err)
	}
}

func TestStorePrunesWhatWasPulledLongestAgo(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	refs, dirs := published(t, c, host, 3)
	store := filepath.Join(t.TempDir(), "store")
	names := func() (out []string) {
		uses, err := StoreUsage(t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range uses {
			if u.Err != nil || u.Present != u.Size {
				t.Errorf("%v: %d of %d bytes, %v", u.Names, u.Present, u.Size, u.Err)
			}
			out = append(out, u.Names...)
		}
		return out
	}
	for i, ref := range []string{refs[0], refs[1], refs[2], refs[1]} {
		if _, err := pullWith(t, c, store, ref, filepath.Join(t.TempDir(), fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // file systems tell times apart in steps
	}
	if got, want := fmt.Sprint(names()), fmt.Sprint([]string{refs[1], refs[2], refs[0]}); got != want {
		t.Errorf("listed %s, want %s", got, want)
	}
	// Each has 12 files, v1 and v2 have 13 together; v0 has one more.
	done, err := PruneStore(t.Context(), store, PruneOptions{MaxSize: 13 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Artifacts) != 1 || done.Artifacts[0].Names[0] != refs[0] || done.Left != 13<<20 {
		t.Errorf("pruned %+v", done)
	}
	// A tag that moves leaves its old artifact without a name.
	if _, err := c.Push(t.Context(), reference(t, refs[1]), dirs[2], PushOptions{Base: BaseNone}); err != nil {
		t.Fatal(err)
	}
	if _, err := pullWith(t, c, store, refs[1], filepath.Join(t.TempDir(), "moved")); err != nil {
		t.Fatal(err)
	}
	if got := names(); len(got) != 2 {
		t.Errorf("listed %v", got)
	}
	old := time.Now().Add(-48 * time.Hour)
	blobs, err := filepath.Glob(filepath.Join(store, storeBlobs, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if err := os.Chtimes(b, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if done, err = PruneStore(t.Context(), store, PruneOptions{MaxAge: 24 * time.Hour}); err != nil || done.Left != 0 || len(names()) != 0 {
		t.Errorf("pruned %+v, %v", done, err)
	}
	if left, _ := filepath.Glob(filepath.Join(store, storeFiles, "*")); len(left) > 0 {
		t.Errorf("%v stays", left)
	}
	if _, err := PruneStore(t.Context(), t.TempDir(), PruneOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("pruned what is no store: %v", err)
	}
}

func TestStoreWithDamagedBlobsAndLists(t *testing.T) {
	c := testClient(t)
	host, requests := registryFor(t)
	refs, dirs := published(t, c, host, 1)
	store := filepath.Join(t.TempDir(), "store")
	for i, damage := range []func(){
		func() {},
		func() {
			blobs, _ := filepath.Glob(filepath.Join(store, storeBlobs, "*"))
			for i, b := range blobs {
				if err := os.WriteFile(b, []byte("[{}]")[:i], 0o644); err != nil {
					t.Fatal(err)
				}
			}
		},
		func() {
			for _, text := range []string{`{"manifests":[{"digest":"x"},{"digest":"sha256:../../x"},{}]}`} {
				if err := os.WriteFile(filepath.Join(store, ocispec.ImageIndexFile), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		damage()
		requests()
		out := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if _, err := pullWith(t, c, store, refs[0], out); err != nil {
			t.Fatal(err)
		}
		same(t, dirs[0], out)
		uses, err := StoreUsage(t.Context(), store)
		if err != nil || len(uses) != 1 || uses[0].Err != nil {
			t.Errorf("damage %d: %+v, %v", i, uses, err)
		}
	}
	if err := os.WriteFile(filepath.Join(store, ocispec.ImageIndexFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pullWith(t, c, store, refs[0], filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a list that cannot be read is passed over")
	}
}

// A store keeps no layers, so a prune would remove those of a layout.
func TestAStoreAndALayoutAreNotOneDirectory(t *testing.T) {
	c := testClient(t)
	dir, tree, store := t.TempDir(), t.TempDir(), t.TempDir()
	parts(t, tree, 1)
	pushed, stored := reference(t, "oci:"+dir+":v1"), reference(t, "oci:"+store+":v1")
	if _, err := c.Push(t.Context(), pushed, tree, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(t.Context(), dir, layout.LinkCopy); err == nil {
		t.Error("a layout was opened as a store")
	}
	for range 2 {
		s, err := OpenStore(t.Context(), store, layout.LinkCopy)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Pull(t.Context(), pushed, t.TempDir(), PullOptions{Store: s}); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	_, errPush := c.Push(t.Context(), stored, tree, PushOptions{})
	_, errCopy := c.Copy(t.Context(), pushed, stored, CopyOptions{})
	_, errRemove := c.Remove(t.Context(), stored)
	for what, err := range map[string]error{"push": errPush, "copy": errCopy, "remove": errRemove} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
