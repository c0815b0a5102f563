package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"mpack/oci"
)

func copyCommand() *cli.Command {
	return &cli.Command{
		Name:      "copy",
		Aliases:   []string{"cp"},
		Usage:     "copy an artifact between registries, layouts and archives, with its signatures",
		ArgsUsage: "SRC DST",
		Description: `Within one registry blobs are mounted, not moved. Signatures, attestations and
whatever else refers to the artifact come along. A DST without a tag gets SRC's.

Examples:
  mpack copy registry.example.com/team/model:v3 registry.example.com/prod/model:v3
  mpack copy registry.example.com/team/model:v3 oci-archive:model-v3.tar:v3`,
		Flags: flags([]cli.Flag{
			&cli.BoolFlag{Name: "referrers", Usage: "copy signatures, attestations and other referrers too", Value: true, EnvVars: env("referrers")},
			formatFlag(),
		}, outputFlags(), registryFlags()),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 2 {
				return usagef("want SRC and DST; mpack copy --help shows how")
			}
			src, err := refArg(c, 0, "SRC")
			if err != nil {
				return err
			}
			dst, err := oci.ParseRepository(c.Args().Get(1))
			if err != nil {
				return err
			}
			client, err := newClient(c)
			if err != nil {
				return err
			}
			start := time.Now()
			p := progressOf(c, "copy")
			done, err := client.Copy(c.Context, src, dst, oci.CopyOptions{NoReferrers: !c.Bool("referrers"), Progress: p.Func()})
			p.Done()
			if err != nil {
				return err
			}
			if c.String("format") == "json" {
				return printJSON(c.App.Writer, struct {
					Reference string  `json:"reference"`
					Digest    string  `json:"digest"`
					Sent      int64   `json:"copiedBytes"`
					Present   int64   `json:"presentBytes"`
					Referrers int     `json:"referrers"`
					Seconds   float64 `json:"seconds"`
				}{done.Reference.String(), string(done.Descriptor.Digest), done.Sent, done.Present, done.Referrers, time.Since(start).Seconds()})
			}
			say(c, "%s", done.Reference)
			say(c, "copied %s, %s there already or mounted, %d referrers, took %s", humanBytes(done.Sent), humanBytes(done.Present), done.Referrers, humanDuration(time.Since(start)))
			fmt.Fprintln(c.App.Writer, done.Descriptor.Digest)
			return nil
		},
	}
}

func tagCommand() *cli.Command {
	return &cli.Command{
		Name:      "tag",
		Usage:     "give an artifact further tags",
		ArgsUsage: "REF TAG...",
		Description: `Examples:
  mpack tag registry.example.com/team/model:v3 latest stable`,
		Flags: registryFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Len() < 2 {
				return usagef("want REF and at least one TAG; mpack tag --help shows how")
			}
			client, ref, err := clientFor(c)
			if err != nil {
				return err
			}
			d, err := client.Tag(c.Context, ref, c.Args().Tail()...)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, d.Digest)
			return nil
		},
	}
}

func rmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove a tag, or with a digest an artifact and all its tags",
		ArgsUsage: "REF",
		Description: `Blobs that nothing needs any more are freed by the registry's garbage
collection, in an oci: layout at once.

Examples:
  mpack rm registry.example.com/team/model:v1
  mpack rm registry.example.com/team/model@sha256:…`,
		Flags: registryFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usagef("want one REF; mpack rm --help shows how")
			}
			client, ref, err := clientFor(c)
			if err != nil {
				return err
			}
			if named, err := oci.ParseRepository(c.Args().First()); err != nil || named.Tag == "" && named.Digest == "" {
				return usagef("which? name a tag, %s:TAG, or a digest; mpack tags %s lists them", ref.Name(), ref.Name())
			}
			d, err := client.Remove(c.Context, ref)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, d.Digest)
			return nil
		},
	}
}
