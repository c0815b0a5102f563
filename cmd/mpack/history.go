package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/oci"
	"mpack/signing"
)

func logCommand() *cli.Command {
	return &cli.Command{
		Name:      "log",
		Usage:     "list the versions of a repository, what each added and removed, and what they come from",
		ArgsUsage: "REPOSITORY[:TAG]",
		Description: `The newest comes first; with a tag, the list begins there. Bytes are those
stored for chunks that the version before has not, or that are gone. Versions are
in order of their creation times where all state one, else of their tags.

Examples:
  mpack log registry.example.com/team/corpus
  mpack log --format json registry.example.com/team/model:v4`,
		Flags:  flags([]cli.Flag{formatFlag()}, registryFlags()),
		Action: history,
	}
}

// logged is a version as log prints it.
type logged struct {
	Tags       []string     `json:"tags"`
	Digest     string       `json:"digest"`
	Created    string       `json:"created,omitempty"`
	Files      int          `json:"files"`
	Size       int64        `json:"size"`
	Stored     int64        `json:"storedBytes"`
	Added      int64        `json:"addedBytes"`
	Removed    int64        `json:"removedBytes"`
	FilesAdded int          `json:"filesAdded"`
	Changed    int          `json:"filesChanged"`
	Gone       int          `json:"filesRemoved"`
	BaseModels []oci.Source `json:"baseModels,omitempty"`
	Corpora    []oci.Source `json:"corpora,omitempty"`
	Revision   string       `json:"revision,omitempty"`
	Built      []built      `json:"provenance,omitempty"`
}

// built is provenance as log prints it: what is claimed, as nobody's signature
// is checked.
type built struct {
	Builder  string `json:"builder"`
	Run      string `json:"run,omitempty"`
	Source   string `json:"source,omitempty"`
	Revision string `json:"revision,omitempty"`
}

// provenanceOf reads what is attested of how a version was made.
func provenanceOf(c *cli.Context, v *oci.Version) ([]built, error) {
	all, err := signing.Attestations(c.Context, subject(v.Repo, v.Descriptor))
	if err != nil {
		return nil, err
	}
	var list []built
	for _, a := range all {
		if a.PredicateType != signing.ProvenanceType {
			continue
		}
		if p, err := signing.ParseProvenance(a.Predicate); err == nil {
			list = append(list, built{p.Builder, p.Run, p.Source, p.Revision})
		}
	}
	return list, nil
}

func history(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return usagef("want one REPOSITORY; mpack log --help shows how")
	}
	r, from, err := openRepository(c)
	if err != nil {
		return err
	}
	defer r.Close()
	steps := []logged{}
	found := from == ""
	err = r.Log(c.Context, func(s oci.Step) error {
		if from != "" && found {
			return nil // newer than what was asked for
		}
		found = found || slices.Contains(s.Tags, from)
		l := logged{Tags: s.Tags, Digest: string(s.Descriptor.Digest), Created: s.Created(), Files: s.Config.Files, Size: s.Config.TotalSize,
			Stored: s.StoredSize(), Added: s.Added, Removed: s.Removed, BaseModels: s.Config.BaseModels, Corpora: s.Config.Corpora,
			Revision: s.Config.About.Revision}
		for _, f := range s.Diff.Files {
			switch f.Change {
			case layout.Added:
				l.FilesAdded++
			case layout.Removed:
				l.Gone++
			default:
				l.Changed++
			}
		}
		var err error
		l.Built, err = provenanceOf(c, s.Version)
		steps = append(steps, l)
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%s: no version has the tag %s: %w", c.Args().First(), from, oci.ErrNotFound)
	}
	slices.Reverse(steps)
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, steps)
	}
	for i, s := range steps {
		if i > 0 {
			fmt.Fprintln(c.App.Writer)
		}
		printVersion(c, s)
	}
	return nil
}

func printVersion(c *cli.Context, s logged) {
	out := c.App.Writer
	fmt.Fprintf(out, "%s  %s", printable(strings.Join(s.Tags, ", ")), s.Digest)
	if s.Created != "" {
		fmt.Fprintf(out, "  %s", printable(s.Created))
	}
	fmt.Fprintf(out, "\n  %s in %s files, stored %s: +%s -%s; files +%d ~%d -%d\n", humanBytes(s.Size), humanCount(int64(s.Files)),
		humanBytes(s.Stored), humanBytes(s.Added), humanBytes(s.Removed), s.FilesAdded, s.Changed, s.Gone)
	for _, b := range s.BaseModels {
		fmt.Fprintf(out, "  base model %s\n", printable(b.String()))
	}
	for _, b := range s.Corpora {
		fmt.Fprintf(out, "  corpus %s\n", printable(b.String()))
	}
	if s.Revision != "" {
		fmt.Fprintf(out, "  revision %s\n", printable(s.Revision))
	}
	for _, b := range s.Built {
		fmt.Fprintf(out, "  built by %s", printable(b.Builder))
		if b.Source != "" {
			fmt.Fprintf(out, " from %s@%s", printable(b.Source), printable(b.Revision))
		}
		fmt.Fprintln(out, " (attested, not verified here)")
	}
}

// openRepository opens the repository of the first argument, and returns the
// tag where one was written.
func openRepository(c *cli.Context) (*oci.Repo, string, error) {
	ref, err := oci.ParseRepository(c.Args().First())
	if err != nil {
		return nil, "", err
	}
	client, err := newClient(c)
	if err != nil {
		return nil, "", err
	}
	r, err := client.Open(c.Context, ref)
	return r, ref.Tag, err
}

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:      "gc",
		Usage:     "say which chunks of which layers only old versions of a repository use",
		ArgsUsage: "REPOSITORY",
		Description: `Old are all but the --keep newest versions. Nothing is removed: mpack rm removes
versions, the registry's own garbage collection then frees the layers that no
version lists; mpack repack frees what is dead inside layers that are still listed.

Examples:
  mpack gc registry.example.com/team/corpus
  mpack gc --keep 4 --format json registry.example.com/team/corpus`,
		Flags: flags([]cli.Flag{
			&cli.IntFlag{Name: "keep", Usage: "the newest `N` versions are not old", Value: 1, EnvVars: env("keep")},
			formatFlag(),
		}, registryFlags()),
		Action: gc,
	}
}

func gc(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return usagef("want one REPOSITORY; mpack gc --help shows how")
	}
	if c.Int("keep") < 1 {
		return usagef("--keep %d: want at least 1", c.Int("keep"))
	}
	r, _, err := openRepository(c)
	if err != nil {
		return err
	}
	defer r.Close()
	u, err := r.Usage(c.Context, c.Int("keep"))
	if err != nil {
		return err
	}
	names := func(vs []*oci.Version) []string {
		tags := []string{}
		for _, v := range vs {
			tags = append(tags, v.Tags...)
		}
		return tags
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Kept   []string       `json:"kept"`
			Old    []string       `json:"old"`
			Stored int64          `json:"layerBytes"`
			Free   int64          `json:"freeBytes"`
			Dead   int64          `json:"deadBytes"`
			Layers []oci.LayerUse `json:"layers"`
		}{names(u.Kept), names(u.Old), u.Stored, u.Free, u.Dead, append([]oci.LayerUse{}, u.Layers...)})
	}
	fmt.Fprintf(c.App.Writer, "kept: %s\nold:  %s\n", strings.Join(names(u.Kept), ", "), strings.Join(names(u.Old), ", "))
	if len(u.Layers) > 0 {
		fmt.Fprintln(c.App.Writer)
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "LAYER\tSIZE\tUSED\tONLY OLD\tCHUNKS\tFREED BY")
		for _, l := range u.Layers {
			by := "rm"
			if l.Kept {
				by = "repack"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", l.Digest, humanBytes(l.Size), humanBytes(l.UsedBytes), humanBytes(l.OldBytes), l.OldChunks, by)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(c.App.Writer)
	}
	fmt.Fprintf(c.App.Writer, "%s in layers: removing the old versions frees %s, repacking the kept ones %s more\n",
		humanBytes(u.Stored), humanBytes(u.Free), humanBytes(u.Dead))
	return nil
}

func repackCommand() *cli.Command {
	return &cli.Command{
		Name:      "repack",
		Usage:     "rewrite a version whose layers have become sparse",
		ArgsUsage: "REF",
		Description: `Chunks in layers of which less than --min-use is used move to new layers, without
being compressed again, and the tag moves to the new version. Its files are the
same, its digest is not: sign it again.

Examples:
  mpack repack registry.example.com/team/corpus:2026-11
  mpack repack --min-use 0.95 oci:./out:v9`,
		Flags: flags([]cli.Flag{
			&cli.Float64Flag{Name: "min-use", Usage: "rewrite layers of which a smaller `PART` is used, 0 to 1", Value: 0.8, EnvVars: env("min-use")},
			formatFlag(),
		}, outputFlags(), registryFlags()),
		Action: repack,
	}
}

func repack(c *cli.Context) error {
	ref, err := refArg(c, 0, "REF")
	if err != nil {
		return err
	}
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	part := c.Float64("min-use")
	if !(part >= 0 && part <= 1) {
		return usagef("--min-use %v: want 0 to 1", part)
	}
	client, err := newClient(c)
	if err != nil {
		return err
	}
	p := progressOf(c, "repack")
	done, err := client.Repack(c.Context, ref, part, p.Func())
	p.Done()
	if err != nil {
		return err
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Reference string `json:"reference"`
			Digest    string `json:"digest"`
			Before    int64  `json:"storedBytesBefore"`
			Stored    int64  `json:"storedBytes"`
			Sent      int64  `json:"uploadedBytes"`
		}{done.Reference.String(), string(done.Descriptor.Digest), done.Before, done.Stored, done.Sent})
	}
	say(c, "%s", done.Reference)
	if done.Sent == 0 {
		say(c, "no layer is used less than %.0f %%: nothing to do", 100*part)
	} else {
		say(c, "stored %s, before %s; uploaded %s; sign it again, as its digest is new", humanBytes(done.Stored), humanBytes(done.Before), humanBytes(done.Sent))
	}
	fmt.Fprintln(c.App.Writer, done.Descriptor.Digest)
	return nil
}
