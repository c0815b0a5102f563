//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// everything makes one tree of all that mpack knows, small.
func everything(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	_, err := gen.Model(filepath.Join(dir, "model"), 12<<20, 1)
	check(t, err)
	check(t, gen.GGUF(filepath.Join(dir, "model.gguf"), 4<<20, 2))
	check(t, gen.Corpus(filepath.Join(dir, "corpus"), 600, 3))
	check(t, gen.JSONL(filepath.Join(dir, "data.jsonl"), 6<<20, 4))
	check(t, gen.Odd(filepath.Join(dir, "odd")))
	return dir
}

// places returns references at every kind of place there is, by name.
func places(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	at := map[string]string{
		"oci layout":  "oci:" + filepath.Join(dir, "layout") + ":v1",
		"oci archive": "oci-archive:" + filepath.Join(dir, "archive.tar") + ":v1",
	}
	kinds := []string{bed.Mpack}
	if bed.Full() {
		kinds = append(kinds, bed.Distribution, bed.Olareg, bed.Debian, bed.Crane)
	}
	for _, k := range kinds {
		at[k] = registry(t, k, bed.RegistryOptions{}).Addr + "/team/all:v1"
	}
	return at
}

func TestWhatIsPushedComesBackFromEveryPlaceUnderTheSameDigest(t *testing.T) {
	tree := everything(t)
	digest := ""
	for name, ref := range places(t) {
		t.Run(name, func(t *testing.T) {
			first := push(t, ref, tree)
			if digest == "" {
				digest = first.Digest
			}
			if first.Digest != digest {
				t.Errorf("digest %s, elsewhere %s", first.Digest, digest)
			}
			again := push(t, ref, tree)
			if name == "oci archive" {
				again.Sent = 0 // a tar file is written anew
			}
			if again.Digest != digest || again.Sent != 0 {
				t.Errorf("the second push uploaded %d bytes as %s; want 0 as %s", again.Sent, again.Digest, digest)
			}
			out := filepath.Join(t.TempDir(), "out")
			p := pull(t, ref, "-o", out)
			if p.Digest != digest {
				t.Errorf("pulled %s, pushed %s", p.Digest, digest)
			}
			same(t, tree, out)
			t.Logf("read %d, stored %d, sent %d, fetched %d; push %v, pull %v", first.Read, first.Stored, first.Sent, p.Fetched, first.Wall, p.Wall)

			repeat := pull(t, ref, "-o", out)
			if repeat.Written != 0 || repeat.Fetched != 0 {
				t.Errorf("the second pull wrote %d files and fetched %d bytes; want none", repeat.Written, repeat.Fetched)
			}
			byDigest := filepath.Join(t.TempDir(), "by-digest")
			if i := strings.LastIndex(ref, ":"); !strings.HasPrefix(name, "oci") {
				pull(t, ref[:i]+"@"+digest, "-o", byDigest)
				same(t, tree, byDigest)
			}
		})
	}
}

func TestDigestDependsOnNothingButTheFiles(t *testing.T) {
	tree := everything(t)
	moved := filepath.Join(t.TempDir(), "elsewhere")
	ok(t, exec.Command("cp", "-r", "--no-preserve=timestamps,ownership", tree, moved))
	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	want := push(t, addr+"/a/a:v1", tree).Digest
	for i, variant := range [][]string{
		{"--concurrency", "1", addr + "/a/b:v1", tree},
		{"--concurrency", "16", addr + "/a/c:other", tree},
		{"--concurrency", "3", addr + "/a/d:v1", moved},
		{"--base", "none", addr + "/a/a:v2", tree},
		{addr + "/a/a:v3", moved},
	} {
		if got := push(t, variant...).Digest; got != want {
			t.Errorf("variant %d, %v: %s, want %s", i, variant[:2], got, want)
		}
	}
}

func TestSecondPushAndSecondPullMoveNothingOverTheWire(t *testing.T) {
	tree := everything(t)
	w := wired(t, kind())
	ref := w.Addr + "/team/model:v1"
	p := push(t, ref, tree)
	first := w.Up()
	if p.Sent > first || first > p.Sent+p.Sent/100+64<<10 {
		t.Errorf("push says it sent %d bytes, the wire counted %d", p.Sent, first)
	}
	push(t, ref, tree)
	if up := w.Up() - first; up > 64<<10 {
		t.Errorf("the second push sent %d bytes", up)
	}
	out := filepath.Join(t.TempDir(), "out")
	pull(t, ref, "-o", out)
	before := w.Down()
	pull(t, ref, "-o", out)
	t.Logf("up: first %d, then %d; down of the pull that had all: %d", first, w.Up()-first, w.Down()-before)
	if down := w.Down() - before; down > 1<<20 {
		t.Errorf("a pull into a directory that has everything fetched %d bytes", down)
	}
}

func TestPullOfSomeFilesFetchesTheirChunksOnly(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	_, err := gen.Model(tree, 64<<20, 1)
	check(t, err)
	w := wired(t, kind())
	ref := w.Addr + "/team/model:v1"
	push(t, ref, tree)

	out := filepath.Join(dir, "out")
	before := w.Down()
	p := pull(t, ref, "-o", out, "--include", "*.json")
	down := w.Down() - before
	t.Logf("fetched %d bytes for the *.json, %d over the wire", p.Fetched, down)
	if down > 3<<20 {
		t.Errorf("%d bytes over the wire for the *.json of a model of 64 MiB", down)
	}
	want, _ := filepath.Glob(filepath.Join(tree, "*.json"))
	got, _ := os.ReadDir(out)
	names := 0
	for _, e := range got {
		if !strings.HasSuffix(e.Name(), ".json") && !strings.HasPrefix(e.Name(), ".mpack") {
			t.Errorf("%s was not asked for", e.Name())
		}
		if strings.HasSuffix(e.Name(), ".json") {
			names++
		}
	}
	if names != len(want) {
		t.Errorf("%d files, want %d", names, len(want))
	}
	fails(t, 3, []string{"no file matches"}, "pull", ref, "-o", filepath.Join(dir, "none"), "--include", "*.nothing")

	before = w.Down()
	text := mpack(t, "cat", ref, "config.json").Stdout
	if want, _ := os.ReadFile(filepath.Join(tree, "config.json")); text != string(want) {
		t.Errorf("cat: %q", text)
	}
	if down := w.Down() - before; down > 3<<20 {
		t.Errorf("cat of config.json fetched %d bytes", down)
	}
}

func TestQuietPushPrintsJustTheDigest(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644))
	r := mpack(t, "push", "-q", "oci:"+filepath.Join(t.TempDir(), "l")+":v1", dir)
	if !strings.HasPrefix(r.Stdout, "sha256:") || strings.Count(r.Stdout, "\n") != 1 || len(r.Stdout) != 72 || r.Stderr != "" {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
}

func TestIgnoreFileAndPatterns(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"keep.txt": "k", "drop.tmp": "d", "sub/drop.tmp": "d", "sub/keep.tmp": "k", "logs/x.log": "l", ".mpackignore": "**/*.tmp\n!sub/keep.tmp\n"} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	push(t, "--exclude", "logs", ref, dir)
	var files []struct{ Path string }
	parse(t, mpack(t, "ls", "--format", "json", ref).Stdout, &files)
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	got := strings.ReplaceAll(strings.Join(names, " "), ".mpackignore ", "")
	if got != "keep.txt sub/keep.tmp" {
		t.Errorf("packed: %s", got)
	}
}

func TestNamesThatLookLikeFlags(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "-tree")
	check(t, gen.Odd(tree))
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	cmd := command(t, nil, "push", ref, "--", "-tree")
	cmd.Dir = filepath.Dir(tree)
	ok(t, cmd)
	if got := mpack(t, "cat", ref, "--", "-leading-dash").Stdout; got != "dash\n" {
		t.Errorf("cat: %q", got)
	}
	out := filepath.Join(t.TempDir(), "out")
	p := pull(t, ref, "-o", out, "--include", "-leading-dash", "--include", "--output")
	if p.Written != 2 {
		t.Errorf("wrote %d files, want 2", p.Written)
	}
}

func TestLinksThatLeaveTheTreeAreStoredAsFilesAndBrokenOnesNamed(t *testing.T) {
	dir := t.TempDir()
	tree, outside := filepath.Join(dir, "snapshot"), filepath.Join(dir, "blobs")
	check(t, os.MkdirAll(tree, 0o755))
	check(t, os.MkdirAll(outside, 0o755))
	check(t, os.WriteFile(filepath.Join(outside, "abc"), []byte("weights"), 0o644))
	check(t, os.Symlink("../blobs/abc", filepath.Join(tree, "model.bin")))
	ref := "oci:" + filepath.Join(dir, "l") + ":v1"
	push(t, ref, tree)
	out := filepath.Join(dir, "out")
	pull(t, ref, "-o", out)
	if fi, err := os.Lstat(filepath.Join(out, "model.bin")); err != nil || !fi.Mode().IsRegular() || fi.Size() != 7 {
		t.Errorf("%v, %v", fi, err)
	}
	check(t, os.Symlink("gone", filepath.Join(tree, "broken-link")))
	fails(t, 1, []string{"broken-link"}, "push", ref, tree)
}

func TestNamesThatOtherSystemsCannotHoldAreNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"new\nline", `back\slash`, "not-\xff-utf8"} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644))
	}
	fails(t, 1, []string{`new\nline`, `back\\slash`, `not-\xff-utf8`, ".mpackignore"}, "push", "oci:"+filepath.Join(t.TempDir(), "l")+":v1", dir)
}

func TestCopyBetweenPlaces(t *testing.T) {
	tree := everything(t)
	at := places(t)
	src := at[kind()]
	digest := push(t, src, tree).Digest
	for name, dst := range at {
		if dst == src {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if got := strings.TrimSpace(mpack(t, "copy", "-q", src, dst).Stdout); got != digest {
				t.Errorf("copied as %s, want %s", got, digest)
			}
			out := filepath.Join(t.TempDir(), "out")
			pull(t, dst, "-o", out)
			same(t, tree, out)
			back := strings.TrimSuffix(src, "all:v1") + "back-" + strings.ReplaceAll(name, " ", "-") + ":v1"
			if got := strings.TrimSpace(mpack(t, "copy", "-q", dst, back).Stdout); got != digest {
				t.Errorf("came back as %s, want %s", got, digest)
			}
		})
	}
}

func TestTagsAndRemoval(t *testing.T) {
	tree := t.TempDir()
	check(t, os.WriteFile(filepath.Join(tree, "a"), []byte("a"), 0o644))
	at := map[string]string{bed.Mpack: "", "layout": "oci:" + filepath.Join(t.TempDir(), "l")}
	if bed.Full() {
		at[bed.Distribution], at[bed.Olareg], at[bed.Debian], at[bed.Crane] = "", "", "", ""
	}
	for name, ref := range at {
		t.Run(name, func(t *testing.T) {
			if ref == "" {
				ref = registry(t, name, bed.RegistryOptions{}).Addr + "/team/m"
			}
			digest := push(t, ref+":v1", tree).Digest
			mpack(t, "tag", ref+":v1", "latest", "stable")
			for _, list := range []string{"tags", "list"} {
				if got := mpack(t, list, ref).Stdout; got != "latest\nstable\nv1\n" {
					t.Errorf("%s: %q", list, got)
				}
			}
			if name == bed.Debian { // it knows of removing all tags alone
				fails(t, 1, []string{"single tags", "latest", "name the digest"}, "rm", ref+":stable")
				mpack(t, "rm", ref+"@"+digest)
				fails(t, 3, nil, "inspect", ref+":latest")
				return
			}
			mpack(t, "rm", ref+":stable")
			if got := mpack(t, "tags", ref).Stdout; got != "latest\nv1\n" {
				t.Errorf("tags: %q", got)
			}
			mpack(t, "inspect", ref+":latest")
			mpack(t, "rm", ref+"@"+digest)
			fails(t, 3, nil, "inspect", ref+":latest")
		})
	}
}

// A version that lists layers of an older one does without it.
func TestRemovalOfTheBase(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	tensors := must[[]gen.Tensor](t)(gen.Model(tree, 64<<20, 1))
	layout := filepath.Join(t.TempDir(), "l")
	for name, repository := range map[string]string{"layout": "oci:" + layout, "registry": registry(t, kind(), bed.RegistryOptions{}).Addr + "/team/m"} {
		t.Run(name, func(t *testing.T) {
			private, public := keyPair(t)
			sign := []string{"push", "--sign", "--key", private, "--tlog-upload=false"}
			ok(t, withPassword(t, append(sign, repository+":v1", tree)...))
			check(t, gen.ChangeTensors(tree, tensors[:1], 9))
			ok(t, withPassword(t, append(sign, repository+":v2", tree)...))
			mpack(t, "rm", repository+":v1")
			out := filepath.Join(t.TempDir(), "out")
			pull(t, "--verify", "--key", public, "--insecure-ignore-tlog", repository+":v2", "-o", out)
			same(t, tree, out)
			mpack(t, "rm", repository+":v2")
			fails(t, 3, nil, "inspect", repository+":v2")
		})
	}
	left := 0
	check(t, filepath.WalkDir(layout, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			fi, _ := d.Info()
			left += int(fi.Size())
		}
		return err
	}))
	if left > 1<<20 {
		t.Errorf("%d bytes are left of what was removed", left)
	}
}

func TestInspectSaysWhatAModelIs(t *testing.T) {
	tree := t.TempDir()
	tensors := must[[]gen.Tensor](t)(gen.Model(tree, 8<<20, 1))
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	push(t, ref, tree)
	var got struct {
		ArtifactType string
		Tensors      int
		Config       map[string]any
	}
	parse(t, mpack(t, "inspect", "--format", "json", ref).Stdout, &got)
	if got.ArtifactType != "application/vnd.mpack.model.v1" || got.Tensors != len(tensors) || got.Config["kind"] != "model" {
		t.Errorf("%+v, want %d tensors", got, len(tensors))
	}
	text := mpack(t, "inspect", ref).Stdout
	for _, w := range []string{"safetensors", "apache-2.0", "example/base", "BF16", "llama"} {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			t.Errorf("inspect does not say %s:\n%s", w, text)
		}
	}
}

// manifest is what others see of an artifact.
type manifest struct {
	MediaType    string
	ArtifactType string
	Config       struct{ Digest string }
	Layers       []struct {
		MediaType, Digest string
		Size              int64
	}
}

func TestOthersReadAndCopyTheArtifact(t *testing.T) {
	full(t)
	tree := everything(t)
	for _, k := range []string{bed.Distribution, bed.Olareg, bed.Debian, bed.Crane, bed.Mpack} {
		t.Run(k, func(t *testing.T) {
			addr := registry(t, k, bed.RegistryOptions{}).Addr
			repo := addr + "/team/all"
			digest := push(t, repo+":v1", tree).Digest

			raw := ok(t, peer(t, "oras", "manifest", "fetch", "--plain-http", repo+":v1")).Stdout
			var m manifest
			check(t, json.Unmarshal([]byte(raw), &m))
			if crane := ok(t, peer(t, "crane", "manifest", "--insecure", repo+":v1")).Stdout; crane != raw {
				t.Errorf("crane reads another manifest:\n%s\n%s", crane, raw)
			}
			if got := ok(t, peer(t, "crane", "digest", "--insecure", repo+":v1")).Stdout; strings.TrimSpace(got) != digest {
				t.Errorf("crane digest: %s, want %s", got, digest)
			}
			if skopeo := ok(t, peer(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+repo+":v1")).Stdout; skopeo != raw {
				t.Errorf("skopeo reads another manifest:\n%s\n%s", skopeo, raw)
			}
			for _, l := range m.Layers {
				zstdAccepts(t, repo+"@"+l.Digest, l.Size)
			}
			for tool, cmd := range map[string]*exec.Cmd{
				"oras":  peer(t, "oras", "copy", "--from-plain-http", "--to-plain-http", repo+":v1", addr+"/copies/oras:v1"),
				"crane": peer(t, "crane", "copy", "--insecure", repo+":v1", addr+"/copies/crane:v1"),
			} {
				ok(t, cmd)
				out := filepath.Join(t.TempDir(), tool)
				if got := pull(t, addr+"/copies/"+tool+":v1", "-o", out).Digest; got != digest {
					t.Errorf("%s's copy is %s, want %s", tool, got, digest)
				}
				same(t, tree, out)
			}
		})
	}
}

// zstdAccepts has oras fetch a blob and zstd test it.
func zstdAccepts(t *testing.T, ref string, size int64) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "blob.zst")
	ok(t, peer(t, "oras", "blob", "fetch", "--plain-http", "--output", name, ref))
	if fi, err := os.Stat(name); err != nil || fi.Size() != size {
		t.Errorf("%s: %v, %v; want %d bytes", ref, fi, err, size)
	}
	ok(t, peer(t, "zstd", "-q", "-t", name))
	check(t, os.Remove(name))
}

func TestZstdAcceptsEveryBlobOfALayout(t *testing.T) {
	full(t)
	layout := filepath.Join(t.TempDir(), "l")
	digest := push(t, "oci:"+layout+":v1", everything(t)).Digest
	raw := must[[]byte](t)(os.ReadFile(filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))))
	var m manifest
	check(t, json.Unmarshal(raw, &m))
	if len(m.Layers) < 2 {
		t.Fatalf("%d layers", len(m.Layers))
	}
	for _, l := range m.Layers {
		ok(t, peer(t, "zstd", "-q", "-t", filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(l.Digest, "sha256:"))))
	}
	// Others take an mpack layout for what it is.
	if got := ok(t, peer(t, "skopeo", "inspect", "--raw", "oci:"+layout+":v1")).Stdout; got != string(raw) {
		t.Errorf("skopeo reads %s", got)
	}
	if got := ok(t, peer(t, "oras", "manifest", "fetch", "--oci-layout", layout+":v1")).Stdout; got != string(raw) {
		t.Errorf("oras reads %s", got)
	}
}

// The reference implementation decodes the vectors of layout/frame to what
// they say.
func TestZstdDecodesTheVectors(t *testing.T) {
	full(t)
	dir := filepath.Join("..", "layout", "frame", "testdata")
	for _, frames := range []string{dir, filepath.Join(dir, "old")} {
		var vectors []struct{ Name, Filter, Decoded string }
		check(t, json.Unmarshal(must[[]byte](t)(os.ReadFile(filepath.Join(frames, "vectors.json"))), &vectors))
		if len(vectors) == 0 {
			t.Fatal("no vectors")
		}
		for _, v := range vectors {
			decoded := ok(t, peer(t, "zstd", "-q", "-dc", filepath.Join(frames, v.Name+".zst"))).Stdout
			if got := fmt.Sprintf("%x", sha256.Sum256([]byte(decoded))); got != v.Decoded {
				t.Errorf("%s: decoded to %s, want %s", v.Name, got, v.Decoded)
			}
			if raw := must[[]byte](t)(os.ReadFile(filepath.Join(dir, v.Name+".raw"))); v.Filter == "" && decoded != string(raw) {
				t.Errorf("%s: decoded to other bytes than the chunk's", v.Name)
			}
		}
	}
	vector := filepath.Join("..", "layout", "testdata", "vector1")
	for _, name := range []string{"index.zst", "layer0.zst"} {
		ok(t, peer(t, "zstd", "-q", "-t", filepath.Join(vector, name)))
	}
	if got := ok(t, peer(t, "zstd", "-q", "-dc", filepath.Join(vector, "index.zst"))).Stdout; got != string(must[[]byte](t)(os.ReadFile(filepath.Join(vector, "index.jsonl")))) {
		t.Error("the index of vector1 is decoded to other lines")
	}
}

func TestReferrersComeAlongWithACopy(t *testing.T) {
	full(t)
	tree := t.TempDir()
	check(t, os.WriteFile(filepath.Join(tree, "a.txt"), []byte("a"), 0o644))
	note := filepath.Join(t.TempDir(), "note.txt")
	check(t, os.WriteFile(note, []byte("seen"), 0o644))
	addrs := map[string]string{}
	for _, k := range []string{bed.Distribution, bed.Olareg, bed.Debian, bed.Mpack} {
		addrs[k] = registry(t, k, bed.RegistryOptions{}).Addr
	}
	for from, src := range addrs {
		ref := src + "/team/m:v1"
		push(t, ref, tree)
		cmd := peer(t, "oras", "attach", "--plain-http", "--artifact-type", "application/vnd.example.note", ref, "note.txt:text/plain")
		cmd.Dir = filepath.Dir(note)
		ok(t, cmd)
		for to, addr := range addrs {
			if to == from {
				continue
			}
			dst := fmt.Sprintf("%s/from-%s/m:v1", addr, from)
			mpack(t, "copy", ref, dst)
			if got := ok(t, peer(t, "oras", "discover", "--plain-http", "--format", "json", dst)).Stdout; !strings.Contains(got, "vnd.example.note") {
				t.Errorf("%s to %s: the referrer is lost: %s", from, to, got)
			}
			bare := dst + "-bare"
			bare = strings.Replace(bare, "/m:", "/bare:", 1)
			mpack(t, "copy", "--referrers=false", ref, bare)
			if got := ok(t, peer(t, "oras", "discover", "--plain-http", "--format", "json", bare)).Stdout; strings.Contains(got, "vnd.example.note") {
				t.Errorf("%s to %s: --referrers=false copied it: %s", from, to, got)
			}
		}
		layout := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
		mpack(t, "copy", ref, layout)
		if got := ok(t, peer(t, "oras", "discover", "--oci-layout", "--format", "json", strings.TrimPrefix(layout, "oci:"))).Stdout; !strings.Contains(got, "vnd.example.note") {
			t.Errorf("%s to a layout: the referrer is lost: %s", from, got)
		}
	}
}

func TestCopyWithinARegistryMountsInsteadOfMoving(t *testing.T) {
	dir := t.TempDir()
	_, err := gen.Model(dir, 32<<20, 1)
	check(t, err)
	w := wired(t, kind())
	push(t, w.Addr+"/team/m:v1", dir)
	up, down := w.Up(), w.Down()
	mpack(t, "copy", w.Addr+"/team/m:v1", w.Addr+"/prod/m:v1")
	t.Logf("up %d, down %d", w.Up()-up, w.Down()-down)
	if moved := w.Up() - up + w.Down() - down; moved > 1<<20 {
		t.Errorf("%d bytes moved to copy within a registry", moved)
	}
}

func TestDemoRuns(t *testing.T) {
	r := mpack(t, "demo", "--size", "16")
	if !strings.Contains(r.Stdout, "byte for byte") {
		t.Error(r.Stdout)
	}
	io.WriteString(t.Output(), r.Stdout)
}
