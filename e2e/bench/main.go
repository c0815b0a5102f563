//go:build linux

// Command bench measures push and pull of a model with mpack, oras and cp side
// by side, against one CNCF distribution registry on loopback, and prints a
// markdown table:
//
//	go run ./e2e/bench -size 1024 -runs 3
//
// The inputs are made anew and lie in the page cache; every run starts with an
// empty registry; of several runs the one with the median wall time is shown.
// "On the wire" counts every byte of the TCP connections, both ways. The peak
// of memory is the kernel's, which is never below this program's own 17 MiB.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

func main() {
	size := flag.Int64("size", 1024, "size of the model in `MiB`")
	runs := flag.Int("runs", 1, "measure `N` times")
	dir := flag.String("dir", "", "work below `DIR` (default: the system's temporary directory); takes five times the size")
	flag.Parse()
	if err := bench(*size<<20, *runs, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row is a line of the table: one operation by one tool.
type row struct{ what, tool string }

type measured struct {
	bed.Result
	wire, stored int64 // -1: none
}

// table holds what was measured, rows in the order they first came.
type table struct {
	order   []row
	results map[row][]measured
}

func (t *table) add(what, tool string, m measured) {
	k := row{what, tool}
	if t.results[k] == nil {
		t.order = append(t.order, k)
	}
	t.results[k] = append(t.results[k], m)
}

func (t *table) print() {
	fmt.Println("| what | tool | wall s | CPU s | peak MiB | on the wire MB | stored MB |")
	fmt.Println("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
	for _, k := range t.order {
		ms := t.results[k]
		slices.SortFunc(ms, func(a, b measured) int { return cmp.Compare(a.Wall, b.Wall) })
		m := ms[(len(ms)-1)/2]
		fmt.Printf("| %s | %s | %.2f | %.2f | %d | %s | %s |\n", k.what, k.tool, m.Wall.Seconds(), m.CPU.Seconds(), m.PeakRSS>>20, megabytes(m.wire), megabytes(m.stored))
	}
}

func megabytes(n int64) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", float64(n)/1e6)
}

func bench(size int64, runs int, dir string) (err error) {
	work, err := os.MkdirTemp(dir, "mpack-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	mpack, err := bed.Build(work)
	if err != nil {
		return err
	}
	peers, err := bed.Peers("registries", "clients")
	if err != nil {
		return err
	}
	t := &table{results: map[row][]measured{}}
	for i := range runs {
		fmt.Fprintf(os.Stderr, "run %d of %d\n", i+1, runs)
		b := &run{table: t, dir: filepath.Join(work, fmt.Sprint(i)), mpack: mpack, peers: peers}
		if err := errors.Join(b.all(size), os.RemoveAll(b.dir)); err != nil {
			return err
		}
	}
	version, err := exec.Command(mpack, "version").Output()
	if err != nil {
		return err
	}
	fmt.Printf("BF16 safetensors model of %d MiB in 1 GiB shards (2 at least); %s; %d CPUs; %s; median of %d.\n\n", size>>20, runtime.GOOS+"/"+runtime.GOARCH,
		runtime.NumCPU(), strings.TrimSpace(string(version)), runs)
	t.print()
	return nil
}

// run is one round through everything.
type run struct {
	table             *table
	dir, mpack, peers string
	registry          *bed.Registry
	meter             *bed.Meter
	store             string
}

func (b *run) all(size int64) error {
	model := filepath.Join(b.dir, "model")
	tensors, err := gen.Model(model, size, 1)
	if err != nil {
		return err
	}
	changed := filepath.Join(b.dir, "changed")
	if err := exec.Command("cp", "-r", model, changed).Run(); err != nil {
		return err
	}
	var some []gen.Tensor // one percent of the bytes, at least one tensor
	for i, left := len(tensors)/3, size/100; left > 0 && i < len(tensors); i++ {
		some = append(some, tensors[i])
		left -= tensors[i].Size
	}
	if err := gen.ChangeTensors(changed, some, 99); err != nil {
		return err
	}
	b.store = filepath.Join(b.dir, "registry")
	if b.registry, err = bed.StartRegistry(bed.Distribution, b.store, b.mpack, b.peers, bed.RegistryOptions{}); err != nil {
		return err
	}
	defer b.registry.Stop()
	if b.meter, err = bed.NewMeter(b.registry.Addr); err != nil {
		return err
	}
	defer b.meter.Close()

	files, err := names(model)
	if err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(b.dir, name) }
	mpack, oras := b.meter.Addr+"/bench/mpack", b.meter.Addr+"/bench/oras"
	orasPush := func(ref, dir string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(b.peers, "oras"), append([]string{"push", "--no-tty", "--plain-http", ref}, files...)...)
		cmd.Dir = dir
		return cmd
	}
	orasPull := func(ref, dir string) *exec.Cmd {
		return exec.Command(filepath.Join(b.peers, "oras"), "pull", "--no-tty", "--plain-http", "-o", dir, ref)
	}
	sum := exec.Command("sha256sum", files...)
	sum.Dir = model
	delta := fmt.Sprintf("after 1 %% changed (%d of %d tensors)", len(some), len(tensors))
	for _, s := range []struct {
		what, tool string
		cmd        *exec.Cmd
		same       [2]string // trees that are the same afterwards
	}{
		{"push", "mpack", exec.Command(b.mpack, "push", mpack+":v1", model), [2]string{}},
		{"push", "oras", orasPush(oras+":v1", model), [2]string{}},
		{"push", "cp -r", exec.Command("cp", "-r", model, at("cp")), [2]string{}},
		{"pull", "mpack", exec.Command(b.mpack, "pull", mpack+":v1", "-o", at("mpack")), [2]string{model, at("mpack")}},
		{"pull", "oras", orasPull(oras+":v1", at("oras")), [2]string{model, at("oras")}},
		{"pull", "cp -r", exec.Command("cp", "-r", at("cp"), at("cp2")), [2]string{}},
		{"push unchanged", "mpack", exec.Command(b.mpack, "push", mpack+":v1", model), [2]string{}},
		{"push unchanged", "oras", orasPush(oras+":v1", model), [2]string{}},
		{"push unchanged", "sha256sum", sum, [2]string{}},
		{"pull unchanged", "mpack", exec.Command(b.mpack, "pull", mpack+":v1", "-o", at("mpack")), [2]string{model, at("mpack")}},
		{"pull unchanged", "oras", orasPull(oras+":v1", at("oras")), [2]string{model, at("oras")}},
		{"push " + delta, "mpack", exec.Command(b.mpack, "push", mpack+":v2", changed), [2]string{}},
		{"push " + delta, "oras", orasPush(oras+":v2", changed), [2]string{}},
		{"pull " + delta, "mpack", exec.Command(b.mpack, "pull", mpack+":v2", "-o", at("mpack")), [2]string{changed, at("mpack")}},
		{"pull " + delta, "oras", orasPull(oras+":v2", at("oras")), [2]string{changed, at("oras")}},
	} {
		if err := b.measure(s.what, s.tool, s.cmd); err != nil {
			return err
		}
		if s.same[0] != "" {
			if err := bed.SameTree(s.same[0], s.same[1]); err != nil {
				return fmt.Errorf("%s with %s: %w", s.what, s.tool, err)
			}
		}
	}
	return nil
}

// measure runs a command and keeps what it took. Only clients of the registry
// have bytes on the wire, and only a push has stored bytes.
func (b *run) measure(what, tool string, cmd *exec.Cmd) error {
	before, err := usage(b.store)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "MPACK_PROGRESS=none")
	r, err := bed.Run(cmd)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("%s with %s: exit code %d\n%s%s", what, tool, r.Code, r.Stdout, r.Stderr)
	}
	after, err := usage(b.store)
	if err != nil {
		return err
	}
	m := measured{Result: r, wire: b.meter.Take(), stored: -1}
	switch {
	case tool != "mpack" && tool != "oras":
		m.wire = -1
	case strings.HasPrefix(what, "push"):
		m.stored = after - before
	}
	fmt.Fprintf(os.Stderr, "%s with %s: %v\n", what, tool, r.Wall)
	b.table.add(what, tool, m)
	return nil
}

// usage sums the sizes of the files below a directory.
func usage(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	return n, err
}

// names lists a directory of regular files.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}
