//go:build linux

package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// storedFiles lists the files of a store, largest first.
func storedFiles(t *testing.T, store string) []string {
	t.Helper()
	var names []string
	var largest int64
	check(t, filepath.WalkDir(filepath.Join(store, "files"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Size() > largest {
			largest, names = fi.Size(), append([]string{p}, names...)
		} else {
			names = append(names, p)
		}
		return err
	}))
	return names
}

// overwrite changes a byte in the middle of a file.
func overwrite(t *testing.T, name string) {
	t.Helper()
	check(t, os.Chmod(name, 0o644))
	b, err := os.ReadFile(name)
	check(t, err)
	b[len(b)/2] ^= 0xff
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt(b[len(b)/2:len(b)/2+1], int64(len(b)/2))
	check(t, err)
	check(t, f.Close())
}

// links counts the files that have other names too.
func links(t *testing.T, dir string) int {
	n := 0
	check(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Sys().(*syscall.Stat_t).Nlink > 1 {
			n++
			if fi.Mode().Perm() != 0o444 {
				t.Errorf("%s is a link into the store and has mode %s", d.Name(), fi.Mode())
			}
		}
		return err
	}))
	return n
}

func TestStoreNextVersionsFetchOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	tree, store := filepath.Join(dir, "tree"), filepath.Join(dir, "store")
	total := size(128*mib, 2200*mib)
	tensors := must[[]gen.Tensor](t)(gen.Model(tree, total, 1))
	w := wired(t, kind())
	for v := 1; v <= 3; v++ {
		var changed int64
		if v > 1 {
			// About one per cent of the model, in tensors that lie apart.
			var some []gen.Tensor
			for i := v; changed < total/100; i += len(tensors)/7 + 1 {
				if tn := tensors[i%len(tensors)]; tn.Size >= mib {
					some = append(some, tn)
					changed += tn.Size
				}
			}
			check(t, gen.ChangeTensors(tree, some, uint64(v)))
		}
		// With no base, a layer of which one chunk is new is a new layer.
		ref := fmt.Sprintf("%s/team/m:v%d", w.Addr, v)
		first := push(t, "--base", "none", ref, tree)
		out := filepath.Join(dir, fmt.Sprint("out", v))
		down := w.Down()
		p := pull(t, ref, "-o", out, "--store", store)
		down = w.Down() - down
		same(t, tree, out)
		t.Logf("v%d: %d of %d bytes changed: pull moved %d of %d stored, %d came from the store; %d MiB of memory",
			v, changed, first.Read, down, first.Stored, p.Local, p.PeakRSS/mib)
		if limit := int64(64+16*4) * mib; p.PeakRSS > limit {
			t.Errorf("v%d: pull took %d MiB of memory at its peak", v, p.PeakRSS/mib)
		}
		if v == 1 {
			continue
		}
		// A fifth more than their share, for manifest, index and what else lies in a chunk.
		share := float64(changed) / float64(first.Read)
		if limit := 1.2 * share * float64(first.Stored); float64(down) > limit {
			t.Errorf("v%d: pull moved %d bytes, %.2f %% of what is stored, for %.2f %% that changed", v, down, 100*float64(down)/float64(first.Stored), 100*share)
		}
		check(t, os.RemoveAll(out))
	}
	r := mpack(t, "store", "ls", "--store", store)
	t.Log("\n" + r.Stdout)
	var list []struct {
		Names   []string
		Digest  string
		Size    int64
		Present int64 `json:"presentBytes"`
	}
	parse(t, mpack(t, "store", "ls", "--store", store, "--format", "json").Stdout, &list)
	if len(list) != 3 || list[0].Names[0] != w.Addr+"/team/m:v3" || list[0].Size != list[0].Present {
		t.Errorf("store ls lists %+v", list)
	}
	mpack(t, "inspect", "oci:"+store+"@"+list[2].Digest)
	mpack(t, "ls", "oci:"+store+"@"+list[2].Digest)
	if bed.Full() {
		ok(t, peer(t, "skopeo", "inspect", "--raw", "oci:"+store+":"+w.Addr+"/team/m:v3"))
	}
}

func TestStoreFetchesOnceForPullsAtOnce(t *testing.T) {
	dir := t.TempDir()
	tree, store := filepath.Join(dir, "tree"), filepath.Join(dir, "store")
	_, err := gen.Model(tree, size(64*mib, 512*mib), 1)
	check(t, err)
	w := wired(t, kind())
	ref := w.Addr + "/team/m:v1"
	stored := push(t, ref, tree).Stored
	down := w.Down()
	var pulls []*bed.Process
	for i := range 4 {
		p, err := bed.StartProcess(command(t, nil, "pull", ref, "-o", filepath.Join(dir, fmt.Sprint("out", i)), "--store", store))
		check(t, err)
		pulls = append(pulls, p)
	}
	for i, p := range pulls {
		r, err := p.Wait()
		check(t, err)
		if r.Code != 0 {
			t.Errorf("pull %d: exit code %d\n%s", i, r.Code, r.Stderr)
		}
		same(t, tree, filepath.Join(dir, fmt.Sprint("out", i)))
	}
	down = w.Down() - down
	t.Logf("4 pulls at once moved %d bytes of %d stored", down, stored)
	if down > stored+4*mib {
		t.Errorf("4 pulls at once moved %d bytes of %d stored", down, stored)
	}
	noLeftovers(t, store)
}

// noLeftovers makes sure that nothing unfinished lies in a store.
func noLeftovers(t *testing.T, store string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(store, "files", "sha256", "*-*")); len(left) > 0 {
		t.Errorf("the store holds %v", left)
	}
}

func TestStoreWorksAfterAPullThatWasKilled(t *testing.T) {
	dir := t.TempDir()
	tree, store := filepath.Join(dir, "tree"), filepath.Join(dir, "store")
	// One large file: no part of it is ever complete before the end.
	check(t, gen.GGUF(filepath.Join(tree, "model.gguf"), size(128*mib, 2200*mib), 1))
	check(t, gen.Corpus(filepath.Join(tree, "docs"), 50, 1))
	w := wired(t, kind())
	w.Rate = 200e6
	ref := w.Addr + "/team/m:v1"
	stored := push(t, ref, tree).Stored
	down := w.Down()
	for i := range 3 { // each in a pod whose directory goes with it
		gone := filepath.Join(dir, "gone")
		brokenOff(t, w, stored/4, syscall.SIGKILL, 128+int(syscall.SIGKILL), "pull", ref, "-o", gone, "--store", store)
		check(t, os.RemoveAll(gone))
		if i == 1 {
			mpack(t, "store", "prune", "--store", store)
		}
	}
	check(t, os.WriteFile(filepath.Join(store, "files", "sha256", "tmp-left"), []byte("half a file"), 0o600))
	before := w.Down() - down
	out := filepath.Join(dir, "out")
	p := pull(t, ref, "-o", out, "--store", store)
	same(t, tree, out)
	down = w.Down() - down
	t.Logf("of %d bytes %d came before 3 kills, %d after; %d were found", stored, before, down-before, p.Local)
	// What was in flight at each: a chunk and a socket's buffers for each of four workers.
	if lost := down - stored; lost > 3*24*mib {
		t.Errorf("%d bytes came twice", lost)
	}
	mpack(t, "store", "verify", "--store", store)
	mpack(t, "store", "prune", "--store", store)
	noLeftovers(t, store)
	down = w.Down()
	pull(t, ref, "-o", filepath.Join(dir, "again"), "--store", store)
	same(t, tree, filepath.Join(dir, "again"))
	if down = w.Down() - down; down > mib {
		t.Errorf("prune took what an artifact needs: %d bytes were fetched again", down)
	}
}

func TestStoreIsPrunedDuringPulls(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	w := wired(t, kind())
	var trees []string
	for v := range 3 {
		tree := filepath.Join(dir, fmt.Sprint("tree", v))
		check(t, gen.Corpus(tree, 100, uint64(v)))
		check(t, gen.GGUF(filepath.Join(tree, "model.gguf"), 16*mib, uint64(v)))
		push(t, w.Addr+fmt.Sprintf("/team/m%d:v1", v), tree)
		trees = append(trees, tree)
	}
	stop := make(chan struct{})
	prunes := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				t.Logf("%d prunes", n)
				prunes <- nil
				return
			default:
			}
			if r, err := bed.Run(command(t, nil, "store", "prune", "--store", store, "--max-size", "20MB")); err != nil || (r.Code != 0 && r.Code != 3) {
				prunes <- fmt.Errorf("prune: %v, exit code %d: %s", err, r.Code, r.Stderr)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	for round := range size(2, 10) {
		var pulls []*bed.Process
		for v := range trees {
			p, err := bed.StartProcess(command(t, nil, "pull", w.Addr+fmt.Sprintf("/team/m%d:v1", v), "--store", store, "-o", filepath.Join(dir, fmt.Sprint("out", round, v))))
			check(t, err)
			pulls = append(pulls, p)
		}
		for v, p := range pulls {
			r, err := p.Wait()
			check(t, err)
			if r.Code != 0 {
				t.Errorf("exit code %d: %s", r.Code, r.Stderr)
			}
			same(t, trees[v], filepath.Join(dir, fmt.Sprint("out", round, v)))
		}
	}
	close(stop)
	check(t, <-prunes)
	mpack(t, "store", "prune", "--store", store, "--max-size", "20MB")
	mpack(t, "store", "verify", "--store", store)
	var left int64
	for _, name := range storedFiles(t, store) {
		fi, err := os.Stat(name)
		check(t, err)
		left += fi.Size()
	}
	if left > 20e6 || left < 1e6 {
		t.Errorf("%d bytes of files stay", left)
	}
}

func TestStoreDoesNotServeWhatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	tree, store := filepath.Join(dir, "tree"), filepath.Join(dir, "store")
	_, err := gen.Model(tree, 24*mib, 1)
	check(t, err)
	w := wired(t, kind())
	ref := w.Addr + "/team/m:v1"
	stored := push(t, ref, tree).Stored
	pull(t, ref, "-o", filepath.Join(dir, "first"), "--store", store)
	files := storedFiles(t, store)
	for i, damage := range []func(name string){
		func(name string) { overwrite(t, name) },
		func(name string) { check(t, os.Truncate(name, 1000)) },
		func(name string) { check(t, os.Remove(name)); check(t, syscall.Mkfifo(name, 0o644)) },
		func(name string) { check(t, os.Remove(name)); check(t, os.Symlink("/dev/zero", name)) },
	} {
		damage(files[0])
		down := w.Down()
		out := filepath.Join(dir, fmt.Sprint("out", i))
		r := mpack(t, "pull", ref, "-o", out, "--store", store)
		same(t, tree, out)
		t.Logf("damage %d: %d bytes fetched of %d: %s", i, w.Down()-down, stored, strings.TrimSpace(r.Stderr))
		if fi, err := os.Lstat(files[0]); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("damage %d is not mended: %v", i, err)
		}
		mpack(t, "store", "verify", "--store", store)
	}
	// verify finds it too, and does away with it.
	blobs, err := filepath.Glob(filepath.Join(store, "blobs", "sha256", "*"))
	check(t, err)
	for _, name := range append(blobs, files[0]) {
		overwrite(t, name)
	}
	r := fails(t, 5, []string{"damaged"}, "store", "verify", "--store", store)
	if n := strings.Count(r.Stdout, "sha256"); n != len(blobs)+1 {
		t.Errorf("verify names %d files of %d:\n%s", n, len(blobs)+1, r.Stdout)
	}
	mpack(t, "store", "verify", "--store", store)
	pull(t, ref, "-o", filepath.Join(dir, "last"), "--store", store)
	same(t, tree, filepath.Join(dir, "last"))
}

func TestStoreHardLinks(t *testing.T) {
	dir := t.TempDir()
	tree, store := filepath.Join(dir, "tree"), filepath.Join(dir, "store")
	_, err := gen.Model(tree, 24*mib, 1)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(tree, "run.sh"), []byte("#!/bin/sh\n"), 0o755))
	w := wired(t, kind())
	ref := w.Addr + "/team/m:v1"
	push(t, ref, tree)
	for _, name := range []string{"a", "b"} {
		out := filepath.Join(dir, name)
		r := mpack(t, "pull", ref, "-o", out, "--store", store, "--link", "hardlink")
		if !strings.Contains(r.Stderr, "read-only") {
			t.Errorf("no warning: %s", r.Stderr)
		}
		if n, all := links(t, out), len(storedFiles(t, store)); n != all-1 {
			t.Errorf("%d files of %d are links, want all but the executable one", n, all)
		}
	}
	// Someone with the right to writes into the file that all share.
	shards, err := filepath.Glob(filepath.Join(dir, "a", "*.safetensors"))
	check(t, err)
	overwrite(t, shards[0])
	out := filepath.Join(dir, "c")
	mpack(t, "pull", ref, "-o", out, "--store", store)
	same(t, tree, out)
	for _, name := range []string{"a", "b"} { // pulling again mends those who share it
		mpack(t, "pull", ref, "-o", filepath.Join(dir, name), "--store", store, "--link", "hardlink")
		if got, want := sumOf(t, filepath.Join(dir, name, filepath.Base(shards[0]))), sumOf(t, filepath.Join(tree, filepath.Base(shards[0]))); got != want {
			t.Errorf("%s is damaged still", name)
		}
	}
}

func sumOf(t *testing.T, name string) string {
	t.Helper()
	return strings.Fields(ok(t, exec.Command("sha256sum", name)).Stdout)[0]
}

func TestStoreReflinks(t *testing.T) {
	full(t)
	tree := t.TempDir()
	_, err := gen.Model(tree, 192*mib, 1)
	check(t, err)
	ref := registry(t, kind(), bed.RegistryOptions{}).Addr + "/team/m:v1"
	read := push(t, ref, tree).Read
	for _, fs := range []string{"btrfs", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			dir := loopMount(t, fs)
			store := filepath.Join(dir, "store")
			var before int64
			for i, link := range []string{"auto", "reflink", "auto"} {
				out := filepath.Join(dir, fmt.Sprint("out", i))
				r := mpack(t, "pull", ref, "-o", out, "--store", store, "--link", link)
				if strings.Contains(r.Stderr, "warning") {
					t.Error(r.Stderr)
				}
				same(t, tree, out)
				used := usedBytes(t, dir)
				t.Logf("pull %d by %s: %d MiB of the disk used", i, link, used/mib)
				if grown := used - before; i > 0 && grown > read/20 {
					t.Errorf("pull %d took %d MiB of the disk", i, grown/mib)
				}
				if i == 0 && used > read*5/4 {
					t.Errorf("the first pull took %d MiB of the disk for %d", used/mib, read/mib)
				}
				before = used
			}
			// A change to one is nobody else's.
			shards, err := filepath.Glob(filepath.Join(dir, "out0", "*.safetensors"))
			check(t, err)
			overwrite(t, shards[0])
			same(t, tree, filepath.Join(dir, "out1"))
			mpack(t, "store", "verify", "--store", store)
			r := mpack(t, "pull", ref, "-o", filepath.Join(t.TempDir(), "elsewhere"), "--store", store, "--link", "reflink")
			if !strings.Contains(r.Stderr, "copied") {
				t.Errorf("no warning that files were copied: %s", r.Stderr)
			}
		})
	}
}

// loopMount makes a file system in a file, as root, and returns where it is.
func loopMount(t *testing.T, fs string) string {
	t.Helper()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, 1<<30))
	check(t, os.Mkdir(at, 0o755))
	ok(t, exec.Command("mkfs."+fs, "-q", image))
	ok(t, exec.Command("mount", "-o", "loop", image, at))
	t.Cleanup(func() { ok(t, exec.Command("umount", at)) })
	return at
}

func usedBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	ok(t, exec.Command("sync", "-f", dir))
	check(t, syscall.Statfs(dir, &s))
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

// Registries serve ranges, do not, or serve some: a delta is right from all,
// and small from those that can.
func TestDeltaFromEveryRegistry(t *testing.T) {
	kinds := []string{bed.Mpack}
	if bed.Full() {
		kinds = []string{bed.Mpack, bed.Distribution, bed.Olareg, bed.Debian, bed.Crane}
	}
	dir := t.TempDir()
	v1, v2, between := filepath.Join(dir, "v1"), filepath.Join(dir, "v2"), filepath.Join(dir, "between")
	tensors := must[[]gen.Tensor](t)(gen.Model(v1, 96*mib, 1))
	check(t, os.CopyFS(v2, os.DirFS(v1)))
	some := []gen.Tensor{tensors[1], tensors[len(tensors)/2], tensors[len(tensors)-2]}
	check(t, gen.ChangeTensors(v2, some, 7))
	var changed int64
	for _, tn := range some {
		changed += tn.Size
	}
	for _, kind := range kinds {
		for _, ranges := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ranges %v", kind, ranges), func(t *testing.T) {
				w := wired(t, kind)
				if !ranges {
					w.Refuse = func(_ http.ResponseWriter, r *http.Request) bool {
						r.Header.Del("Range")
						return false
					}
				}
				push(t, "--base", "none", w.Addr+"/m:v1", v1)
				second := push(t, "--base", "none", w.Addr+"/m:v2", v2)
				for name, args := range map[string][]string{
					"in place": {"-o", filepath.Join(t.TempDir(), "out")},
					"seed":     {"-o", filepath.Join(t.TempDir(), "out"), "--seed", between},
				} {
					check(t, os.RemoveAll(between))
					at := args[1]
					if name == "seed" {
						at = between
					}
					pull(t, w.Addr+"/m:v1", "-o", at)
					down := w.Down()
					p := pull(t, append([]string{w.Addr + "/m:v2"}, args...)...)
					down = w.Down() - down
					same(t, v2, args[1])
					t.Logf("%s: %d bytes changed, %d of %d stored moved (%d says mpack)", name, changed, down, second.Stored, p.Fetched)
					limit := changed*7/10 + mib
					if !ranges { // every layer that a changed tensor lies in
						limit = int64(2*len(some)) * 32 * mib * 7 / 10
					}
					if down > limit {
						t.Errorf("%s: moved %d bytes, want at most %d", name, down, limit)
					}
				}
			})
		}
	}
}
