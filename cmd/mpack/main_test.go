package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// commands calls f for every command and subcommand.
func commands(cmds []*cli.Command, before string, f func(path string, c *cli.Command)) {
	for _, c := range cmds {
		path := strings.TrimSpace(before + " " + c.Name)
		f(path, c)
		commands(c.Subcommands, path, f)
	}
}

func TestEveryCommandExplainsItselfByExamples(t *testing.T) {
	commands(newApp().Commands, "", func(path string, c *cli.Command) {
		if c.Usage == "" || !strings.Contains(c.Description, "Examples:\n") || !strings.Contains(c.Description, "mpack "+path) {
			t.Errorf("mpack %s: no usage, or no example of it in\n%s", path, c.Description)
		}
		if len(c.Subcommands) == 0 && c.ArgsUsage == "" {
			t.Errorf("mpack %s: its help does not say what arguments it takes", path)
		}
	})
}

// README says so.
func TestEveryFlagIsAVariableToo(t *testing.T) {
	commands(newApp().Commands, "", func(path string, c *cli.Command) {
		for _, f := range c.Flags {
			name := f.Names()[0]
			if path == "serve" && name == "store" { // MPACK_STORE is that of pulls
				continue
			}
			d, ok := f.(cli.DocGenerationFlag)
			if !ok || !slices.Equal(d.GetEnvVars(), env(name)) || d.GetUsage() == "" {
				t.Errorf("mpack %s --%s: variables %v, usage %q", path, name, d.GetEnvVars(), d.GetUsage())
			}
		}
	})
}

func TestFlagsMayFollowArguments(t *testing.T) {
	for line, want := range map[string]string{
		"pull REF -o DIR":                       "pull -o DIR -- REF",
		"pull -o DIR REF":                       "pull -o DIR -- REF",
		"push -q REF DIR --level=2":             "push -q --level=2 -- REF DIR",
		"push REF --include -a DIR":             "push --include -a -- REF DIR",
		"cat REF -- -leading-dash":              "cat -- REF -leading-dash",
		"attest --predicate - REF":              "attest --predicate - -- REF",
		"store prune --store DIR":               "store prune --store DIR",
		"key generate":                          "key generate",
		"no-such-command":                       "-- no-such-command",
		"rm REF " + completionFlag:              "rm REF " + completionFlag,
		"rm REF -- " + completionFlag:           "rm REF " + completionFlag,
		"push REF --annotation k=v DIR --debug": "push --annotation k=v --debug -- REF DIR",
	} {
		got := reorder(newApp(), strings.Fields("mpack "+line))
		if strings.Join(got[1:], " ") != want {
			t.Errorf("%s: %q, want %s", line, got[1:], want)
		}
	}
}

func TestErrorsHoldNoSecretsAndSteerNoTerminal(t *testing.T) {
	for in, want := range map[string]string{
		`Put "https://reg.example.com/v2/m/blobs/uploads/1?_state=secret&digest=sha256:0": EOF`: `Put "https://reg.example.com/v2/m/blobs/uploads/1?…": EOF`,
		"denied: \x1b]0;title\x07\n now": "denied: \uFFFD]0;title\uFFFD now",
		"is it there? yes":               "is it there? yes",
	} {
		if got := oneLine(errors.New(in)); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestWhatToDoIsSaid(t *testing.T) {
	for _, c := range []struct {
		err  error
		hint string
	}{
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "--ca-file"},
		{&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: new(x509.Certificate), Host: "registry.example.com"}}, "as its certificate has it"},
		{&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}, "renewed"},
		{http.ErrSchemeMismatch, "--plain-http"},
		{&errcode.ErrorResponse{StatusCode: http.StatusBadRequest, URL: &url.URL{Scheme: "http"}}, "leave out --plain-http"},
		{&errcode.ErrorResponse{StatusCode: http.StatusBadRequest, URL: &url.URL{Scheme: "https"}}, ""},
	} {
		err := fmt.Errorf("push: %w", &url.Error{Op: "Get", URL: "/", Err: c.err})
		if got := hintFor(err); !strings.Contains(got, c.hint) || (got == "") != (c.hint == "") {
			t.Errorf("%v: %q", err, got)
		}
	}
}

func TestMistakesAreAnsweredWithWhatToDo(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("models/m", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"pull example.com/m:v1 ./out":            "write -o ./out",
		"pull example.com/m:v1 a b":              "mpack pull --help",
		"verify --key k example.com/m:v1 models": "write --dir models",
		"verify --key k models":                  "write --dir models",
		"sign --key k ./models":                  "write --dir ./models",
		"attest example.com/m:v1 predicate.json": "write --predicate predicate.json",
		"push models/m example.com/m:v1":         "mpack push example.com/m:v1 models/m",
		"push ./models":                          "mpack push REF ./models",
		"push example.com/m:v1 file":             "no directory",
		"push oci://example.com/m:v1 models":     "without oci://",
		"inspect https://example.com/m:v1":       "leave out https://",
		"tag example.com/m:v1 example.com/m:v2":  "mpack copy",
		"rm example.com/m":                       "mpack tags example.com/m",
	} {
		if code, _, errs := mpack(t, strings.Fields(line)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("mpack %s: exit code %d: %s", line, code, errs)
		}
	}
}
