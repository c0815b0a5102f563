package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/oci"
	"mpack/signing"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "check who signed an artifact, and whether files on disk are what was signed",
		ArgsUsage: "[REF]",
		Description: `Succeeds if a signature of the digest that REF is resolved to holds: made by
mpack or by cosign, stored as a tag or as a referrer. The digest is printed. With
--policy the file says whose signatures and which attestations are wanted, in the
words of sigstore's policy-controller (ClusterImagePolicy).

With --dir the files of a directory are then compared with the signed artifact:
what is changed, missing or extra is named, also what a .mpackignore there hides; only
.git and .cache/huggingface are passed over. With --dir and no REF they are checked
against DIR/model.sig, an OpenSSF model signature by mpack or by model_signing.

Exit code 5 says that it does not hold; the message says why.

Examples:
  mpack verify --key cosign.pub registry.example.com/team/model:v3
  mpack verify --key cosign.pub --insecure-ignore-tlog --dir ./model registry.example.com/team/model:v3
  mpack verify --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example.com \
    registry.example.com/team/model:v3
  mpack verify --key cosign.pub --output-signature model.sig registry.example.com/team/model:v3
  mpack verify --policy policy.yaml registry.example.com/team/model:v3
  mpack verify --key cosign.pub --insecure-ignore-tlog --dir ./model`,
		Flags: flags(verifyFlags(), []cli.Flag{
			policyFlag(),
			listFlag("annotation", "`KEY=VALUE` must have been signed with the digest", "a"),
			stringFlag("dir", "compare the files of `DIR` with what was signed"),
			stringFlag("signature", "model signature of --dir; default: `FILE` DIR/model.sig"),
			stringFlag("output-signature", "write the artifact's model signature, verified, to `FILE`"),
			formatFlag(),
		}, outputFlags(), registryFlags()),
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	dir := c.String("dir")
	if dir != "" && c.Args().Len() == 0 {
		if err := ofArtifacts(c); err != nil {
			return err
		}
		return verifyDirectory(c, dir)
	}
	if c.String("signature") != "" {
		return usagef("--signature is a file beside --dir DIR without REF; what is signed of REF lies where REF does")
	}
	client, ref, err := clientFor(c)
	if err != nil {
		return err
	}
	want, err := demanded(c, client, true)
	if err != nil {
		return err
	}
	if want.signedAnn, err = keyValues("annotation", c.StringSlice("annotation")); err != nil {
		return err
	}
	if len(want.signedAnn) > 0 && want.verifier == nil {
		return usagef("--annotation says what a signature must state: say whose with --key, or --certificate-identity and --certificate-oidc-issuer")
	}
	r, d, err := resolve(c, client, ref)
	if err != nil {
		return err
	}
	defer r.Close()
	held, err := want.check(c.Context, r, d)
	if err != nil {
		return fmt.Errorf("verify %s: %w", ref, err)
	}
	if dir != "" {
		if err := compareDirectory(c, r, d, dir); err != nil {
			return fmt.Errorf("verify %s: %w", ref, err)
		}
	}
	if out := c.String("output-signature"); out != "" {
		if err := extractModelSignature(c, r, d, want.verifier, out); err != nil {
			return fmt.Errorf("verify %s: %w", ref, err)
		}
	}
	return printVerified(c, r, d, held)
}

// ofArtifacts refuses what a directory without an artifact cannot be held to.
func ofArtifacts(c *cli.Context) error {
	if err := named(c); err != nil {
		return err
	}
	binding, err := bindingPolicy()
	switch {
	case err != nil:
		return err
	case binding != "" || c.String("policy") != "":
		return usagef("a policy (--policy, %s) is about artifacts' names, and a directory has none: name the REF that the files come from, or go without", policyVariable)
	case len(c.StringSlice("annotation")) > 0:
		return usagef("--annotation is signed with an artifact's digest; a model.sig holds none: name the REF that the files come from")
	case c.String("output-signature") != "":
		return usagef("--output-signature takes the model signature from an artifact: name its REF")
	}
	return nil
}

// extractModelSignature writes the model signature that sign attached, for the
// model_signing CLI to read, if it holds and is about the artifact's files.
func extractModelSignature(c *cli.Context, r *oci.Repo, d ocispec.Descriptor, v *signing.Verifier, out string) error {
	if v == nil {
		return usagef("--output-signature needs --key, or --certificate-identity with --certificate-oidc-issuer")
	}
	a, err := r.ArtifactAt(c.Context, d)
	if err != nil {
		return err
	}
	ix, err := a.Index(c.Context)
	if err != nil {
		return err
	}
	files, _ := fileDigests(ix)
	bundles, err := signing.ModelBundles(c.Context, subject(r, d))
	if err != nil {
		return err
	}
	why := error(&signing.VerificationError{Subject: string(d.Digest), Reason: signing.NoSignature, Err: errors.New("there is no model signature")})
	for _, b := range bundles {
		var m *signing.Model
		if m, why = signing.VerifyModel(c.Context, b, *v); why == nil {
			why = m.Compare(files)
		}
		if why == nil {
			return os.WriteFile(out, b, 0o644)
		}
	}
	return why
}

// compareDirectory checks the files of a directory against an artifact.
func compareDirectory(c *cli.Context, r *oci.Repo, d ocispec.Descriptor, dir string) error {
	a, err := r.ArtifactAt(c.Context, d)
	if err != nil {
		return err
	}
	want, err := a.Index(c.Context)
	if err != nil {
		return err
	}
	got, err := hashDirectory(c, dir, true, want)
	if err != nil {
		return err
	}
	diff := new(signing.ModelDifference)
	for _, f := range layout.Compare(want, got).Files {
		switch f.Change {
		case layout.Added:
			if f.Path != signing.ModelSignatureFile {
				diff.Extra = append(diff.Extra, f.Path)
			}
		case layout.Removed:
			diff.Missing = append(diff.Missing, f.Path)
		case layout.Renamed:
			diff.Extra, diff.Missing = append(diff.Extra, f.Path), append(diff.Missing, f.From)
		default:
			diff.Changed = append(diff.Changed, f.Path)
		}
	}
	if len(diff.Changed)+len(diff.Missing)+len(diff.Extra) > 0 {
		return &signing.VerificationError{Subject: dir, Reason: signing.ContentMismatch, Err: diff}
	}
	return nil
}

// verifyDirectory checks the files of a directory against a model signature.
func verifyDirectory(c *cli.Context, dir string) error {
	v := verifier(c)
	if v.Key == "" && v.Identities == nil {
		return usagef("say whose signature: --key, or --certificate-identity with --certificate-oidc-issuer")
	}
	file := signatureFile(c, dir)
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("verify %s: %w", dir, &signing.VerificationError{Subject: file, Reason: signing.NoSignature, Err: err})
	}
	if err != nil {
		return err
	}
	defer f.Close()
	const most = 256 << 20 // bytes: a million files
	bundle, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	m, err := signing.VerifyModel(c.Context, bundle, v)
	if err != nil {
		return fmt.Errorf("verify %s: %w", dir, err)
	}
	ix, err := hashDirectory(c, dir, true, nil)
	if err != nil {
		return err
	}
	files, _ := fileDigests(ix)
	if name, err := filepath.Rel(dir, file); err == nil && filepath.IsLocal(name) {
		name = filepath.ToSlash(name)
		kept := files[:0]
		for _, f := range files {
			if f.Path != name { // the signature does not sign itself
				kept = append(kept, f)
			}
		}
		files = kept
	}
	if err := m.Compare(files); err != nil {
		return fmt.Errorf("verify %s: %w", dir, err)
	}
	var unsigned []string
	for _, p := range m.Ignored {
		if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(p))); err == nil && p != signing.ModelSignatureFile {
			unsigned = append(unsigned, printable(p))
		}
	}
	if len(unsigned) > 0 {
		say(c, "warning: left out when it was signed, so not checked: %s", strings.Join(unsigned, ", "))
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Directory  string          `json:"directory"`
			Files      int             `json:"files"`
			Ignored    []string        `json:"ignored,omitempty"`
			Signatures []signatureJSON `json:"signatures"`
		}{dir, len(m.Files), m.Ignored, signaturesJSON([]signing.Signature{m.Signature})})
	}
	say(c, "verified %s files of %s%s", humanCount(int64(len(m.Files))), dir, signedBy(m.Signature))
	return nil
}

// printVerified says why it holds; on standard output the digest, or JSON.
func printVerified(c *cli.Context, r *oci.Repo, d ocispec.Descriptor, held *verified) error {
	type match struct {
		Policy    string `json:"policy"`
		Authority string `json:"authority"`
		Static    bool   `json:"static,omitempty"`
	}
	var matches []match
	if held.Decision != nil {
		for _, m := range held.Decision.Matches {
			matches = append(matches, match{m.Policy, m.Authority, m.Static})
		}
		for _, w := range held.Decision.Warnings {
			say(c, "warning: %s", oneLine(w))
		}
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Reference  string          `json:"reference"`
			Digest     string          `json:"digest"`
			Signatures []signatureJSON `json:"signatures,omitempty"`
			Policies   []match         `json:"policies,omitempty"`
		}{r.Ref.Name() + "@" + string(d.Digest), string(d.Digest), signaturesJSON(held.Signatures), matches})
	}
	for _, s := range held.Signatures {
		say(c, "verified %s@%s, %s format%s", r.Ref.Name(), d.Digest, s.Format, signedBy(s))
	}
	for _, m := range matches {
		how := "holds"
		if m.Static {
			how = "lets everything through"
		}
		say(c, "policy %s %s, by authority %s", printable(m.Policy), how, printable(m.Authority))
	}
	_, err := fmt.Fprintln(c.App.Writer, d.Digest)
	return err
}
