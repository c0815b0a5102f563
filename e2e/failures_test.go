//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// mount mounts something for as long as the test runs; it takes root.
func mount(t *testing.T, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	check(t, os.MkdirAll(target, 0o755))
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mount %s on %s: %v (the full run is for root)", kind, target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestAFullDiskIsSaidAndWhatArrivedIsKept(t *testing.T) {
	full(t)
	tree, disk := t.TempDir(), t.TempDir()
	// Files smaller than the disk, so that some of them are done when it is full.
	for i := range 12 {
		check(t, gen.GGUF(filepath.Join(tree, fmt.Sprintf("part-%02d.gguf", i)), 8*mib, uint64(i)))
	}
	w := wired(t, kind())
	ref := w.Addr + "/team/m:v1"
	stored := push(t, ref, tree).Stored
	mount(t, "tmpfs", disk, "tmpfs", 0, "size=64m")
	out := filepath.Join(disk, "out")
	fails(t, 1, []string{"no space left", "disk is full"}, "pull", ref, "-o", out)
	noHalfFiles(t, tree, out)
	first := w.Down() // nothing, where room is reserved before the first byte is fetched
	check(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=256m"))
	p := pull(t, ref, "-o", out)
	same(t, tree, out)
	t.Logf("of %d bytes %d came before the disk was full, %d after; %d files were kept", stored, first, p.Fetched, p.Kept)
	if twice := first + p.Fetched - stored; twice > 12*mib {
		t.Errorf("%d bytes were fetched twice", twice)
	}
}

func TestAFullDiskUnderALayout(t *testing.T) {
	full(t)
	tree, disk := t.TempDir(), t.TempDir()
	check(t, gen.GGUF(filepath.Join(tree, "model.gguf"), 96*mib, 1))
	mount(t, "tmpfs", disk, "tmpfs", 0, "size=32m")
	ref := "oci:" + filepath.Join(disk, "l") + ":v1"
	fails(t, 1, []string{"no space left", "disk is full"}, "push", ref, tree)
	check(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=256m"))
	push(t, ref, tree)
	out := filepath.Join(t.TempDir(), "out")
	pull(t, ref, "-o", out)
	same(t, tree, out)
}

func TestAReadOnlyDirectory(t *testing.T) {
	full(t)
	tree, readOnly := t.TempDir(), t.TempDir()
	check(t, os.WriteFile(filepath.Join(tree, "a"), []byte("a"), 0o644))
	ref := registry(t, kind(), bed.RegistryOptions{}).Addr + "/team/m:v1"
	push(t, ref, tree)
	mount(t, readOnly, readOnly, "", syscall.MS_BIND, "")
	check(t, syscall.Mount("", readOnly, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	fails(t, 1, []string{"read-only", "can be written"}, "pull", ref, "-o", filepath.Join(readOnly, "out"))
	fails(t, 1, []string{"read-only"}, "pull", ref, "-o", readOnly)
	fails(t, 1, []string{"read-only"}, "push", "oci:"+filepath.Join(readOnly, "l")+":v1", tree)

	// A tree that cannot be written can be packed.
	mount(t, tree, tree, "", syscall.MS_BIND, "")
	check(t, syscall.Mount("", tree, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	push(t, ref+"-again", tree)
}

func TestWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644))
	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	layout := "oci:" + filepath.Join(t.TempDir(), "l")
	push(t, addr+"/team/m:v1", dir)
	push(t, layout+":v1", dir)
	zero := "@sha256:" + strings.Repeat("0", 64)
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{"pull", addr + "/team/m:v2", "-o", out},
		{"pull", addr + "/team/none:v1", "-o", out},
		{"pull", addr + "/team/m" + zero, "-o", out},
		{"pull", layout + ":v2", "-o", out},
		{"inspect", addr + "/team/m:v2"},
		{"ls", addr + "/team/m:v2"},
		{"cat", addr + "/team/m:v1", "no-such-file"},
		{"copy", addr + "/team/m:v2", addr + "/team/n:v2"},
		{"tag", addr + "/team/m:v2", "v3"},
		{"rm", addr + "/team/m:v2"},
		{"tags", addr + "/team/none"},
	} {
		fails(t, 3, []string{"no"}, args...)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a pull of nothing made its directory")
	}
	fails(t, 1, []string{"no-such-dir"}, "push", addr+"/team/m:v2", filepath.Join(dir, "no-such-dir"))
	fails(t, 1, []string{"refused", "nothing listens"}, "pull", "127.0.0.1:1/team/m:v1", "-o", out)
}

func TestAnArtifactOfAnotherKindIsRefused(t *testing.T) {
	dir := t.TempDir()
	layout := filepath.Join(dir, "l")
	blobs := filepath.Join(layout, "blobs", "sha256")
	check(t, os.MkdirAll(blobs, 0o755))
	blob := func(text string) string {
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		check(t, os.WriteFile(filepath.Join(blobs, sum), []byte(text), 0o644))
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, sum, len(text))
	}
	manifests := map[string]string{
		"image": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",` +
			blob(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`) + `},"layers":[]}`,
		"modelpack": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.cncf.model.manifest.v1+json",` +
			`"config":{"mediaType":"application/vnd.cncf.model.config.v1+json",` + blob(`{"descriptor":{}}`) + `},"layers":[]}`,
		"empty": `{}`,
	}
	var list []string
	for tag, m := range manifests {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":%q}}`, blob(m), tag))
	}
	check(t, os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	check(t, os.WriteFile(filepath.Join(layout, "index.json"), []byte(`{"schemaVersion":2,"manifests":[`+strings.Join(list, ",")+`]}`), 0o644))
	for tag := range manifests {
		out := filepath.Join(dir, "out-"+tag)
		for _, args := range [][]string{{"pull", "oci:" + layout + ":" + tag, "-o", out}, {"inspect", "oci:" + layout + ":" + tag}} {
			r := run(t, command(t, nil, args...))
			t.Logf("%s: %d %s", tag, r.Code, r.Stderr)
			if r.Code == 0 || r.Code == 2 || r.Code == 130 || !strings.HasPrefix(r.Stderr, "mpack: ") {
				t.Errorf("%v: exit code %d: %s", args, r.Code, r.Stderr)
			}
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: the pull left a directory", tag)
		}
	}
}

func TestDamageIsFoundAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	tree, layout := filepath.Join(dir, "tree"), filepath.Join(dir, "l")
	check(t, gen.GGUF(filepath.Join(tree, "model.gguf"), 4*mib, 1))
	push(t, "oci:"+layout+":v1", tree)
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	check(t, err)
	for _, name := range blobs {
		good, err := os.ReadFile(name)
		check(t, err)
		for what, bad := range map[string][]byte{
			"flipped":   append(append([]byte{}, good[:len(good)/2]...), append([]byte{good[len(good)/2] ^ 1}, good[len(good)/2+1:]...)...),
			"truncated": good[:len(good)/2],
			"empty":     {},
		} {
			check(t, os.Chmod(name, 0o644))
			check(t, os.WriteFile(name, bad, 0o644))
			out := filepath.Join(dir, "out")
			r := run(t, command(t, nil, "pull", "oci:"+layout+":v1", "-o", out))
			if r.Code != 5 {
				t.Errorf("%s blob of %d bytes: exit code %d, want 5\n%s", what, len(good), r.Code, r.Stderr)
			}
			t.Logf("%s blob of %d bytes: %s", what, len(good), strings.TrimSpace(r.Stderr))
			if _, err := os.Stat(filepath.Join(out, "model.gguf")); err == nil {
				t.Errorf("%s blob of %d bytes: the file got its name", what, len(good))
			}
			check(t, os.RemoveAll(out))
		}
		check(t, os.WriteFile(name, good, 0o644))
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"no-such-command"},
		{"push"},
		{"pull"},
		{"push", "--no-such-flag", "localhost:1/a:b"},
		{"push", "localhost:1/UPPER:v1", "."},
		{"pull", "no-registry"},
		{"pull", "localhost:1/a:b", "too", "many"},
		{"pull", "localhost:1/a@sha256:123"},
		{"push", "--concurrency", "0", "localhost:1/a:b", "."},
		{"push", "--concurrency", "many", "localhost:1/a:b", "."},
		{"push", "--progress", "loud", "localhost:1/a:b", "."},
		{"push", "--kind", "cake", "localhost:1/a:b", "."},
		{"push", "--annotation", "novalue", "localhost:1/a:b", "."},
		{"push", "--created", "yesterday", "localhost:1/a:b", "."},
		{"copy", "localhost:1/a:b"},
		{"tag", "localhost:1/a:b"},
		{"cat", "localhost:1/a:b"},
		{"login"},
		{"completion", "tcsh"},
		{"help", "no-such-command"},
	} {
		fails(t, 2, nil, args...)
	}
	for line, hint := range map[string]string{
		"--version":                 "mpack --help shows",
		"store no-such-command":     "mpack store --help lists",
		"key no-such-command":       "mpack key --help lists",
		"store prune --no-such":     "mpack store prune --help shows",
		"inspect --no-such --debug": "mpack inspect --help shows",
	} {
		fails(t, 2, []string{hint}, strings.Fields(line)...)
	}
	for _, args := range [][]string{{}, {"--help"}, {"push", "--help"}, {"version"}, {"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}} {
		if r := mpack(t, args...); r.Stdout == "" {
			t.Errorf("%v says nothing", args)
		}
	}
}

func TestSettingsFromTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644))
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	if r := ok(t, command(t, []string{"MPACK_QUIET=1"}, "push", ref, dir)); r.Stderr != "" {
		t.Errorf("MPACK_QUIET: %s", r.Stderr)
	}
	if r := ok(t, command(t, []string{"MPACK_FORMAT=json"}, "push", ref, dir)); !strings.HasPrefix(r.Stdout, "{") {
		t.Errorf("MPACK_FORMAT: %s", r.Stdout)
	}
	failing(t, 2, []string{"concurrency"}, command(t, []string{"MPACK_CONCURRENCY=0"}, "push", ref, dir))
}

func TestProgressForMachinesAndForLogs(t *testing.T) {
	dir := t.TempDir()
	_, err := gen.Model(dir, 16*mib, 1)
	check(t, err)
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	for _, args := range [][]string{{"push", ref, dir}, {"pull", ref, "-o", filepath.Join(t.TempDir(), "out")}} {
		r := mpack(t, append(args, "--progress", "json")...)
		var last struct{ Bytes, TotalBytes, MovedBytes int64 }
		for line := range strings.Lines(r.Stderr) {
			if strings.HasPrefix(line, "{") {
				parse(t, line, &last)
			}
		}
		if last.Bytes < 16*mib || last.Bytes != last.TotalBytes || last.MovedBytes == 0 {
			t.Errorf("%s: %+v", args[0], last)
		}
	}
	r := mpack(t, "push", "--progress", "plain", ref+"2", dir)
	if strings.ContainsAny(r.Stderr, "\r\x1b") {
		t.Errorf("plain progress steers the terminal: %q", r.Stderr)
	}
	if n := strings.Count(mpack(t, "push", "--progress", "none", ref+"3", dir).Stderr, "\n"); n != 3 {
		t.Errorf("%d lines at the end of a push, want 3", n)
	}
}

// A terminal gets a bar; script makes one.
func TestProgressOnATerminal(t *testing.T) {
	dir := t.TempDir()
	_, err := gen.Model(dir, 256*mib, 1)
	check(t, err)
	line := "stty cols 160 rows 40; " + mpackBin + " push oci:" + filepath.Join(t.TempDir(), "l") + ":v1 " + dir
	cmd := exec.Command("script", "-qec", line, "/dev/null")
	cmd.Env = append(env(t), "TERM=xterm")
	r := ok(t, cmd)
	for _, want := range []string{"\x1b[", " files ", "/s, ", " left, ", " saved", "sha256:"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("no %q on the terminal: %q", want, r.Stdout)
		}
	}
}

// What bash shows where TAB is pressed, and that nothing is done then.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644))
	layout := "oci:" + filepath.Join(t.TempDir(), "l")
	ref := layout + ":v1"
	push(t, ref, dir)
	for line, want := range map[string]string{
		"mpack pu":                     "push pull",
		"mpack verify-":                "verify-attestation",
		"mpack store pr":               "prune",
		"mpack push --conc":            "--concurrency",
		"mpack push " + ref + " --inc": "--include",
		"mpack rm " + ref + " --deb":   "--debug",
		"mpack key generate --":        "--output-key-prefix --help",
	} {
		words := strings.Fields(line)
		script := fmt.Sprintf("source <(mpack completion bash)\nCOMP_WORDS=(%s)\nCOMP_CWORD=%d\n_mpack\necho ${COMPREPLY[@]}", line, len(words)-1)
		cmd := exec.Command("bash", "-c", script)
		cmd.Env = append(env(t), "PATH="+filepath.Dir(mpackBin)+":"+os.Getenv("PATH"))
		if got := strings.TrimSpace(ok(t, cmd).Stdout); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	for _, more := range [][]string{{"rm", ref}, {"rm", ref, "--"}, {"tag", ref, "--"}} {
		run(t, command(t, nil, append(more, "--generate-bash-completion")...))
	}
	if got := mpack(t, "tags", layout).Stdout; got != "v1\n" {
		t.Errorf("a TAB has changed the tags: %q", got)
	}
}
