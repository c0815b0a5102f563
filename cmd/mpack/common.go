package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"mpack/oci"
)

// env returns the environment variable of a flag: MPACK_PLAIN_HTTP for plain-http.
func env(name string) []string {
	return []string{"MPACK_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}
}

func boolFlag(name, usage string, aliases ...string) *cli.BoolFlag {
	return &cli.BoolFlag{Name: name, Aliases: aliases, Usage: usage, EnvVars: env(name)}
}

func stringFlag(name, usage string, aliases ...string) *cli.StringFlag {
	return &cli.StringFlag{Name: name, Aliases: aliases, Usage: usage, EnvVars: env(name)}
}

func listFlag(name, usage string, aliases ...string) *cli.StringSliceFlag {
	return &cli.StringSliceFlag{Name: name, Aliases: aliases, Usage: usage, EnvVars: env(name)}
}

// registryFlags are how every command reaches a registry.
func registryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "concurrency", Usage: "transfers at once", Value: 4, EnvVars: env("concurrency")},
		boolFlag("plain-http", "talk HTTP to the registry (localhost and 127.0.0.0/8 are tried that way first)"),
		boolFlag("insecure", "do not check TLS certificates"),
		stringFlag("ca-file", "trust the PEM certificates in `FILE` too"),
		stringFlag("username", "user `NAME`, instead of what docker login or mpack login kept; of copy, DST's", "u"),
		stringFlag("password", "password; visible to other users of this machine, prefer --password-stdin", "p"),
		boolFlag("password-stdin", "read the password from standard input"),
		boolFlag("debug", "log every request to standard error"),
	}
}

// outputFlags are how every command that takes its time reports.
func outputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "progress", Usage: "`auto`, plain, none or json", Value: "auto", EnvVars: env("progress"), Action: oneOf("progress", "auto", "plain", "none", "json")},
		boolFlag("quiet", "print nothing but the result", "q"),
	}
}

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Usage: "`text` or json", Value: "text", EnvVars: env("format"), Action: oneOf("format", "text", "json")}
}

func oneOf(name string, values ...string) func(*cli.Context, string) error {
	return func(_ *cli.Context, v string) error {
		if slices.Contains(values, v) {
			return nil
		}
		return usagef("--%s %q: want one of %s", name, v, strings.Join(values, ", "))
	}
}

func flags(groups ...[]cli.Flag) []cli.Flag { return slices.Concat(groups...) }

// newClient makes a client of the registry flags.
func newClient(c *cli.Context) (*oci.Client, error) {
	o, err := clientOptions(c)
	if err != nil {
		return nil, err
	}
	return oci.NewClient(o)
}

func clientOptions(c *cli.Context) (oci.Options, error) {
	o := oci.Options{
		PlainHTTP:   c.Bool("plain-http"),
		Insecure:    c.Bool("insecure"),
		CAFile:      c.String("ca-file"),
		Username:    c.String("username"),
		Password:    c.String("password"),
		Concurrency: c.Int("concurrency"),
		UserAgent:   "mpack/" + buildVersion(),

		CredentialHost: credentialHost(c),
		Waits: func(dir string) {
			say(c, "waiting until no other mpack writes to %s or removes from it", dir)
		},
	}
	if c.Int("concurrency") < 1 {
		return o, usagef("--concurrency %d: want at least 1", c.Int("concurrency"))
	}
	if c.Bool("password-stdin") {
		p, err := readPassword(c.App.Reader)
		if err != nil {
			return o, err
		}
		o.Password = p
	}
	if c.Bool("debug") {
		w := c.App.ErrWriter
		o.Debug = func(format string, args ...any) {
			fmt.Fprintf(w, "debug: %s %s\n", time.Now().Format("15:04:05.000"), oneLine(fmt.Errorf(format, args...)))
		}
	}
	return o, nil
}

// credentialHost returns the registry that -u and -p are for: the one that is
// written to, else the first that is named. Others get what Docker's config
// says, so that a registry copied from is not told the password of another.
func credentialHost(c *cli.Context) string {
	args := c.Args().Slice()
	if c.Command.Name == "copy" {
		args = append(args[min(1, len(args)):], args...)
	}
	for _, a := range args {
		if isDirectory(a) {
			continue // of diff, and of push
		}
		if ref, err := oci.ParseRepository(a); err == nil && ref.Scheme == oci.Registry {
			return ref.Host
		}
	}
	return ""
}

// readPassword reads what a pipe gives, without the line's end.
func readPassword(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	p := strings.TrimRight(string(b), "\r\n")
	if p == "" {
		return "", usagef("--password-stdin: standard input is empty")
	}
	return p, nil
}

// clientFor returns a client and the reference that the first argument is.
func clientFor(c *cli.Context) (*oci.Client, oci.Reference, error) {
	ref, err := refArg(c, 0, "REF")
	if err != nil {
		return nil, ref, err
	}
	client, err := newClient(c)
	return client, ref, err
}

// resolve opens what the reference names and resolves it, once.
func resolve(c *cli.Context, client *oci.Client, ref oci.Reference) (*oci.Repo, ocispec.Descriptor, error) {
	r, err := client.Open(c.Context, ref)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	d, err := r.Resolve(c.Context)
	if err != nil {
		r.Close()
		return nil, d, err
	}
	return r, d, nil
}

// resolved opens and resolves what the first argument names.
func resolved(c *cli.Context) (*oci.Repo, ocispec.Descriptor, error) {
	client, ref, err := clientFor(c)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	return resolve(c, client, ref)
}

// refArg parses an argument, which must be there, as a reference.
func refArg(c *cli.Context, i int, what string) (oci.Reference, error) {
	if c.Args().Len() <= i {
		return oci.Reference{}, usagef("%s is missing; mpack %s --help shows how", what, c.Command.Name)
	}
	arg := c.Args().Get(i)
	ref, err := oci.ParseReference(arg)
	if err != nil && isDirectory(arg) {
		switch c.Command.Name {
		case "push":
			err = usagef("%s is a directory: the reference goes before it, mpack push REF %s", arg, arg)
		case "sign", "verify":
			err = usagef("%s is a directory: write --dir %s", arg, arg)
		}
	}
	return ref, err
}

func isDirectory(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.IsDir()
}

// behindFlag is the flag that a command wants before what is taken for an
// argument too many.
var behindFlag = map[string]string{"pull": "-o", "verify": "--dir", "attest": "--predicate"}

// maxArgs refuses arguments that a command does not know.
func maxArgs(c *cli.Context, n int) error {
	if c.Args().Len() <= n {
		return nil
	}
	more := strings.Join(c.Args().Slice()[n:], " ")
	if f := behindFlag[c.Command.Name]; f != "" && c.Args().Len() == n+1 {
		return usagef("too many arguments: write %s %s; mpack %s --help shows how", f, more, c.Command.Name)
	}
	return usagef("too many arguments: %s; mpack %s --help shows how", more, c.Command.Name)
}

// keyValues parses k=v flags.
func keyValues(name string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usagef("--%s %q: want KEY=VALUE", name, kv)
		}
		m[k] = v
	}
	return m, nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// say prints for a person, unless asked not to.
func say(c *cli.Context, format string, args ...any) {
	if !c.Bool("quiet") {
		fmt.Fprintf(c.App.ErrWriter, format+"\n", args...)
	}
}

// progressOf starts the progress display of a command.
func progressOf(c *cli.Context, title string) *progress {
	return newProgress(c.String("progress"), c.Bool("quiet"), os.Stderr, title)
}
