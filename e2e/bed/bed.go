//go:build linux

// Package bed is what the end-to-end tests and the benchmark stand on: the
// built binary, processes with their time and memory, real registries on
// loopback, and a wire that counts, slows, cuts and refuses.
//
//	mpack ──▶ Wire (counts bytes, injects faults, asks for passwords, speaks TLS) ──▶ Registry (a real one)
//
// It knows the project's binary only, none of its packages.
package bed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Full reports whether everything is to run, with registries and tools of
// others and inputs of full size: MPACK_E2E=full, as .ci/run sets it.
func Full() bool { return os.Getenv("MPACK_E2E") == "full" }

// dir returns a directory below e2e.
func dir(elem ...string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(append([]string{filepath.Dir(file), ".."}, elem...)...)
}

// Build builds mpack into a directory and returns the binary.
func Build(into string) (string, error) {
	bin := filepath.Join(into, "mpack")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/mpack")
	cmd.Dir = dir("..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build mpack: %w\n%s", err, out)
	}
	return bin, nil
}

// Peers makes sure that the tools of others are there (peers/build.sh) and
// returns their directory.
func Peers(groups ...string) (string, error) {
	cmd := exec.Command(dir("peers", "build.sh"), groups...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("e2e/peers/build.sh %s: %w", strings.Join(groups, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
