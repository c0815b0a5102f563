package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/layout/tree"
	"mpack/oci"
)

func diffCommand() *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "say how two versions differ: files, tensors, and what a pull would fetch",
		ArgsUsage: "A B",
		Description: `Reads the two indexes; no layer is fetched. A or B may be a directory. Bytes are
counted in chunks: of a chunk in which one bit differs, all bytes do.

Examples:
  mpack diff registry.example.com/team/model:v3 registry.example.com/team/model:v4
  mpack diff registry.example.com/team/model:v3 ./model`,
		Flags: flags([]cli.Flag{formatFlag()}, outputFlags(), registryFlags()),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 2 {
				return usagef("want A and B; mpack diff --help shows how")
			}
			client, err := newClient(c)
			if err != nil {
				return err
			}
			a, err := indexOf(c, client, c.Args().Get(0))
			if err != nil {
				return err
			}
			b, err := indexOf(c, client, c.Args().Get(1))
			if err != nil {
				return err
			}
			d := layout.Compare(a, b)
			if c.String("format") == "json" {
				return printJSON(c.App.Writer, struct {
					Files     []layout.FileChange   `json:"files"`
					Tensors   []layout.TensorChange `json:"tensors"`
					Bytes     int64                 `json:"bytes"`
					NewBytes  int64                 `json:"newBytes"`
					NewChunks int                   `json:"newChunks"`
					Fetch     int64                 `json:"fetchBytes"`
				}{append([]layout.FileChange{}, d.Files...), append([]layout.TensorChange{}, d.Tensors...), d.Bytes, d.NewBytes, d.NewChunks, d.Fetch})
			}
			return printDiff(c, d)
		},
	}
}

// indexOf returns the index of a reference or of a directory.
func indexOf(c *cli.Context, client *oci.Client, arg string) (*layout.Index, error) {
	if isDirectory(arg) {
		return readDirectory(c, arg, tree.Options{}, layout.Scan)
	}
	ref, err := oci.ParseReference(arg)
	if err != nil {
		return nil, fmt.Errorf("%w, and it is no directory", err)
	}
	r, err := client.Open(c.Context, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	a, err := r.Artifact(c.Context)
	if err != nil {
		return nil, err
	}
	return a.Index(c.Context)
}

func printDiff(c *cli.Context, d *layout.Difference) error {
	out := c.App.Writer
	if len(d.Files) == 0 {
		_, err := fmt.Fprintln(out, "no difference")
		return err
	}
	sign := map[layout.Change]string{layout.Added: "+", layout.Removed: "-", layout.Changed: "~", layout.Renamed: ">"}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range d.Files {
		what := fmt.Sprintf("%s new of %s", humanBytes(f.NewBytes), humanBytes(f.Size))
		switch f.Change {
		case layout.Removed:
			what = humanBytes(f.OldSize)
		case layout.Renamed:
			what = "from " + printable(f.From)
		}
		fmt.Fprintf(w, "%s %s\t%s\n", sign[f.Change], printable(f.Path), what)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(d.Tensors) > 0 {
		fmt.Fprintln(out, "\ntensors:")
		for _, t := range d.Tensors {
			fmt.Fprintf(w, "%s %s\t%s\t%v\t%s new of %s\t%s\n", sign[t.Change], printable(t.Name), printable(t.DType), t.Shape, humanBytes(t.NewBytes), humanBytes(t.Size), printable(t.File))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\n%s of %s are new, in %s chunks", humanBytes(d.NewBytes), humanBytes(d.Bytes), humanCount(int64(d.NewChunks)))
	if d.Fetch > 0 {
		fmt.Fprintf(out, "; who has A fetches %s", humanBytes(d.Fetch))
	}
	_, err := fmt.Fprintln(out)
	return err
}
