//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"testing"
)

// BenchmarkStart is how long mpack takes before it does anything, all that it
// links ready: go test ./e2e -run - -bench Start.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		if err := exec.Command(mpackBin, "version").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

// What cosign and the clients of key services drag in is watched: whoever
// passes this limit says why.
func TestTheBinaryIsNoLargerThanItMustBe(t *testing.T) {
	fi, err := os.Stat(mpackBin)
	check(t, err)
	t.Logf("%d MiB, with symbols", fi.Size()/mib)
	if limit := int64(72) * mib; fi.Size() > limit {
		t.Errorf("%d MiB, more than %d", fi.Size()/mib, limit/mib)
	}
}
