package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"mpack/signing"
)

func keyCommand() *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "make a key pair to sign with",
		Description: `Examples:
  mpack key generate`,
		Subcommands: []*cli.Command{{
			Name:      "generate",
			Usage:     "write PREFIX.key and PREFIX.pub, as cosign generate-key-pair does",
			ArgsUsage: " ",
			Description: `The private key is encrypted with the password in COSIGN_PASSWORD, or one that is
asked for. Files that exist are never overwritten.

Examples:
  mpack key generate
  COSIGN_PASSWORD=… mpack key generate --output-key-prefix team`,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "output-key-prefix", Usage: "write `PREFIX`.key and PREFIX.pub", Value: "cosign", EnvVars: env("output-key-prefix")},
			},
			Action: func(c *cli.Context) error {
				if err := maxArgs(c, 0); err != nil {
					return err
				}
				private, public, err := signing.GenerateKey(c.String("output-key-prefix"), askPassword(c))
				if err != nil {
					return err
				}
				fmt.Fprintf(c.App.ErrWriter, "private key in %s: keep it secret\n", private)
				fmt.Fprintln(c.App.Writer, public)
				return nil
			},
		}},
	}
}
