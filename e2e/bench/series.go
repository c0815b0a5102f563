//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"mpack/e2e/bed"
	"mpack/e2e/gen"
)

// keeper is a tool that stores onefmt.Printf("%s, MB.\n\n| version of a directory after the other.
// save stores what the directory holds now; usage is measured below store.
type keeper struct {
	name, store string
	save        func(version int) ([]*exec.Cmd, error)
	close       func()
}

// change makes the next version of a directory out of the last.
type change struct {
	what string
	do   func(dir string, version int) error
}

// series stores the versions of a corpus and of a model with every tool, and
// prints what each took.
func series(o options) error {
	versions := 10
	if o.quick {
		versions = 3
	}
	firstModel, modelChanges := modelSeries(o.size << 20)
	for _, s := range []struct {
		name, title string
		first       func(dir string) error
		changes     []change
	}{
		{"corpus", fmt.Sprintf("a growing corpus of %d MiB at first", o.size/2), func(dir string) error { return firstCorpus(dir, o.size<<19) }, corpusChanges},
		{"models", fmt.Sprintf("a BF16 model of %d MiB fine-tuned, two thirds frozen", o.size), firstModel, modelChanges},
	} {
		r, err := measureSeries(o, s.name, versions, s.first, s.changes)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.title = fmt.Sprintf("Stored after each version: %s", s.title)
		r.print()
		if o.plots != "" {
			if err := os.WriteFile(filepath.Join(o.plots, s.name+".svg"), r.plot(), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// stored is what a series came to.
type stored struct {
	title string
	tools []string
	what  []string        // how each version came about
	raw   []int64         // size of each version
	bytes [][]int64       // by tool, then version: stored so far
	cpu   []time.Duration // by tool: of all versions
}

func (s *stored) print() {
	fmt.Printf("%s, MB.\n\n| version | change | size | %s |\n| --- | --- | ---: |%s\n", s.title, strings.Join(s.tools, " | "), strings.Repeat(" ---: |", len(s.tools)))
	for v := range s.what {
		fmt.Printf("| %d | %s | %.1f |", v+1, s.what[v], float64(s.raw[v])/1e6)
		for t := range s.tools {
			fmt.Printf(" %.1f |", float64(s.bytes[t][v])/1e6)
		}
		fmt.Println()
	}
	fmt.Print("| | CPU s for all | |")
	for _, d := range s.cpu {
		fmt.Printf(" %.1f |", d.Seconds())
	}
	fmt.Print("\n\n")
}

func measureSeries(o options, name string, versions int, first func(string) error, changes []change) (_ *stored, err error) {
	work := filepath.Join(o.dir, name)
	dir := filepath.Join(work, "tree")
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := first(dir); err != nil {
		return nil, err
	}
	keepers, err := keepers(o, work, dir)
	for _, k := range keepers {
		defer k.close()
	}
	if err != nil {
		return nil, err
	}
	s := &stored{bytes: make([][]int64, len(keepers)), cpu: make([]time.Duration, len(keepers))}
	for _, k := range keepers {
		s.tools = append(s.tools, k.name)
	}
	for v := range versions {
		what := "first"
		if v > 0 {
			c := changes[(v-1)%len(changes)]
			what = c.what
			if err := c.do(dir, v); err != nil {
				return nil, err
			}
		}
		raw, err := usage(dir)
		if err != nil {
			return nil, err
		}
		s.what, s.raw = append(s.what, what), append(s.raw, raw)
		for i, k := range keepers {
			cmds, err := k.save(v + 1)
			if err != nil {
				return nil, err
			}
			for _, cmd := range cmds {
				cmd.Env = append(append(os.Environ(), "HOME="+work, "DOCKER_CONFIG="+work, "NO_COLOR=1", "MPACK_PROGRESS=none"), cmd.Env...)
				r, err := bed.Run(cmd)
				if err != nil {
					return nil, err
				}
				if r.Code != 0 {
					return nil, fmt.Errorf("%s: exit code %d\n%s%s", strings.Join(cmd.Args, " "), r.Code, r.Stdout, r.Stderr)
				}
				s.cpu[i] += r.CPU
			}
			n, err := usage(k.store)
			if err != nil {
				return nil, err
			}
			s.bytes[i] = append(s.bytes[i], n)
			fmt.Fprintf(os.Stderr, "%s version %d with %s: %.1f MB\n", name, v+1, k.name, float64(n)/1e6)
		}
	}
	return s, nil
}

// keepers returns the tools to compare, each with an empty store below work.
func keepers(o options, work, dir string) (ks []*keeper, err error) {
	at := func(elem ...string) string { return filepath.Join(append([]string{work}, elem...)...) }
	for _, c := range clients(o, work) {
		if c.name == "modctl" {
			continue // as oras: a blob a file
		}
		k := &keeper{name: c.name, store: at("registry-" + c.name)}
		reg, err := bed.StartRegistry(bed.Distribution, k.store, o.mpack, o.bin, bed.RegistryOptions{})
		if err != nil {
			return ks, err
		}
		k.close = reg.Stop
		k.save = func(v int) ([]*exec.Cmd, error) {
			cmd, err := c.push(fmt.Sprintf("%s/bench/series:v%d", reg.Addr, v), dir)
			return []*exec.Cmd{cmd}, err
		}
		ks = append(ks, k)
	}
	if o.quick {
		return ks, nil
	}
	restic := func(args ...string) *exec.Cmd {
		cmd := exec.Command("restic", append([]string{"-q", "--no-cache", "-r", at("restic")}, args...)...)
		cmd.Env, cmd.Dir = []string{"RESTIC_PASSWORD=bench"}, dir
		return cmd
	}
	git := func(args ...string) *exec.Cmd {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = []string{"GIT_DIR=" + at("clone"), "GIT_WORK_TREE=" + dir, "GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@example.com",
			"GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@example.com"}
		return cmd
	}
	return append(ks,
		&keeper{"restic", at("restic"), func(v int) (cmds []*exec.Cmd, _ error) {
			if v == 1 {
				cmds = append(cmds, restic("init", "--repository-version", "2"))
			}
			return append(cmds, restic("backup", ".")), nil
		}, func() {}},
		&keeper{"casync", at("casync"), func(v int) ([]*exec.Cmd, error) {
			err := os.MkdirAll(at("casync"), 0o755)
			return []*exec.Cmd{exec.Command("casync", "make", "--store="+at("casync", "store.castr"), at("casync", fmt.Sprintf("v%d.caidx", v)), dir)}, err
		}, func() {}},
		&keeper{"git-lfs", at("bare.git"), func(v int) (cmds []*exec.Cmd, _ error) {
			if v == 1 {
				cmds = append(cmds, exec.Command("git", "init", "-q", "--bare", at("bare.git")), git("init", "-q"), git("lfs", "install", "--local"),
					git("config", "core.attributesFile", at("attributes")), git("remote", "add", "origin", "file://"+at("bare.git")))
				const large = "*.jsonl filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
				if err := os.WriteFile(at("attributes"), []byte(large), 0o644); err != nil {
					return nil, err
				}
			}
			return append(cmds, git("add", "-A"), git("commit", "-q", "-m", fmt.Sprintf("version %d", v)), git("push", "-q", "origin", "HEAD:main")), nil
		}, func() {}}), nil
}

// modelSeries returns what makes a model, and a fine-tune of it: the last
// third of the tensors trained anew.
func modelSeries(size int64) (first func(dir string) error, changes []change) {
	var trained []gen.Tensor
	first = func(dir string) error {
		tensors, err := gen.Model(dir, size, 1)
		i := len(tensors)
		for left := size / 3; i > 0 && left > 0; left -= tensors[i].Size {
			i--
		}
		trained = tensors[i:]
		return err
	}
	return first, []change{{"last third trained", func(dir string, v int) error {
		return gen.ChangeTensors(dir, trained, uint64(1000+v))
	}}}
}

const shards = 8 // JSONL files of a corpus

func shard(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("part-%02d.jsonl", i)) }

// firstCorpus writes JSONL files of size bytes together, and small files.
func firstCorpus(dir string, size int64) error {
	if err := gen.Corpus(filepath.Join(dir, "docs"), 2000, 1); err != nil {
		return err
	}
	for i := range shards {
		if err := gen.JSONL(shard(dir, i), size/shards, uint64(1+i)); err != nil {
			return err
		}
	}
	return nil
}

// corpusChanges are what happens to a corpus from version to version.
var corpusChanges = []change{
	{"5 % appended", func(dir string, v int) error {
		n, err := usage(dir)
		if err != nil {
			return err
		}
		return gen.Append(shard(dir, shards-1), n/20, uint64(100+v))
	}},
	{"1 record in 5,000 edited", func(dir string, v int) error {
		return eachLine(dir, v, func(line []byte, r *rand.Rand) []byte {
			if r.IntN(5000) == 0 {
				return fmt.Appendf(nil, `{"edited":%d,%s`, v, line[1:])
			}
			return line
		})
	}},
	{"1 record in 1,000 deleted", func(dir string, v int) error {
		return eachLine(dir, v, func(line []byte, r *rand.Rand) []byte {
			if r.IntN(1000) == 0 {
				return nil
			}
			return line
		})
	}},
	{"files in another order", func(dir string, v int) error {
		order := rand.New(rand.NewPCG(uint64(v), 8)).Perm(shards)
		for i := range shards {
			if err := os.Rename(shard(dir, i), shard(dir, i)+".old"); err != nil {
				return err
			}
		}
		for i, to := range order {
			if err := os.Rename(shard(dir, i)+".old", shard(dir, to)); err != nil {
				return err
			}
		}
		return nil
	}},
}

// eachLine replaces every line of a corpus' JSONL files by what edit returns.
func eachLine(dir string, version int, edit func(line []byte, r *rand.Rand) []byte) error {
	for i := range shards {
		r := rand.New(rand.NewPCG(uint64(version), uint64(i)))
		old, err := os.ReadFile(shard(dir, i))
		if err != nil {
			return err
		}
		f, err := os.Create(shard(dir, i))
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(f, 1<<20)
		for line := range bytes.Lines(old) {
			_, _ = w.Write(edit(line, r)) // Flush reports the error
		}
		if err := errors.Join(w.Flush(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
