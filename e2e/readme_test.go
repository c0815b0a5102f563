//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mpack/e2e/bed"
)

// TestTheTourOfTheReadme runs every line of README's tour, in order, in one
// shell; only the registry is the test's own.
func TestTheTourOfTheReadme(t *testing.T) {
	readme := string(must[[]byte](t)(os.ReadFile(filepath.Join("..", "README.md"))))
	script := "set -eu\n"
	inside, lines := false, 0
	for line := range strings.Lines(readme) {
		switch command, isCommand := strings.CutPrefix(line, "$ "); {
		case strings.HasPrefix(line, "```"):
			inside = strings.HasPrefix(line, "```console")
		case !inside || !isCommand || strings.HasPrefix(command, "mpack serve"):
		default:
			script += command
			lines++
		}
	}
	if lines < 10 {
		t.Fatalf("%d commands found", lines)
	}
	addr := registry(t, bed.Mpack, bed.RegistryOptions{}).Addr
	cmd := exec.Command("bash", "-c", strings.ReplaceAll(script, "localhost:5000", addr))
	cmd.Dir = t.TempDir()
	cmd.Env = append(env(t), "PATH="+filepath.Dir(mpackBin)+":"+os.Getenv("PATH"))
	r := ok(t, cmd)
	t.Log(r.Stdout, r.Stderr)
	for _, want := range []string{"generation_config.json", "verified ", "built by "} {
		if !strings.Contains(r.Stdout+r.Stderr, want) {
			t.Errorf("the tour does not show %q", want)
		}
	}
}
