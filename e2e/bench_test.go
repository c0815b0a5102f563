//go:build linux

package e2e

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mpack/e2e/bed"
)

// TestBench runs the benchmark on a small model and a short series.
func TestBench(t *testing.T) {
	full(t)
	plots := t.TempDir()
	// With the caller's environment: the go command needs its caches.
	r, err := bed.Run(exec.Command("go", "run", "./bench", "-quick", "-dir", t.TempDir(), "-plots", plots))
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != 0 {
		t.Fatalf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, row := range []string{"| push | mpack |", "| pull after 1 % changed | oras |", "| push unchanged | sha256sum |", "| 3 | 1 record in 5,000 edited |", "| 3 | last third trained |"} {
		if !strings.Contains(r.Stdout, row) {
			t.Errorf("no row %q in\n%s", row, r.Stdout)
		}
	}
	for _, name := range []string{"corpus.svg", "models.svg"} {
		svg, err := os.ReadFile(filepath.Join(plots, name))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); err == nil; {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if bytes.Contains(svg, []byte("NaN")) || !bytes.Contains(svg, []byte(">mpack ")) {
			t.Errorf("%s holds no plot:\n%s", name, svg)
		}
	}
}
