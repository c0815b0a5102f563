//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// What is measured, in the table's order.
const (
	push          = "push"
	pull          = "pull"
	pushUnchanged = "push unchanged"
	pullUnchanged = "pull unchanged"
	pushDelta     = "push after 1 % changed"
	pullDelta     = "pull after 1 % changed"
)

var operations = []string{push, pull, pushUnchanged, pullUnchanged, pushDelta, pullDelta}

// row is a line of the table: one operation by one tool.
type row struct{ what, tool string }

type measured struct {
	bed.Result
	wire, stored int64 // bytes; -1: none
}

// table holds what was measured.
type table struct {
	tools   []string // in the order they first came
	results map[row][]measured
}

func (t *table) add(what, tool string, m measured) {
	if !slices.Contains(t.tools, tool) {
		t.tools = append(t.tools, tool)
	}
	k := row{what, tool}
	t.results[k] = append(t.results[k], m)
}

// median returns the result of median wall time.
func (t *table) median(what, tool string) (m measured, ok bool) {
	ms := t.results[row{what, tool}]
	if len(ms) == 0 {
		return m, false
	}
	slices.SortFunc(ms, func(a, b measured) int { return cmp.Compare(a.Wall, b.Wall) })
	return ms[(len(ms)-1)/2], true
}

func (t *table) print() {
	fmt.Println("| what | tool | wall s | CPU s | peak MiB | on the wire MB | stored MB |")
	fmt.Println("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
	for _, what := range operations {
		for _, tool := range t.tools {
			if m, ok := t.median(what, tool); ok {
				fmt.Printf("| %s | %s | %.2f | %.2f | %d | %s | %s |\n", what, tool, m.Wall.Seconds(), m.CPU.Seconds(), m.PeakRSS>>20,
					megabytes(m.wire), megabytes(m.stored))
			}
		}
	}
}

func megabytes(n int64) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", float64(n)/1e6)
}

// goals prints what the project has set itself and what came of it. raw is
// the size of the model.
func (t *table) goals(link string, raw int64) {
	get := func(what, tool string) measured {
		m, _ := t.median(what, tool)
		return m
	}
	ratio := func(what, a, b string) float64 { return get(what, a).Wall.Seconds() / get(what, b).Wall.Seconds() }
	say := func(goal string, met bool, figures string, args ...any) {
		verdict := "**not met**"
		if met {
			verdict = "met"
		}
		fmt.Printf("- %s: %s, %s\n", goal, verdict, fmt.Sprintf(figures, args...))
	}
	fmt.Println()
	if link == "" {
		r := ratio(push, "oras", "mpack")
		say("push at least 1.5 times as fast as oras", r >= 1.5, "%.2f times", r)
		r = ratio(pull, "oras", "mpack")
		say("pull at least as fast as oras", r >= 1, "%.2f times", r)
		r = ratio(pushUnchanged, "mpack", "sha256sum")
		say("push unchanged in less than 1.2 of sha256sum's time", r < 1.2, "%.2f", r)
	} else {
		r := ratio(pull, "oras", "mpack")
		say("pull at least 1.4 times as fast as oras through "+link, r >= 1.4, "%.2f times", r)
	}
	share := float64(get(push, "mpack").stored) / float64(raw)
	say("at most 0.68 of the bytes stored", share <= 0.68, "%.3f", share)
	share = float64(get(pullDelta, "mpack").wire) / float64(raw)
	say("at most 1.2 % of the bytes fetched after 1 % changed", share <= 0.012, "%.2f %%", 100*share)
	var peak int64
	for _, what := range operations {
		peak = max(peak, get(what, "mpack").PeakRSS)
	}
	say("at most 300 MB of memory", peak <= 300e6, "%d MB", peak/1e6)
}

func transfers(o options) error {
	l, err := newLink(o.link)
	if err != nil {
		return err
	}
	t := &table{results: map[row][]measured{}}
	b := &bench{options: o, link: l, table: t}
	err = b.inputs()
	for i := range o.runs {
		if err == nil {
			fmt.Fprintf(os.Stderr, "run %d of %d\n", i+1, o.runs)
			err = b.all()
		}
	}
	if err = errors.Join(err, l.close()); err != nil {
		return err
	}
	way := "on loopback"
	if o.link != "" {
		way = "through a link of " + o.link
	}
	fmt.Printf("BF16 safetensors model of %d MiB in 1 GiB shards (2 at least), registry %s; %d of %d tensors changed; median of %d.\n\n",
		o.size, way, b.changes, b.tensors, o.runs)
	t.print()
	if o.size >= 1024 { // one tensor of a smaller model is more than 1 %
		t.goals(o.link, b.raw)
	}
	fmt.Println()
	return nil
}

// bench is what all runs have in common.
type bench struct {
	options
	link             *link
	table            *table
	model, changed   string
	raw              int64
	tensors, changes int
}

// inputs makes the model and its changed twin.
func (b *bench) inputs() error {
	b.model, b.changed = filepath.Join(b.dir, "model"), filepath.Join(b.dir, "changed")
	size := b.size << 20
	tensors, err := gen.Model(b.model, size, 1)
	if err != nil {
		return err
	}
	if err := exec.Command("cp", "-r", b.model, b.changed).Run(); err != nil {
		return err
	}
	var some []gen.Tensor // one percent of the bytes, at least one tensor
	for i, left := len(tensors)/3, size/100; left > 0 && i < len(tensors); i++ {
		some = append(some, tensors[i])
		left -= tensors[i].Size
	}
	b.tensors, b.changes = len(tensors), len(some)
	if err := gen.ChangeTensors(b.changed, some, 99); err != nil {
		return err
	}
	b.raw, err = usage(b.model)
	return err
}

// all is one run of everything.
func (b *bench) all() error {
	home := filepath.Join(b.dir, "home")
	for _, c := range clients(b.options, home) {
		if err := b.client(c, home); err != nil {
			return err
		}
	}
	return b.plain()
}

// client measures one client against an empty registry.
func (b *bench) client(c client, home string) (err error) {
	store, out := filepath.Join(b.dir, "registry"), filepath.Join(b.dir, "out")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(store), os.RemoveAll(out), os.RemoveAll(home)) }()
	reg, err := bed.StartRegistry(bed.Distribution, store, b.mpack, b.bin, bed.RegistryOptions{})
	if err != nil {
		return err
	}
	defer reg.Stop()
	meter, err := bed.NewMeter(b.link.host, reg.Addr)
	if err != nil {
		return err
	}
	defer meter.Close()
	ref := meter.Addr + "/bench/" + c.name
	for _, s := range []struct {
		what, ref, dir string
		do             func(ref, dir string) (*exec.Cmd, error)
	}{
		{push, ref + ":v1", b.model, c.push},
		{pull, ref + ":v1", b.model, c.pull},
		{pushUnchanged, ref + ":v1", b.model, c.push},
		{pullUnchanged, ref + ":v1", b.model, c.pull},
		{pushDelta, ref + ":v2", b.changed, c.push},
		{pullDelta, ref + ":v2", b.changed, c.pull},
	} {
		from, dir, isPull := s.dir, s.dir, strings.HasPrefix(s.what, pull)
		if isPull {
			from, dir = store, out
		}
		cmd, err := s.do(s.ref, dir)
		if err != nil {
			return err
		}
		before, err := usage(store)
		if err != nil {
			return err
		}
		cmd.Env = append(os.Environ(), "HOME="+home, "DOCKER_CONFIG="+home, "NO_COLOR=1", "MPACK_PROGRESS=none")
		m, err := b.measure(s.what, c.name, b.link.enter(cmd), from)
		if err != nil {
			return err
		}
		after, err := usage(store)
		if err != nil {
			return err
		}
		m.wire, m.stored = meter.Take(), after-before
		if isPull {
			m.stored = -1
			if err := bed.SameTree(s.dir, out); err != nil {
				return fmt.Errorf("%s with %s: %w", s.what, c.name, err)
			}
		}
		b.table.add(s.what, c.name, m)
	}
	return nil
}

// plain measures what is done without a registry.
func (b *bench) plain() error {
	copied := filepath.Join(b.dir, "copied")
	list, err := names(b.model)
	if err != nil {
		return err
	}
	sum := exec.Command("sha256sum", list...)
	sum.Dir = b.model
	for _, s := range []struct {
		what, tool string
		cmd        *exec.Cmd
	}{
		{push, "cp -r", exec.Command("cp", "-r", b.model, copied)},
		{pushUnchanged, "sha256sum", sum},
	} {
		m, err := b.measure(s.what, s.tool, s.cmd, b.model)
		if err != nil {
			return err
		}
		m.wire, m.stored = -1, -1
		b.table.add(s.what, s.tool, m)
	}
	return os.RemoveAll(copied)
}

// measure runs a command that reads a directory.
func (b *bench) measure(what, tool string, cmd *exec.Cmd, reads string) (m measured, err error) {
	if err := warm(reads); err != nil {
		return m, err
	}
	syscall.Sync()
	if m.Result, err = bed.Run(cmd); err != nil {
		return m, err
	}
	if m.Code != 0 {
		return m, fmt.Errorf("%s with %s: exit code %d\n%s%s", what, tool, m.Code, m.Stdout, m.Stderr)
	}
	fmt.Fprintf(os.Stderr, "%s with %s: %.2f s, CPU %.2f s\n", what, tool, m.Wall.Seconds(), m.CPU.Seconds())
	return m, nil
}

// files calls do for every regular file below a directory.
func files(dir string, do func(name string, fi fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return do(name, fi)
	})
}

// warm brings the files below a directory into the page cache.
func warm(dir string) error {
	buf := make([]byte, 1<<20)
	return files(dir, func(name string, _ fs.FileInfo) error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		return err
	})
}

// usage sums the sizes of the files below a directory.
func usage(dir string) (n int64, err error) {
	err = files(dir, func(_ string, fi fs.FileInfo) error {
		n += fi.Size()
		return nil
	})
	return n, err
}
