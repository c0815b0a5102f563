package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"mpack/layout/frame"
	"mpack/oci"
	"mpack/signing"
)

func pushCommand() *cli.Command {
	return &cli.Command{
		Name:      "push",
		Usage:     "pack a directory and store it under a reference",
		ArgsUsage: "REF [DIR]",
		Description: `Packs DIR (default ".") and uploads it in one pass, without a copy on disk. Of more
than 16 GB, finished layers wait in unnamed files in $TMPDIR until they are uploaded:
up to 1.6 % of DIR's size at once.
The manifest's digest is printed on standard output.

Chunks that the tag's present artifact, or the repository's newest one, holds
already are not stored or sent again (--base). With --base none the digest
depends on the files alone, wherever and whenever they are packed.

With --sign the tag moves only when the signature is there; see mpack sign for the
flags that go with it. --provenance attests how it was made (SLSA v1), from what the
CI job's environment says and the base models and corpora that are known by digest.

DIR/.mpackignore leaves files out by .dockerignore's rules; DIR/mpack.yaml says
what cannot be read from the files: name, version, licenses, baseModels, corpora, …

Examples:
  mpack push registry.example.com/team/model:v3 ./model
  mpack push --kind corpus --exclude '*.tmp' registry.example.com/team/corpus:2026-11-24 ./data
  D=$(mpack push -q oci:./out:v1 ./model)
  mpack push --sign --key cosign.key --provenance registry.example.com/team/model:v3 ./model`,
		Flags: flags([]cli.Flag{
			&cli.StringFlag{Name: "kind", Usage: "`model` or corpus; guessed from the files if not given", EnvVars: env("kind"), Action: oneOf("kind", "model", "corpus")},
			listFlag("annotation", "add `KEY=VALUE` to the manifest's annotations", "a"),
			listFlag("include", "pack only files that match `PATTERN`"),
			listFlag("exclude", "leave out files that match `PATTERN`"),
			&cli.StringFlag{Name: "base", Usage: "artifact whose chunks need not be stored again: a `REF`, auto or none", Value: oci.BaseAuto, EnvVars: env("base")},
			&cli.IntFlag{Name: "level", Usage: "zstd level of what are not weights, 1 to 4", DefaultText: fmt.Sprint(frame.DefaultLevel), EnvVars: env("level")},
			stringFlag("created", "write `TIME` (RFC 3339) as the creation time; SOURCE_DATE_EPOCH does the same"),
			boolFlag("sign", "sign it before the tag moves"),
			boolFlag("provenance", "attest, signed, how it was made"),
			formatFlag(),
		}, signFlags(), outputFlags(), registryFlags()),
		Action: push,
	}
}

func push(c *cli.Context) error {
	if a := c.Args(); a.Len() == 2 && isDirectory(a.Get(0)) && !isDirectory(a.Get(1)) {
		return usagef("%s is a directory: the reference goes before it, mpack push %s %s", a.Get(0), a.Get(1), a.Get(0))
	}
	ref, err := refArg(c, 0, "REF")
	if err != nil {
		return err
	}
	if err := maxArgs(c, 2); err != nil {
		return err
	}
	dir := "."
	if c.Args().Len() > 1 {
		dir = c.Args().Get(1)
	}
	if _, err := os.Stat(dir); err == nil && !isDirectory(dir) {
		return usagef("%s is no directory: name the one that it is in; --include takes some of its files", dir)
	}
	o := oci.PushOptions{
		Kind:    c.String("kind"),
		Include: c.StringSlice("include"),
		Exclude: c.StringSlice("exclude"),
		Base:    c.String("base"),
		Level:   frame.Level(c.Int("level")),
	}
	if o.Annotations, err = keyValues("annotation", c.StringSlice("annotation")); err != nil {
		return err
	}
	if o.Created, err = created(c.String("created")); err != nil {
		return err
	}
	client, err := newClient(c)
	if err != nil {
		return err
	}
	start := time.Now()
	if c.Bool("sign") || c.Bool("provenance") {
		if ref.Scheme == oci.Archive {
			return usagef("nothing can be signed in an archive that is being written: push to an oci: layout and copy that to the archive")
		}
		by := signer(c)
		// Now, not behind hours of upload; and no password is asked for in the middle of the bar.
		if err := by.Ready(c.Context); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		o.Before = func(ctx context.Context, r *oci.Repo, d ocispec.Descriptor, config *oci.Config) error {
			return attestPush(ctx, c, r, d, config, by, start)
		}
	}
	p := progressOf(c, "push")
	o.Progress = p.Func()
	done, err := client.Push(c.Context, ref, dir, o)
	p.Done()
	if err != nil {
		return err
	}
	for _, w := range done.Warnings {
		say(c, "warning: %s", w)
	}
	took := time.Since(start)
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, pushJSON(done, took))
	}
	say(c, "%s", done.Reference)
	say(c, "read %s in %s files, stored %s (%s), uploaded %s, %s there already", humanBytes(done.Read), humanCount(int64(done.Files)),
		humanBytes(done.Stored), percent(done.Stored, done.Read), humanBytes(done.Sent), humanBytes(done.Present))
	base := ""
	if done.Base != "" {
		base = ", on top of " + done.Base
	}
	say(c, "took %s%s", humanDuration(took), base)
	fmt.Fprintln(c.App.Writer, done.Descriptor.Digest)
	return nil
}

// attestPush makes what --provenance and --sign ask for.
func attestPush(ctx context.Context, c *cli.Context, r *oci.Repo, d ocispec.Descriptor, config *oci.Config, by signing.Signer, start time.Time) error {
	if c.Bool("provenance") {
		in := signing.ProvenanceInput{Version: buildVersion(), Revision: config.About.Revision, Started: start, Finished: time.Now()}
		in.Dependencies = slices.Concat(dependencies(signing.RoleBaseModel, config.BaseModels), dependencies(signing.RoleCorpus, config.Corpora))
		predicate, err := signing.Provenance(os.Getenv, in)
		if err != nil {
			return err
		}
		if _, err := signing.Attest(ctx, subject(r, d), signing.AttestOptions{
			Signer: by, Format: signatureFormat(c), PredicateType: signing.ProvenanceType, Predicate: predicate,
		}); err != nil {
			return fmt.Errorf("provenance: %w", err)
		}
	}
	if c.Bool("sign") {
		_, err := signArtifact(c, r, d, by, nil)
		return err
	}
	return nil
}

func dependencies(role string, sources []oci.Source) []signing.Dependency {
	var ds []signing.Dependency
	for _, s := range sources {
		ds = append(ds, signing.Dependency{Role: role, Name: s.Name, Digest: digest.Digest(s.Digest)})
	}
	return ds
}

type pushed struct {
	Reference string  `json:"reference"`
	Digest    string  `json:"digest"`
	MediaType string  `json:"mediaType"`
	Kind      string  `json:"kind"`
	Base      string  `json:"base,omitempty"`
	Files     int     `json:"files"`
	Read      int64   `json:"readBytes"`
	Stored    int64   `json:"storedBytes"`
	Sent      int64   `json:"uploadedBytes"`
	Present   int64   `json:"presentBytes"`
	Seconds   float64 `json:"seconds"`
}

func pushJSON(p *oci.Pushed, took time.Duration) pushed {
	return pushed{p.Reference.String(), string(p.Descriptor.Digest), p.Descriptor.MediaType, p.Config.Kind, p.Base,
		p.Files, p.Read, p.Stored, p.Sent, p.Present, took.Seconds()}
}

// created returns the time to write, from the flag or SOURCE_DATE_EPOCH.
func created(s string) (time.Time, error) {
	if s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return t, usagef("--created %q: want a time like 2026-11-24T12:00:00Z", s)
		}
		return t, nil
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH %q: want seconds since 1970", epoch)
	}
	return time.Unix(n, 0), nil
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "100 %"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}
