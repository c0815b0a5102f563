package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:      "demo",
		Usage:     "show the main job on a sample model, with a registry in this process",
		ArgsUsage: " ",
		Description: `Makes a small model, packs, pushes, signs, verifies and pulls it, changes one
tensor and shows that only this moves. Every step is the command that is printed.
Nothing is left behind unless --keep names a directory.

Examples:
  mpack demo
  mpack demo --size 1000 --keep ./demo`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "size", Usage: "size of the sample model in `MB`", Value: 64, EnvVars: env("size")},
			stringFlag("keep", "work in `DIR` and leave everything there"),
		},
		Action: demo,
	}
}

func demo(c *cli.Context) (err error) {
	if err := maxArgs(c, 0); err != nil {
		return err
	}
	if c.Int("size") < 1 || c.Int("size") > 100_000 {
		return usagef("--size %d: want 1 to 100000 MB", c.Int("size"))
	}
	dir := c.String("keep")
	if dir == "" {
		if dir, err = os.MkdirTemp("", "mpack-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s, err := startRegistry("127.0.0.1:0", filepath.Join(dir, "registry"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()

	d := demonstration{c: c, dir: dir}
	model := filepath.Join(dir, "model")
	out := filepath.Join(dir, "pulled")
	v1, v2 := s.addr+"/demo/model:v1", s.addr+"/demo/model:v2"
	d.say("# a registry listens on %s; a sample model of %d MB is made in %s", s.addr, c.Int("size"), model)
	d.do(func() error { return sampleModel(c.Context, model, int64(c.Int("size"))*1e6, 0) })
	key, pub := filepath.Join(dir, "demo.key"), filepath.Join(dir, "demo.pub")
	d.say("# a key pair without a password; no transparency log is asked or told of anything here")
	d.do(func() error { return os.Setenv(passwordVariable, "") })
	d.mpack("key", "generate", "--output-key-prefix", filepath.Join(dir, "demo"))
	d.mpack("push", "--sign", "--key", key, "--tlog-upload=false", v1, model)
	d.mpack("inspect", v1)
	d.mpack("verify", "--key", pub, "--insecure-ignore-tlog", v1)
	d.mpack("pull", "--verify", "--key", pub, "--insecure-ignore-tlog", v1, "-o", out)
	d.do(func() error { return sameTree(model, out) })
	d.say("# what was pulled is the same, byte for byte")
	d.say("# one tensor is trained on; the next version uploads that one, and the next pull fetches that one")
	d.do(func() error { return sampleModel(c.Context, model, int64(c.Int("size"))*1e6, 1) })
	d.mpack("push", "--sign", "--key", key, "--tlog-upload=false", v2, model)
	d.mpack("diff", v1, v2)
	d.mpack("pull", "--verify", "--key", pub, "--insecure-ignore-tlog", v2, "-o", out)
	d.do(func() error { return sameTree(model, out) })
	d.say("# done: the pulled directory is version 2, byte for byte")
	return d.err
}

// demonstration runs steps until one fails.
type demonstration struct {
	c   *cli.Context
	dir string
	err error
}

func (d *demonstration) say(format string, args ...any) {
	if d.err == nil {
		fmt.Fprintf(d.c.App.Writer, format+"\n", args...)
	}
}

func (d *demonstration) do(step func() error) {
	if d.err == nil {
		d.err = step()
	}
}

// mpack runs a command line in this process.
func (d *demonstration) mpack(args ...string) {
	d.say("$ mpack %s", strings.Join(args, " "))
	d.do(func() error {
		// What is meant for a person and what for a script come in one stream here.
		if code := run(d.c.Context, append([]string{"mpack"}, args...), d.c.App.Reader, d.c.App.Writer, d.c.App.Writer); code != exitOK {
			return fmt.Errorf("demo: mpack %s: exit code %d", args[0], code)
		}
		fmt.Fprintln(d.c.App.Writer)
		return nil
	})
}

// sampleModel writes a model of about size bytes of Gaussian BF16 weights with
// the usual side files. The last tensor depends on the version.
func sampleModel(ctx context.Context, dir string, size, version int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	side := map[string]string{
		"config.json": `{"architectures":["DemoForCausalLM"],"model_type":"demo","max_position_embeddings":4096,"torch_dtype":"bfloat16"}` + "\n",
		"README.md":   "---\nlicense: apache-2.0\nlanguage: [en]\nbase_model: demo/base\ndatasets: [demo/corpus]\n---\n# A sample model\n",
	}
	for name, text := range side {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	const tensors, columns = 32, 1024
	rows := max(1, size/2/columns/tensors)
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   [2]int64 `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := map[string]entry{}
	for i := range int64(tensors) {
		n := rows * columns * 2
		header[fmt.Sprintf("layers.%02d.weight", i)] = entry{"BF16", [2]int64{rows, columns}, [2]int64{i * n, (i + 1) * n}}
	}
	head, err := json.Marshal(header)
	if err != nil {
		return err
	}
	head = append(head, strings.Repeat(" ", 7-(len(head)+7)%8)...) // the weights begin at a multiple of 8
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := binary.Write(w, binary.LittleEndian, uint64(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for i := range int64(tensors) {
		seed := uint64(i)
		if i == tensors-1 {
			seed += uint64(version) << 32
		}
		if err := gaussian(ctx, w, rows*columns, seed); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), f.Close())
}

// gaussian writes n BF16 weights as training leaves them: normal, sigma 0.02.
func gaussian(ctx context.Context, w io.Writer, n int64, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	var b [4096]byte
	for n > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k := min(n, int64(len(b)/2))
		for i := range k {
			binary.LittleEndian.PutUint16(b[2*i:], uint16(math.Float32bits(float32(r.NormFloat64()*0.02))>>16))
		}
		if _, err := w.Write(b[:2*k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// sameTree makes sure that two directories of regular files are the same.
func sameTree(a, b string) error {
	names, err := os.ReadDir(a)
	if err != nil {
		return err
	}
	for _, n := range names {
		same, err := sameFile(filepath.Join(a, n.Name()), filepath.Join(b, n.Name()))
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("%s: not the same after the pull", n.Name())
		}
	}
	return nil
}

func sameFile(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errX := io.ReadFull(x, p)
		m, errY := io.ReadFull(y, q)
		if n != m || string(p[:n]) != string(q[:m]) {
			return false, nil
		}
		if errX != nil || errY != nil {
			if errors.Is(errX, io.ErrUnexpectedEOF) {
				errX = io.EOF
			}
			return errX == io.EOF, nil
		}
	}
}
