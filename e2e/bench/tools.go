//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
)

// client is a tool that moves a directory to a registry and back.
type client struct {
	name string
	push func(ref, dir string) (*exec.Cmd, error)
	pull func(ref, dir string) (*exec.Cmd, error)
}

// clients returns the tools to compare. home is for what they keep.
func clients(o options, home string) []client {
	cs := []client{
		{
			"mpack",
			func(ref, dir string) (*exec.Cmd, error) {
				return exec.Command(o.mpack, "push", "--plain-http", ref, dir), nil
			},
			func(ref, dir string) (*exec.Cmd, error) {
				return exec.Command(o.mpack, "pull", "--plain-http", ref, "-o", dir), nil
			},
		},
		{
			"oras",
			func(ref, dir string) (*exec.Cmd, error) {
				files, err := names(dir)
				cmd := exec.Command(filepath.Join(o.bin, "oras"), append([]string{"push", "--no-tty", "--plain-http", ref}, files...)...)
				cmd.Dir = dir
				return cmd, err
			},
			func(ref, dir string) (*exec.Cmd, error) {
				return exec.Command(filepath.Join(o.bin, "oras"), "pull", "--no-tty", "--plain-http", "-o", dir, ref), nil
			},
		},
	}
	if o.quick {
		return cs
	}
	modctl := func(args ...string) *exec.Cmd {
		return exec.Command(filepath.Join(o.bin, "modctl"), append(args, "--plain-http", "--no-progress", "--storage-dir", home, "--log-dir", home)...)
	}
	return append(cs, client{
		"modctl",
		func(ref, dir string) (*exec.Cmd, error) {
			file := filepath.Join(filepath.Dir(dir), "Modelfile")
			err := os.WriteFile(file, []byte("NAME bench\nFORMAT safetensors\nMODEL *.safetensors\nCONFIG *.json\nDOC *.md\n"), 0o644)
			return modctl("build", "--output-remote", "--no-creation-time", "-t", ref, "-f", file, dir), err
		},
		func(ref, dir string) (*exec.Cmd, error) {
			return modctl("pull", ref, "--extract-from-remote", "--extract-dir", dir), nil
		},
	})
}

// names lists a directory.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}
