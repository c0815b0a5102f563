package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/oci"
)

func storeCommand() *cli.Command {
	return &cli.Command{
		Name:  "store",
		Usage: "look after the store that the pulls of a machine share",
		Description: `mpack pull --store DIR (or MPACK_STORE=DIR) keeps the files it pulls in DIR and
looks there before it fetches: the same artifact is fetched once, of the next
version only what changed. DIR is an OCI image layout of manifests, configs and
indexes, with the files beside it in files/sha256.

Examples:
  mpack store ls --store /var/lib/mpack
  mpack store prune --store /var/lib/mpack --keep-days 30
  mpack store verify --store /var/lib/mpack`,
		Subcommands: []*cli.Command{
			{
				Name:      "ls",
				Usage:     "list the artifacts, the one pulled last first",
				ArgsUsage: " ",
				Description: `Examples:
  mpack store ls --store /var/lib/mpack
  MPACK_STORE=/var/lib/mpack mpack store ls --format json`,
				Flags:  flags([]cli.Flag{storeFlag(), formatFlag()}),
				Action: listStore,
			},
			{
				Name:      "prune",
				Usage:     "remove the artifacts that were not pulled for the longest time",
				ArgsUsage: " ",
				Description: `Removes files that no artifact in the store needs; with --keep-days or --max-size
also the artifacts that were pulled longest ago. It waits until no pull uses the
store, and says so; pulls that begin meanwhile go first, those that begin later
wait for it. Directories that were pulled keep their files.

Examples:
  mpack store prune --store /var/lib/mpack
  mpack store prune --store /var/lib/mpack --keep-days 30 --max-size 500GB`,
				Flags: flags([]cli.Flag{
					storeFlag(),
					&cli.IntFlag{Name: "keep-days", Usage: "remove what was not pulled for `N` days", EnvVars: env("keep-days")},
					stringFlag("max-size", "keep at most `SIZE` of files, as 500GB or 2TiB"),
					formatFlag(), boolFlag("quiet", "print nothing but the result", "q"),
				}),
				Action: pruneStore,
			},
			{
				Name:      "verify",
				Usage:     "read everything and remove what is damaged",
				ArgsUsage: " ",
				Description: `The next pull that needs what was removed fetches it again. The exit code is 5 if
anything was damaged. Pulls verify what they take from the store in any case.

Examples:
  mpack store verify --store /var/lib/mpack`,
				Flags:  flags([]cli.Flag{storeFlag(), formatFlag()}, outputFlags()),
				Action: verifyStore,
			},
		},
	}
}

func storeFlag() cli.Flag { return stringFlag("store", "the store's `DIR`") }

// storeDir returns the directory of --store for the commands that need one.
func storeDir(c *cli.Context) (string, error) {
	if err := maxArgs(c, 0); err != nil {
		return "", err
	}
	dir := c.String("store")
	if dir == "" {
		return "", usagef("which store? give --store DIR or set MPACK_STORE")
	}
	return dir, nil
}

// storedJSON is an artifact as store ls prints it.
type storedJSON struct {
	Names   []string  `json:"names"`
	Digest  string    `json:"digest"`
	Pulled  time.Time `json:"pulled"`
	Size    int64     `json:"size"`
	Present int64     `json:"presentBytes"`
	Own     int64     `json:"ownBytes"`
	Error   string    `json:"error,omitempty"`
}

func listStore(c *cli.Context) error {
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	uses, err := oci.StoreUsage(c.Context, dir)
	if err != nil {
		return err
	}
	list := []storedJSON{}
	for _, u := range uses {
		s := storedJSON{Names: u.Names, Digest: string(u.Descriptor.Digest), Pulled: u.Pulled.UTC(), Size: u.Size, Present: u.Present, Own: u.Own}
		if u.Err != nil {
			s.Error = u.Err.Error()
		}
		list = append(list, s)
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, list)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PULLED\tSIZE\tPRESENT\tOWN\tDIGEST\tNAMES")
	for _, s := range list {
		names := strings.Join(s.Names, ", ")
		if s.Error != "" {
			names = strings.TrimSpace(names + " (" + s.Error + ")")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Pulled.Format(time.DateTime), humanBytes(s.Size), humanBytes(s.Present), humanBytes(s.Own),
			s.Digest, printable(names))
	}
	return w.Flush()
}

func pruneStore(c *cli.Context) error {
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	var o oci.PruneOptions
	if c.IsSet("keep-days") {
		if c.Int("keep-days") < 1 {
			return usagef("--keep-days %d: want at least 1", c.Int("keep-days"))
		}
		o.MaxAge = time.Duration(c.Int("keep-days")) * 24 * time.Hour
	}
	if s := c.String("max-size"); s != "" {
		if o.MaxSize, err = parseBytes(s); err != nil || o.MaxSize < 1 {
			return usagef("--max-size %q: want a size like 500GB or 2TiB", s)
		}
	}
	o.Waits = func() {
		say(c, "waiting until no pull uses %s; pulls that begin meanwhile go first", dir)
	}
	done, err := oci.PruneStore(c.Context, dir, o)
	if err != nil {
		return err
	}
	names := []string{}
	for _, a := range done.Artifacts {
		names = append(names, strings.Join(append(a.Names, string(a.Descriptor.Digest)), " "))
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Removed []string `json:"removed"`
			Files   int      `json:"removedFiles"`
			Bytes   int64    `json:"removedBytes"`
			Left    int64    `json:"leftBytes"`
		}{names, done.Files, done.Bytes, done.Left})
	}
	for _, n := range names {
		fmt.Fprintln(c.App.Writer, printable(n))
	}
	say(c, "removed %s artifacts, %s files of %s; %s stay", humanCount(int64(len(names))), humanCount(int64(done.Files)), humanBytes(done.Bytes), humanBytes(done.Left))
	return nil
}

func verifyStore(c *cli.Context) error {
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	p := progressOf(c, "verify")
	done, err := oci.VerifyStore(c.Context, dir, p.Func())
	p.Done()
	if err != nil {
		return err
	}
	if c.String("format") == "json" {
		err = printJSON(c.App.Writer, struct {
			Files   int      `json:"files"`
			Bytes   int64    `json:"bytes"`
			Damaged []string `json:"damaged"`
		}{done.Files, done.Bytes, append([]string{}, done.Damaged...)})
	} else {
		for _, n := range done.Damaged {
			fmt.Fprintln(c.App.Writer, n)
		}
		say(c, "read %s files, %s", humanCount(int64(done.Files)), humanBytes(done.Bytes))
	}
	if len(done.Damaged) > 0 {
		err = errors.Join(err, fmt.Errorf("%d files of the store were damaged and have been removed: %w", len(done.Damaged), layout.ErrCorrupt))
	}
	return err
}

// units are what parseBytes multiplies with.
var units = map[string]float64{
	"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40, "PIB": 1 << 50,
}

// parseBytes reads a size in bytes: a number, with a decimal or binary unit.
func parseBytes(s string) (int64, error) {
	number := strings.TrimRight(s, "bBiIkKmMgGtTpP ")
	v, err := strconv.ParseFloat(number, 64)
	unit, ok := units[strings.ToUpper(strings.TrimSpace(s[len(number):]))]
	if err != nil || !ok || !(v*unit >= 0 && v*unit <= 1<<62) { // not a number is neither
		return 0, fmt.Errorf("size %q", s)
	}
	return int64(v * unit), nil
}
