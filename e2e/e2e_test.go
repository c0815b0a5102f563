//go:build linux

// Package e2e drives the built binary as a person or a pipeline would: against
// real registries, beside the tools of others, through faults. go test runs
// what mpack alone is needed for; MPACK_E2E=full (set by .ci/run) adds the
// registries and tools of e2e/peers/build.sh and inputs of full size.
package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mpack/e2e/bed"
)

// mpackBin is the built binary, peersBin the directory of the others' tools
// (empty unless bed.Full).
var mpackBin, peersBin string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mpack-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		mpackBin, err = bed.Build(dir)
	}
	if err == nil && bed.Full() {
		peersBin, err = bed.Peers("registries", "clients", "signing")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// full leaves a test out of the short run; nothing is left out where
// MPACK_E2E=full, least of all because something is missing.
func full(t *testing.T) {
	t.Helper()
	if !bed.Full() {
		t.Skip("part of the full run: MPACK_E2E=full")
	}
}

// env is the environment of every process: no one's credentials, no settings.
func env(t *testing.T, more ...string) []string {
	home := filepath.Join(t.TempDir(), "home")
	e := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "DOCKER_CONFIG=" + filepath.Join(home, ".docker"), "TMPDIR=" + os.TempDir(), "NO_COLOR=1"}
	return append(e, more...)
}

// lookedAt looks at what the binary is made of: go test keeps results until
// a file that a test has looked at is another, and does not know of the build.
var lookedAt = sync.OnceValue(func() error {
	return filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err == nil && (filepath.Ext(name) == ".go" || filepath.Ext(name) == ".s" || d.Name() == "go.mod") {
			_, err = os.Stat(name)
		}
		return err
	})
})

// command makes a command line of mpack, with further environment variables.
func command(t *testing.T, environ []string, args ...string) *exec.Cmd {
	check(t, lookedAt())
	cmd := exec.Command(mpackBin, args...)
	cmd.Env = env(t, environ...)
	return cmd
}

// run runs a command to its end.
func run(t *testing.T, cmd *exec.Cmd) bed.Result {
	t.Helper()
	r, err := bed.Run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mpack runs mpack and expects success.
func mpack(t *testing.T, args ...string) bed.Result {
	t.Helper()
	return ok(t, command(t, nil, args...))
}

// ok runs a command and expects success.
func ok(t *testing.T, cmd *exec.Cmd) bed.Result {
	t.Helper()
	r := run(t, cmd)
	if r.Code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(cmd.Args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r
}

// fails runs mpack and expects an exit code and a message of a line, and
// perhaps an indented hint, with these words in it.
func fails(t *testing.T, code int, words []string, args ...string) bed.Result {
	t.Helper()
	return failing(t, code, words, command(t, nil, args...))
}

func failing(t *testing.T, code int, words []string, cmd *exec.Cmd) bed.Result {
	t.Helper()
	r := run(t, cmd)
	if r.Code != code {
		t.Errorf("%s: exit code %d, want %d\n%s%s", strings.Join(cmd.Args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(strings.ToLower(r.Stderr), strings.ToLower(w)) {
			t.Errorf("%s: the message does not say %q:\n%s", strings.Join(cmd.Args, " "), w, r.Stderr)
		}
	}
	messages := 0
	for line := range strings.Lines(r.Stderr) {
		if strings.HasPrefix(line, "mpack: ") {
			messages++
		}
		for _, bad := range []string{"panic", "goroutine ", "runtime error"} {
			if strings.Contains(line, bad) {
				t.Errorf("%s: %s", strings.Join(cmd.Args, " "), r.Stderr)
			}
		}
	}
	if messages != 1 {
		t.Errorf("%s: want one line that begins with \"mpack: \":\n%s", strings.Join(cmd.Args, " "), r.Stderr)
	}
	t.Logf("%s: %s", args(cmd), strings.TrimSpace(r.Stderr))
	return r
}

func args(cmd *exec.Cmd) string {
	var short []string
	for _, a := range cmd.Args[1:] {
		short = append(short, strings.ReplaceAll(a, os.TempDir(), "…"))
	}
	return strings.Join(short, " ")
}

// pushed and pulled are what --format json says.
type pushed struct {
	Digest  string `json:"digest"`
	Read    int64  `json:"readBytes"`
	Stored  int64  `json:"storedBytes"`
	Sent    int64  `json:"uploadedBytes"`
	Present int64  `json:"presentBytes"`
	bed.Result
}

type pulled struct {
	Digest  string `json:"digest"`
	Written int    `json:"filesWritten"`
	Kept    int    `json:"filesKept"`
	Fetched int64  `json:"fetchedBytes"`
	Local   int64  `json:"localBytes"`
	bed.Result
}

func push(t *testing.T, args ...string) pushed {
	t.Helper()
	var p pushed
	p.Result = mpack(t, append([]string{"push", "--format", "json"}, args...)...)
	parse(t, p.Stdout, &p)
	return p
}

func pull(t *testing.T, args ...string) pulled {
	t.Helper()
	var p pulled
	p.Result = mpack(t, append([]string{"pull", "--format", "json"}, args...)...)
	parse(t, p.Stdout, &p)
	return p
}

func parse(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// same compares two trees byte for byte.
func same(t *testing.T, want, got string) {
	t.Helper()
	if err := bed.SameTree(want, got); err != nil {
		t.Errorf("what was pulled is not what was pushed: %v", err)
	}
}

// peer makes a command line of another tool.
func peer(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path := filepath.Join(peersBin, name)
	if name == "zstd" || name == "skopeo" {
		var err error
		if path, err = exec.LookPath(name); err != nil {
			t.Fatalf("%v; .ci/run tools installs it", err)
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = env(t)
	return cmd
}

// registry starts a registry that ends with the test.
func registry(t *testing.T, kind string, o bed.RegistryOptions) *bed.Registry {
	t.Helper()
	r, err := bed.StartRegistry(kind, t.TempDir(), mpackBin, peersBin, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

// kind is the registry most tests run against.
func kind() string {
	if bed.Full() {
		return bed.Distribution
	}
	return bed.Mpack
}

// wired starts a registry with a wire before it.
func wired(t *testing.T, kind string) *bed.Wire {
	t.Helper()
	w, err := bed.NewWire(registry(t, kind, bed.RegistryOptions{}).Addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// must ends the test if making an input failed.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
