package main

import (
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/oci"
)

func pullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "fetch an artifact into a directory",
		ArgsUsage: "REF",
		Description: `Makes DIR hold the artifact's files. Files that are right already are left
alone; chunks that old files or --seed directories hold are taken from there;
only the rest is fetched. Every byte is checked by SHA-256 before its file gets
its name. After an interruption the same command goes on where it was. Files
that the artifact does not know stay.

The files are written as those of other programs are: the system brings them to
the disk within half a minute or so. After a power cut before that, pull again:
what is damaged is found and fetched. With --fsync pull ends when all is on the disk.

With --store, the pulls of a machine share what they fetch (see mpack store).
Files come out of the store by --link: as copies that share their blocks
(reflink) where the file system can (btrfs, XFS), else as plain copies; with
hardlink they are the store's own files, read-only, and not to be changed.

With --verify, or where a --policy is set, nothing is fetched before the signature
holds; see mpack verify for the flags that go with it.

The digest that was pulled is printed on standard output.

Examples:
  mpack pull registry.example.com/team/model:v3
  mpack pull registry.example.com/team/model:v3 -o ./model --include '*.json'
  mpack pull registry.example.com/team/model:v4 -o ./v4 --seed ./v3
  mpack pull --store /var/lib/mpack registry.example.com/team/model:v4 -o /models/v4`,
		Flags: flags([]cli.Flag{
			stringFlag("output", "write into `DIR`; default: the last element of the repository's path", "o"),
			listFlag("include", "fetch only files that match `PATTERN`"),
			listFlag("exclude", "leave out files that match `PATTERN`"),
			listFlag("seed", "look for chunks in `DIR` before fetching them"),
			stringFlag("store", "share what is fetched with other pulls, in `DIR`"),
			&cli.StringFlag{Name: "link", Usage: "how files come out of the store: `auto`, reflink, hardlink or copy", Value: string(layout.LinkAuto), EnvVars: env("link"),
				Action: oneOf("link", string(layout.LinkAuto), string(layout.LinkReflink), string(layout.LinkHard), string(layout.LinkCopy))},
			boolFlag("fsync", "wait until the files are on the disk"),
			boolFlag("verify", "check the signature first"), policyFlag(),
			formatFlag(),
		}, verifyFlags(), outputFlags(), registryFlags()),
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
		here, err := os.Stat(dir)
		if err == nil && ref.Scheme == oci.Layout {
			if there, err := os.Stat(ref.Path); err == nil && os.SameFile(here, there) {
				return usagef("the files would go into the layout %s itself: name a directory with -o", ref.Path)
			}
		}
	}
	client, err := newClient(c)
	if err != nil {
		return err
	}
	o := oci.PullOptions{
		Include: c.StringSlice("include"),
		Exclude: c.StringSlice("exclude"),
		Seeds:   c.StringSlice("seed"),
		Fsync:   c.Bool("fsync"),
	}
	if o.Before, err = gate(c, client); err != nil {
		return err
	}
	link := layout.LinkMode(c.String("link"))
	if s := c.String("store"); s != "" {
		if o.Store, err = oci.OpenStore(c.Context, s, link); err != nil {
			return err
		}
		defer o.Store.Close()
	}
	start := time.Now()
	p := progressOf(c, "pull")
	o.Progress = p.Func()
	done, err := client.Pull(c.Context, ref, dir, o)
	p.Done()
	if err != nil {
		return err
	}
	warnOfStore(c, link, done)
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
			Shared    int64   `json:"sharedBytes,omitempty"`
			Seconds   float64 `json:"seconds"`
		}{ref.String(), string(digest), dir, done.Files, done.Kept, done.Fetched, done.Local, done.Shared, took.Seconds()})
	}
	say(c, "%s@%s in %s", ref.Name(), digest, dir)
	say(c, "wrote %s files, %s were right already; fetched %s, %s came from this machine", humanCount(int64(done.Files)), humanCount(int64(done.Kept)),
		humanBytes(done.Fetched), humanBytes(done.Local))
	say(c, "took %s", humanDuration(took))
	fmt.Fprintln(c.App.Writer, digest)
	return nil
}

// warnOfStore says what a user of the store must know of a pull.
func warnOfStore(c *cli.Context, link layout.LinkMode, done *oci.Pulled) {
	if done.Damaged > 0 {
		say(c, "warning: %d files of the store were damaged and were fetched again", done.Damaged)
	}
	if done.Unkept != nil {
		say(c, "warning: the store did not get every file: %v", done.Unkept)
	}
	switch {
	case link == layout.LinkHard && done.Shared > 0:
		say(c, "warning: files are hard links into the store and read-only: a change to one is a change for all who pulled it")
	case c.String("store") == "" || done.Files == 0:
	case (link == layout.LinkHard || link == layout.LinkReflink) && done.Shared == 0:
		say(c, "warning: files were copied: %s is not possible between the store and the directory", link)
	}
}
