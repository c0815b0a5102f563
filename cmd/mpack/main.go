// Command mpack packs machine-learning models and corpora as OCI artifacts,
// signs them, and moves them to and from any container registry.
//
// Each command is one file: it turns flags into one call of package oci or
// signing and prints what came of it.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"mpack/layout"
	"mpack/layout/tree"
	"mpack/oci"
	"mpack/signing"
)

// Exit codes, part of the interface.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitAuth        = 4
	exitVerify      = 5
	exitInterrupted = 130
)

// version is set when a release is built.
var version = ""

func main() {
	// A pipeline of pooled buffers makes little garbage; this keeps what it makes from doubling the heap.
	debug.SetGCPercent(30)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the process at once
	}()
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp()
	app.Reader, app.Writer, app.ErrWriter = stdin, stdout, stderr
	err := app.RunContext(ctx, reorder(app, args))
	if err == nil {
		return exitOK
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		fmt.Fprintln(stderr, "mpack: interrupted; run the same command again to go on from here")
		return code
	}
	fmt.Fprintln(stderr, "mpack: "+oneLine(err))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(stderr, "  "+hint)
	}
	return code
}

func newApp() *cli.App {
	app := &cli.App{
		Name:                 "mpack",
		Usage:                "models and corpora as signed OCI artifacts, in the registry you already run",
		Version:              buildVersion(),
		HideVersion:          true,
		EnableBashCompletion: true,
		Description: `A reference is REGISTRY/REPOSITORY:TAG, REGISTRY/REPOSITORY@sha256:…,
oci:DIR:TAG (an OCI image layout, no server needed) or oci-archive:FILE:TAG.

Examples:
  mpack push registry.example.com/team/model:v3 ./model
  mpack pull registry.example.com/team/model:v3 -o ./model
  mpack inspect registry.example.com/team/model:v3
  mpack verify --key cosign.pub registry.example.com/team/model:v3

Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 authentication,
5 verification failed, 130 interrupted.`,
		Commands: []*cli.Command{
			pushCommand(), pullCommand(),
			inspectCommand(), lsCommand(), catCommand(), diffCommand(),
			copyCommand(), tagCommand(), tagsCommand(), rmCommand(),
			logCommand(), gcCommand(), repackCommand(),
			keyCommand(), signCommand(), verifyCommand(),
			attestCommand(), verifyAttestationCommand(), attestationsCommand(),
			storeCommand(), loginCommand(), logoutCommand(),
			serveCommand(), demoCommand(), versionCommand(), completionCommand(),
		},
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
		OnUsageError:   usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("no such command: %s; mpack --help lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, cmd := range app.Commands {
		setUsageError(cmd)
	}
	return app
}

func setUsageError(cmd *cli.Command) {
	cmd.OnUsageError = usageError
	if len(cmd.Subcommands) > 0 {
		cmd.Action = noSubcommand
	}
	for _, sub := range cmd.Subcommands {
		setUsageError(sub)
	}
}

// noSubcommand is what a command does that has subcommands, if none of them is
// named.
func noSubcommand(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("no such command: %s %s; %s --help lists them", c.Command.Name, c.Args().First(), c.Command.HelpName)
	}
	return cli.ShowSubcommandHelp(c)
}

// errUsage is a command line that cannot be understood.
type errUsage struct{ error }

func usagef(format string, args ...any) error { return errUsage{fmt.Errorf(format, args...)} }

func usageError(c *cli.Context, err error, _ bool) error {
	return errUsage{fmt.Errorf("%w; %s --help shows how", err, c.Command.HelpName)}
}

// exitCode maps an error to the exit code that scripts decide on.
func exitCode(ctx context.Context, err error) int {
	var usage errUsage
	var help cli.ExitCoder // of urfave/cli's own command, about what there is not
	switch {
	case errors.As(err, &usage), errors.As(err, &help), errors.Is(err, oci.ErrReference):
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, layout.ErrCorrupt), errors.Is(err, oci.ErrCorrupt), errors.Is(err, signing.ErrNotVerified):
		return exitVerify
	case oci.IsAuth(err):
		return exitAuth
	case errors.Is(err, oci.ErrNotFound), errors.Is(err, layout.ErrNotThere):
		return exitNotFound
	}
	return exitFailure
}

// hintFor says what to do next where that is known.
func hintFor(err error) string {
	var dns *net.DNSError
	var refused *signing.VerificationError
	var name x509.HostnameError
	var cert x509.CertificateInvalidError
	var answer *errcode.ErrorResponse
	switch {
	case oci.IsAuth(err):
		return "log in with mpack login REGISTRY, or pass -u and --password-stdin; if you are logged in, the account may lack the right"
	case errors.As(err, &refused):
		return hintForRefusal(refused.Reason)
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full; free room and run the same command again, what has arrived is kept"
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return "check that the directory can be written by this user"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there; check the registry's host name and port"
	case errors.As(err, &dns) && !strings.Contains(err.Error(), "trust root"):
		return "check the registry's host name; a local layout is written oci:DIR:TAG"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the registry speaks plain HTTP: pass --plain-http"
	case strings.Contains(err.Error(), "certificate signed by unknown authority"):
		return "pass --ca-file with the registry's CA certificate"
	case errors.As(err, &name):
		return "write the registry's name as its certificate has it"
	case errors.As(err, &cert) && cert.Reason == x509.Expired:
		return "the registry's certificate must be renewed, unless the clock of this machine is wrong"
	case errors.As(err, &answer) && answer.StatusCode == http.StatusBadRequest && answer.URL.Scheme == "http":
		return "the registry may speak TLS: leave out --plain-http"
	case errors.Is(err, tree.ErrChanged):
		return "something writes to the directory; pack it again when that is done"
	case errors.Is(err, oci.ErrNoStore):
		return "mpack pull --store DIR makes one"
	case errors.Is(err, oci.ErrNoMatch):
		return "mpack ls REF lists what there is"
	case errors.Is(err, oci.ErrNotFound):
		return "mpack tags REPOSITORY lists what there is"
	}
	return ""
}

// hintForRefusal says what may be done about what does not verify, where that
// is not to trust it all the same.
func hintForRefusal(r signing.Reason) string {
	switch r {
	case signing.NoSignature:
		return "mpack sign signs it; if it was signed elsewhere, mpack copy brings the signature along"
	case signing.NoLogEntry:
		return "it was signed with --tlog-upload=false: --insecure-ignore-tlog takes it as it is, --use-signed-timestamps by its timestamp"
	case signing.NoPolicy:
		return "a policy with a glob that matches the reference must let it pass; layouts and archives have no name to match"
	case signing.NoAttestation:
		return "mpack attestations lists what is attested"
	}
	return ""
}

// urlQuery is the query of a URL, which may be as good as a password: that of
// an upload, or of storage that a registry redirects to.
var urlQuery = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`)

// oneLine keeps an error to one line without secrets, and from steering the
// terminal, as a registry's page may hold anything.
func oneLine(err error) string {
	s := printable(strings.Join(strings.Fields(err.Error()), " "))
	s = urlQuery.ReplaceAllString(s, "$1?…")
	if len(s) > 2000 {
		s = s[:2000] + "…"
	}
	return s
}

// completionFlag ends the command lines that the completion scripts ask about.
const completionFlag = "--generate-bash-completion"

// reorder moves flags before arguments, so that both `pull REF -o DIR` and
// `pull -o DIR REF` are understood. What follows "--" stays as it is.
func reorder(app *cli.App, args []string) []string {
	if args[len(args)-1] == completionFlag {
		// Of a line that is being typed the end counts; urfave/cli completes nothing behind a "--".
		return slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "--" })
	}
	cmds, flags := app.Commands, app.Flags
	i := 1
	for i < len(args) {
		var next *cli.Command
		for _, c := range cmds {
			if c.HasName(args[i]) {
				next = c
			}
		}
		if next == nil {
			break
		}
		cmds, flags = next.Subcommands, next.Flags
		i++
	}
	out, rest := append([]string{}, args[:i]...), []string{}
	for ; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			rest = append(rest, a)
			continue
		}
		out = append(out, a)
		if name := strings.TrimLeft(a, "-"); !strings.Contains(a, "=") && takesValue(flags, name) && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	if len(rest) > 0 {
		out = append(append(out, "--"), rest...)
	}
	return out
}

func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				_, isBool := f.(*cli.BoolFlag)
				return !isBool
			}
		}
	}
	return false
}
