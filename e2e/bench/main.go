//go:build linux

// Command bench measures mpack beside the tools of others and prints markdown:
//
//	go run ./e2e/bench -size 4096 -runs 3               push and pull of a model
//	go run ./e2e/bench -size 4096 -link 1gbit           the same through a slow link (root, iproute2)
//	go run ./e2e/bench -size 400 -series -plots DIR     what ten versions take in store
//	go run ./e2e/bench -quick                           whether all that works
//
// Transfers are measured against one CNCF distribution registry on loopback,
// every tool with a store of its own that begins empty; what a command reads
// lies in the page cache, and what others wrote is on the disk before it
// starts. Of several runs the one with the median wall time is shown. "On the
// wire" counts every byte of the TCP connections, both ways; "stored" is what
// the registry's store grew by. The peak of memory is the client's
// alone. With -link the registry is reached over a veth pair whose ends send at
// that rate each (tc, token bucket), the clients running in a network namespace.
//
// modctl is used as its manual says for the least of time and disk: it builds
// right into the registry and extracts from there. So it keeps nothing on the
// client's disk, where its build, push, pull and extract would keep a copy of
// all. The Modelfile that it wants is written beforehand.
//
// KitOps' kit, the other tool of this kind, is missing: the module proxy serves
// no version of github.com/kitops-ml/kitops that was tried (v1.5.0, v1.7.0) and
// lists none; up to v0.5.0 the module's name was "kitops", which no proxy has.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"

	"mpack/e2e/bed"
)

func main() {
	// Ctrl-C ends the command under way, which is an error, after which all is cleaned up.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	o := options{}
	flag.Int64Var(&o.size, "size", 1024, "size of the model in `MiB`; the corpus of a series is half of it")
	flag.IntVar(&o.runs, "runs", 1, "measure transfers `N` times")
	flag.StringVar(&o.dir, "dir", "", "work below `DIR` (default: the system's temporary directory); takes five times the size, a series thirty times")
	flag.StringVar(&o.link, "link", "", "reach the registry through a link of `RATE`, as tc writes it: 1gbit")
	flag.BoolVar(&o.series, "series", false, "store versions of a model and of a corpus instead")
	flag.StringVar(&o.plots, "plots", "", "write the plots of a series to `DIR`")
	flag.BoolVar(&o.quick, "quick", false, "a small model and a short series, and of the tools of others only oras")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	size       int64 // MiB
	runs       int
	dir, link  string
	series     bool
	plots      string
	quick      bool
	mpack, bin string // the built binary, and the directory of the others'
}

func run(o options) (err error) {
	o.dir, err = os.MkdirTemp(o.dir, "mpack-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	if o.mpack, err = bed.Build(o.dir); err != nil {
		return err
	}
	groups := []string{"registries", "clients", "bench"}
	if o.quick {
		groups, o.size = groups[:2], 8
	}
	if o.bin, err = bed.Peers(groups...); err != nil {
		return err
	}
	if err := machine(o.mpack); err != nil {
		return err
	}
	if !o.series || o.quick {
		if err := transfers(o); err != nil {
			return err
		}
	}
	if o.series || o.quick {
		return series(o)
	}
	return nil
}

// machine prints the command line and what it ran on.
func machine(mpack string) error {
	version, err := exec.Command(mpack, "version").Output()
	if err != nil {
		return err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	fmt.Printf("`go run ./e2e/bench %s`: %s; %d CPUs (%s), %s of memory, Linux %s.\n\n", strings.Join(os.Args[1:], " "), strings.TrimSpace(string(version)),
		runtime.NumCPU(), field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal"), strings.TrimSpace(string(kernel)))
	return nil
}

// field returns the value of the first line "name: value" of a file.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}
