//go:build linux

package e2e

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// signals are how a transfer is broken off, and the exit code of each.
var signals = map[string]struct {
	signal syscall.Signal
	code   int
}{
	"Ctrl-C":  {syscall.SIGINT, 130},
	"SIGTERM": {syscall.SIGTERM, 130},
	"kill -9": {syscall.SIGKILL, 128 + int(syscall.SIGKILL)},
}

// brokenOff runs mpack with the arguments, sends a signal when n bytes have
// passed the wire, and expects an exit code.
func brokenOff(t *testing.T, w *bed.Wire, n int64, s syscall.Signal, code int, args ...string) {
	t.Helper()
	p, err := bed.StartProcess(command(t, nil, args...))
	check(t, err)
	w.At(n, func() { _ = p.Signal(s) }) // the process may have ended
	r, err := p.Wait()
	check(t, err)
	if r.Code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", r.Code, code, r.Stdout, r.Stderr)
	}
	if code == 130 && !strings.Contains(r.Stderr, "same command again") {
		t.Errorf("the message does not say how to go on: %s", r.Stderr)
	}
}

// noHalfFiles makes sure that whatever has its final name is complete.
func noHalfFiles(t *testing.T, want, got string) {
	t.Helper()
	check(t, filepath.WalkDir(want, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(want, p)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if b, err := os.ReadFile(filepath.Join(got, name)); err == nil && string(a) != string(b) {
			t.Errorf("%s has its name but not its content", name)
		}
		return nil
	}))
}

func TestAPullGoesOnWhereItWasBrokenOff(t *testing.T) {
	tree := t.TempDir()
	_, err := gen.Model(tree, 192*mib, 1)
	check(t, err)
	w := wired(t, kind())
	ref := w.Addr + "/team/m:v1"
	stored := push(t, ref, tree).Stored
	w.Rate = 40e6 // a connection
	for name, s := range signals {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			down := w.Down()
			brokenOff(t, w, stored*6/10, s.signal, s.code, "pull", ref, "-o", out, "--concurrency", "2")
			first := w.Down() - down
			noHalfFiles(t, tree, out)
			down = w.Down()
			p := pull(t, ref, "-o", out)
			second := w.Down() - down
			same(t, tree, out)
			t.Logf("of %d bytes %d came before, %d after (%d says mpack)", stored, first, second, p.Fetched)
			// What was in flight: a chunk and a socket's buffers for each of two workers.
			if lost := first + second - stored; lost > 12*mib {
				t.Errorf("%d bytes came twice", lost)
			}
		})
	}
}

func TestAPushGoesOnWhereItWasBrokenOff(t *testing.T) {
	tree := t.TempDir()
	_, err := gen.Model(tree, 320*mib, 1)
	check(t, err)
	for name, s := range signals {
		t.Run(name, func(t *testing.T) {
			w := wired(t, kind())
			w.Rate = 80e6
			ref := w.Addr + "/team/m:v1"
			brokenOff(t, w, 150*mib, s.signal, s.code, "push", "--concurrency", "2", ref, tree)
			first := w.Up()
			fails(t, 3, nil, "inspect", ref) // no tag leads to half an artifact
			p := push(t, ref, tree)
			second := w.Up() - first
			t.Logf("of %d bytes %d went before, %d after (%d says mpack)", p.Stored, first, second, p.Sent)
			// What was in flight: two layers of at most 64 MiB, mostly 16.
			if lost := first + second - p.Stored; lost > 64*mib {
				t.Errorf("%d bytes went twice", lost)
			}
			out := filepath.Join(t.TempDir(), "out")
			pull(t, ref, "-o", out)
			same(t, tree, out)
		})
	}
}

func TestARegistryThatDiesHalfwayAndComesBack(t *testing.T) {
	tree := t.TempDir()
	_, err := gen.Model(tree, 128*mib, 1)
	check(t, err)
	store, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	start := func(addr string) *bed.Registry {
		t.Helper()
		r, err := bed.StartRegistry(kind(), store, mpackBin, peersBin, bed.RegistryOptions{Addr: addr})
		check(t, err)
		t.Cleanup(r.Stop)
		return r
	}
	r := start("")
	w, err := bed.NewWire(r.Addr, nil)
	check(t, err)
	defer w.Close()
	w.Rate = 60e6
	ref := w.Addr + "/team/m:v1"

	w.At(40*mib, r.Stop)
	failed := fails(t, 1, nil, "push", ref, tree)
	t.Logf("push: it took %v to give up", failed.Wall)
	r = start(r.Addr)
	stored := push(t, ref, tree).Stored

	down := w.Down()
	w.At(stored/2, r.Stop)
	failed = fails(t, 1, nil, "pull", ref, "-o", out)
	t.Logf("pull: it took %v to give up", failed.Wall)
	first := w.Down() - down
	noHalfFiles(t, tree, out)
	start(r.Addr)
	down = w.Down()
	pull(t, ref, "-o", out)
	same(t, tree, out)
	second := w.Down() - down
	t.Logf("of %d bytes %d came before, %d after", stored, first, second)
	if lost := first + second - stored; lost > 24*mib {
		t.Errorf("%d bytes came twice", lost)
	}
}

func TestTransientFailuresAreRetried(t *testing.T) {
	tree := t.TempDir()
	_, err := gen.Model(tree, 24*mib, 1)
	check(t, err)
	for name, refuse := range map[string]func(w http.ResponseWriter){
		"429 with Retry-After": func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"503":                 func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"502 with a web page": func(w http.ResponseWriter) { http.Error(w, "<html>bad\ngateway</html>", http.StatusBadGateway) },
		"broken connection":   func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			w := wired(t, kind())
			var mu sync.Mutex
			seen := map[string]bool{}
			var refused atomic.Int32
			// Every kind of request at every path fails the first time.
			w.Refuse = func(rw http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				// An upload has a new path each time; its digest names it.
				path, _, _ := strings.Cut(r.URL.Path, "/uploads/")
				key := r.Method + path + r.URL.Query().Get("digest")
				again := seen[key] || r.URL.Path == "/v2/"
				seen[key] = true
				mu.Unlock()
				if again {
					return false
				}
				refused.Add(1)
				refuse(rw)
				return true
			}
			ref := w.Addr + "/team/m:v1"
			p := push(t, ref, tree)
			out := filepath.Join(t.TempDir(), "out")
			q := pull(t, ref, "-o", out)
			same(t, tree, out)
			t.Logf("%d requests refused; push %v, pull %v", refused.Load(), p.Wall, q.Wall)
			if refused.Load() < 4 {
				t.Errorf("only %d requests were refused", refused.Load())
			}
		})
	}
}

func TestConnectionsCutInTheMiddleOfABlobAreTakenUpAgain(t *testing.T) {
	tree := t.TempDir()
	_, err := gen.Model(tree, 64*mib, 1)
	check(t, err)
	w := wired(t, kind())
	ref := w.Addr + "/team/m:v1"
	stored := push(t, ref, tree).Stored
	var cuts atomic.Int32
	w.Cut = func(r *http.Request, passed int64) bool {
		return r.Method == http.MethodGet && passed > 3*mib && cuts.Add(1) <= 3
	}
	down := w.Down()
	out := filepath.Join(t.TempDir(), "out")
	pull(t, ref, "-o", out)
	same(t, tree, out)
	t.Logf("%d bytes stored, %d over the wire with 3 cuts", stored, w.Down()-down)
	if twice := w.Down() - down - stored; twice > 24*mib {
		t.Errorf("%d bytes came twice after 3 cuts", twice)
	}
}
