package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"mpack/oci"
)

func pullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "fetch an artifact into a directory",
		ArgsUsage: "REF",
		Description: `Makes DIR hold the artifact's files. Files that are right already are left
alone; chunks that old files or --seed directories hold are taken from there;
only the rest is fetched. Every chunk and every file is checked by its SHA-256,
and a file gets its name only when it is complete. After an interruption the
same command goes on where it was. Files that the artifact does not know stay.

The digest that was pulled is printed on standard output.

Examples:
  mpack pull registry.example.com/team/model:v3
  mpack pull registry.example.com/team/model:v3 -o ./model --include '*.json'
  mpack pull registry.example.com/team/model:v4 -o ./v4 --seed ./v3`,
		Flags: flags([]cli.Flag{
			stringFlag("output", "write into `DIR`; default: the last element of the repository's path", "o"),
			listFlag("include", "fetch only files that match `PATTERN`"),
			listFlag("exclude", "leave out files that match `PATTERN`"),
			listFlag("seed", "look for chunks in `DIR` before fetching them"),
			formatFlag(),
		}, outputFlags(), registryFlags()),
		Action: pull,
	}
}

func pull(c *cli.Context) error {
	ref, err := refArg(c, 0, "REF")
	if err != nil {
		return err
	}
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	dir := c.String("output")
	if dir == "" {
		dir = ref.Base()
	}
	client, err := newClient(c)
	if err != nil {
		return err
	}
	start := time.Now()
	p := progressOf(c, "pull")
	done, err := client.Pull(c.Context, ref, dir, oci.PullOptions{
		Include:  c.StringSlice("include"),
		Exclude:  c.StringSlice("exclude"),
		Seeds:    c.StringSlice("seed"),
		Progress: p.Func(),
	})
	p.Done()
	if err != nil {
		return err
	}
	took := time.Since(start)
	digest := done.Artifact.Descriptor.Digest
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Reference string  `json:"reference"`
			Digest    string  `json:"digest"`
			Directory string  `json:"directory"`
			Written   int     `json:"filesWritten"`
			Kept      int     `json:"filesKept"`
			Fetched   int64   `json:"fetchedBytes"`
			Local     int64   `json:"localBytes"`
			Seconds   float64 `json:"seconds"`
		}{ref.String(), string(digest), dir, done.Files, done.Kept, done.Fetched, done.Local, took.Seconds()})
	}
	say(c, "%s@%s in %s", ref.Name(), digest, dir)
	say(c, "wrote %s files, %s were right already; fetched %s, %s came from this machine", humanCount(int64(done.Files)), humanCount(int64(done.Kept)),
		humanBytes(done.Fetched), humanBytes(done.Local))
	say(c, "took %s", humanDuration(took))
	fmt.Fprintln(c.App.Writer, digest)
	return nil
}
