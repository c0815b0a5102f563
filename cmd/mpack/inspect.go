package main

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/layout/tensor"
	"mpack/oci"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "say what an artifact is: kind, sizes, tensors, licenses, lineage",
		ArgsUsage: "REF",
		Description: `Reads manifest, config and index; no layer is fetched.

Examples:
  mpack inspect registry.example.com/team/model:v3
  mpack inspect --tensors registry.example.com/team/model:v3
  mpack inspect --format json registry.example.com/team/model:v3 | jq .config.baseModels`,
		Flags: flags([]cli.Flag{
			boolFlag("files", "list the files too"),
			boolFlag("tensors", "list the tensors too"),
			formatFlag(),
		}, registryFlags()),
		Action: inspect,
	}
}

func openArtifact(c *cli.Context) (*oci.Artifact, *layout.Index, error) {
	r, d, err := resolved(c)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	a, err := r.ArtifactAt(c.Context, d)
	if err != nil {
		return nil, nil, err
	}
	ix, err := a.Index(c.Context)
	return a, ix, err
}

// inspected is what inspect prints as JSON.
type inspected struct {
	Reference   string            `json:"reference"`
	Digest      string            `json:"digest"`
	Type        string            `json:"artifactType"`
	Config      *oci.Config       `json:"config"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Stored      int64             `json:"storedBytes"`
	Layers      int               `json:"layers"`
	Chunks      int               `json:"chunks"`
	Tensors     int               `json:"tensors"`
	FileList    []listed          `json:"fileList,omitempty"`
	TensorList  []listedTensor    `json:"tensorList,omitempty"`
}

type listed struct {
	Path   string      `json:"path"`
	Mode   string      `json:"mode"`
	Size   int64       `json:"size"`
	SHA256 layout.Hash `json:"sha256"`
	Link   string      `json:"link,omitempty"`
}

type listedTensor struct {
	File string `json:"file"`
	tensor.Tensor
}

func listFiles(ix *layout.Index) []listed {
	ls := make([]listed, len(ix.Files))
	for i, f := range ix.Files {
		ls[i] = listed{f.Path, f.Mode, f.Size, f.SHA256, f.Link}
	}
	return ls
}

func inspect(c *cli.Context) error {
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	a, ix, err := openArtifact(c)
	if err != nil {
		return err
	}
	out := inspected{
		Reference:   a.Repo.Ref.Name() + "@" + string(a.Descriptor.Digest),
		Digest:      string(a.Descriptor.Digest),
		Type:        a.Manifest.ArtifactType,
		Config:      a.Config,
		Annotations: a.Manifest.Annotations,
		Stored:      a.StoredSize(),
		Layers:      len(a.Manifest.Layers) - 1,
		Chunks:      len(ix.Chunks),
	}
	var tensors []listedTensor
	for _, f := range ix.Files {
		for _, t := range f.Tensors {
			tensors = append(tensors, listedTensor{f.Path, t})
		}
	}
	out.Tensors = len(tensors)
	if c.String("format") == "json" {
		if c.Bool("files") {
			out.FileList = listFiles(ix)
		}
		if c.Bool("tensors") {
			out.TensorList = tensors
		}
		return printJSON(c.App.Writer, out)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		if v := fmt.Sprintf(format, args...); v != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, v)
		}
	}
	row("Reference", "%s", a.Repo.Ref)
	row("Digest", "%s", out.Digest)
	describeConfig(row, a.Config)
	row("Files", "%s, %s", humanCount(int64(a.Config.Files)), humanBytes(a.Config.TotalSize))
	row("Stored", "%s (%s) in %d layers, %s chunks", humanBytes(out.Stored), percent(out.Stored, a.Config.TotalSize), out.Layers, humanCount(int64(out.Chunks)))
	row("Content", "%s", a.Config.ContentDigest)
	for _, k := range sortedKeys(out.Annotations) {
		row("Annotation", "%s=%s", printable(k), printable(out.Annotations[k]))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if c.Bool("files") {
		fmt.Fprintln(c.App.Writer)
		if err := printFiles(c.App.Writer, ix); err != nil {
			return err
		}
	}
	if c.Bool("tensors") {
		fmt.Fprintln(c.App.Writer)
		return printTensors(c.App.Writer, tensors)
	}
	return nil
}

// printable keeps what a stranger wrote from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func printFiles(out io.Writer, ix *layout.Index) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range ix.Files {
		name := printable(f.Path)
		if f.Link != "" {
			name += " -> " + printable(f.Link)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", f.Mode, f.Size, f.SHA256, name)
	}
	return w.Flush()
}

func printTensors(out io.Writer, ts []listedTensor) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, t := range ts {
		dims := make([]string, len(t.Shape))
		for i, d := range t.Shape {
			dims[i] = fmt.Sprint(d)
		}
		fmt.Fprintf(w, "%s\t%s\t[%s]\t%d\t%s\n", printable(t.Name), printable(t.DType), strings.Join(dims, ","), t.Size, printable(t.File))
	}
	return w.Flush()
}

func lsCommand() *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list an artifact's files with mode, size and SHA-256",
		ArgsUsage: "REF",
		Description: `Examples:
  mpack ls registry.example.com/team/model:v3
  mpack ls --format json oci:./out:v1`,
		Flags: flags([]cli.Flag{formatFlag()}, registryFlags()),
		Action: func(c *cli.Context) error {
			if err := maxArgs(c, 1); err != nil {
				return err
			}
			_, ix, err := openArtifact(c)
			if err != nil {
				return err
			}
			if c.String("format") == "json" {
				return printJSON(c.App.Writer, listFiles(ix))
			}
			return printFiles(c.App.Writer, ix)
		},
	}
}

func catCommand() *cli.Command {
	return &cli.Command{
		Name:      "cat",
		Usage:     "write one file of an artifact to standard output, fetching only its chunks",
		ArgsUsage: "REF PATH",
		Description: `A --policy, or MPACK_POLICY, is held to as by pull.

Examples:
  mpack cat registry.example.com/team/model:v3 config.json | jq .`,
		Flags: flags([]cli.Flag{boolFlag("verify", "check the signature first"), policyFlag()}, verifyFlags(), registryFlags()),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 2 {
				return usagef("want REF and PATH; mpack cat --help shows how")
			}
			client, ref, err := clientFor(c)
			if err != nil {
				return err
			}
			pass, err := gate(c, client)
			if err != nil {
				return err
			}
			r, d, err := resolve(c, client, ref)
			if err != nil {
				return err
			}
			defer r.Close()
			if pass != nil {
				if err := pass(c.Context, r, d); err != nil {
					return fmt.Errorf("%s: %w", ref, err)
				}
			}
			a, err := r.ArtifactAt(c.Context, d)
			if err != nil {
				return err
			}
			if err := a.Cat(c.Context, c.Args().Get(1), c.App.Writer); err != nil {
				return fmt.Errorf("%s: %w", ref, err)
			}
			return nil
		},
	}
}

func tagsCommand() *cli.Command {
	return &cli.Command{
		Name:      "tags",
		Aliases:   []string{"list"},
		Usage:     "list the tags of a repository, layout or archive",
		ArgsUsage: "REPOSITORY",
		Description: `Examples:
  mpack tags registry.example.com/team/model
  mpack tags oci:./out`,
		Flags: flags([]cli.Flag{formatFlag()}, registryFlags()),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usagef("want one REPOSITORY; mpack tags --help shows how")
			}
			ref, err := oci.ParseRepository(c.Args().First())
			if err != nil {
				return err
			}
			client, err := newClient(c)
			if err != nil {
				return err
			}
			r, err := client.Open(c.Context, ref)
			if err != nil {
				return err
			}
			tags, err := r.Tags(c.Context)
			if err == nil && len(tags) == 0 { // some registries say so of what they do not know
				err = fmt.Errorf("tags of %s: %w: there are none", ref, oci.ErrNotFound)
			}
			if err != nil {
				return err
			}
			if c.String("format") == "json" {
				return printJSON(c.App.Writer, slices.Concat([]string{}, tags))
			}
			for _, t := range tags {
				fmt.Fprintln(c.App.Writer, printable(t))
			}
			return nil
		},
	}
}
