package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
	"oras.land/oras-go/v2"

	"mpack/oci"
	"mpack/signing"
)

// signFlags say with what is signed; names and meanings are cosign's.
func signFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("key", "private `KEY`: a file, env://VAR, k8s://NAMESPACE/SECRET, pkcs11: or awskms://, azurekms://, gcpkms://, hashivault://; none: keyless"),
		&cli.StringFlag{Name: "signature-format", Usage: "`legacy` (a tag, which every verifier reads), bundle (an OCI 1.1 referrer) or both", Value: "legacy",
			EnvVars: env("signature-format"), Action: oneOf("signature-format", "legacy", "bundle", "both")},
		stringFlag("certificate", "certificate of the key by an authority of your own, a PEM `FILE`"),
		stringFlag("certificate-chain", "the authority's certificates, the root last, a PEM `FILE`"),
		&cli.BoolFlag{Name: "tlog-upload", Usage: "enter the signature in the transparency log, for everyone to see", Value: true, EnvVars: env("tlog-upload")},
		&cli.StringFlag{Name: "rekor-url", Usage: "transparency log at `URL`", Value: signing.PublicRekorURL, EnvVars: env("rekor-url")},
		&cli.StringFlag{Name: "fulcio-url", Usage: "authority at `URL` that certifies identities, for keyless signing", Value: signing.PublicFulcioURL, EnvVars: env("fulcio-url")},
		stringFlag("timestamp-server-url", "RFC 3161 timestamp authority at `URL`"),
		stringFlag("identity-token", "OIDC `TOKEN` or a file that holds one; default: what GitHub, GitLab, Kubernetes … offer"),
		stringFlag("oidc-provider", "take the token from the provider of this `NAME` alone"),
	}
}

func signer(c *cli.Context) signing.Signer {
	s := signing.Signer{
		Key:              c.String("key"),
		Password:         askPassword(c),
		Certificate:      c.String("certificate"),
		CertificateChain: c.String("certificate-chain"),
		FulcioURL:        c.String("fulcio-url"),
		IdentityToken:    c.String("identity-token"),
		OIDCProvider:     c.String("oidc-provider"),
		TimestampURL:     c.String("timestamp-server-url"),
	}
	if c.Bool("tlog-upload") {
		s.RekorURL = c.String("rekor-url")
	}
	return s
}

func signatureFormat(c *cli.Context) signing.Format {
	f, _ := signing.ParseFormat(c.String("signature-format")) // oneOf has seen to it
	return f
}

// passwordVariable is cosign's.
const passwordVariable = "COSIGN_PASSWORD"

// askPassword finds the password of a key where cosign does, but reads it from
// a terminal only: what a pipe holds may be meant for something else. It asks
// once, however often the key is opened.
func askPassword(c *cli.Context) signing.Password {
	var answer []byte
	return func(confirm bool) ([]byte, error) {
		if p, ok := os.LookupEnv(passwordVariable); ok {
			return []byte(p), nil
		}
		if answer != nil {
			return bytes.Clone(answer), nil
		}
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return nil, fmt.Errorf("no terminal to ask for the key's password on: set %s, to nothing for a key without one", passwordVariable)
		}
		ask := func(what string) ([]byte, error) {
			fmt.Fprint(c.App.ErrWriter, what)
			b, err := term.ReadPassword(int(os.Stdin.Fd()))
			fmt.Fprintln(c.App.ErrWriter)
			return b, err
		}
		p, err := ask("Password of the key: ")
		if err == nil && confirm {
			var again []byte
			if again, err = ask("The same again: "); err == nil && string(again) != string(p) {
				err = errors.New("the two passwords differ")
			}
		}
		if err != nil {
			return nil, err
		}
		answer = append([]byte{}, p...) // not nil, even if empty
		return p, nil
	}
}

// verifyFlags say whose signature is wanted; names and meanings are cosign's.
func verifyFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("key", "public `KEY`: a PEM file, env://VAR, k8s://NAMESPACE/SECRET, pkcs11: or a KMS URI"),
		stringFlag("certificate-identity", "keyless: the signer's certificate must be for `NAME`"),
		stringFlag("certificate-identity-regexp", "keyless: … for a name that matches `REGEXP`"),
		stringFlag("certificate-oidc-issuer", "keyless: who vouched for the name, a `URL`"),
		stringFlag("certificate-oidc-issuer-regexp", "keyless: … a URL that matches `REGEXP`"),
		stringFlag("certificate-chain", "trust the authority of your own in `FILE` (PEM, the root last)"),
		stringFlag("ca-roots", "trust the root certificates in `FILE` (PEM)"),
		stringFlag("ca-intermediates", "intermediate certificates below --ca-roots in `FILE` (PEM)"),
		stringFlag("trusted-root", "trusted_root.json in `FILE`, instead of sigstore's own by network"),
		stringFlag("rekor-url", "ask the transparency log at `URL` for entries that are not stored with a signature"),
		stringFlag("timestamp-certificate-chain", "trust the timestamp authority in `FILE` (PEM, leaf to root)"),
		boolFlag("use-signed-timestamps", "take the time of signing from a timestamp authority"),
		boolFlag("insecure-ignore-sct", "take certificates that no certificate transparency log has seen"),
		boolFlag("insecure-ignore-tlog", "take signatures that no transparency log has seen"),
		boolFlag("offline", "ask no transparency log"),
	}
}

func policyFlag() cli.Flag {
	return stringFlag("policy", "hold to the ClusterImagePolicies in `FILE`; those of the variable bind every pull, beside any of the flag, and an empty variable is an error")
}

func verifier(c *cli.Context) signing.Verifier {
	v := signing.Verifier{
		Key:                       c.String("key"),
		CertificateChain:          c.String("certificate-chain"),
		CARoots:                   c.String("ca-roots"),
		CAIntermediates:           c.String("ca-intermediates"),
		TrustedRoot:               c.String("trusted-root"),
		RekorURL:                  c.String("rekor-url"),
		TimestampCertificateChain: c.String("timestamp-certificate-chain"),
		UseSignedTimestamps:       c.Bool("use-signed-timestamps"),
		InsecureIgnoreSCT:         c.Bool("insecure-ignore-sct"),
		InsecureIgnoreTlog:        c.Bool("insecure-ignore-tlog"),
		Offline:                   c.Bool("offline"),
	}
	id := signing.Identity{
		Subject: c.String("certificate-identity"), SubjectRegExp: c.String("certificate-identity-regexp"),
		Issuer: c.String("certificate-oidc-issuer"), IssuerRegExp: c.String("certificate-oidc-issuer-regexp"),
	}
	if id != (signing.Identity{}) {
		v.Identities = []signing.Identity{id}
	}
	return v
}

// demand is what the command line and MPACK_POLICY want to hold of an artifact.
type demand struct {
	client    *oci.Client
	verifier  *signing.Verifier // nil: no signer is named
	policies  []*signing.Policy // all must let it pass
	signedAnn map[string]string
	offline   bool
	root      string
}

// policyVariable binds every pull on a machine.
var policyVariable = env("policy")[0]

// bindingPolicy returns the file that policyVariable names. That it is there
// but empty, as where a template's value is missing, must not open a door.
func bindingPolicy() (string, error) {
	file, ok := os.LookupEnv(policyVariable)
	if ok && file == "" {
		return "", usagef("%s is empty: let it name a policy file, or unset it to go without", policyVariable)
	}
	return file, nil
}

// named checks that the flags which say whose signature is wanted make sense
// together.
func named(c *cli.Context) error {
	for _, f := range []string{"key", "policy", "certificate-identity", "certificate-identity-regexp", "certificate-oidc-issuer", "certificate-oidc-issuer-regexp"} {
		if c.IsSet(f) && c.String(f) == "" { // as where a script's variable is not set
			return usagef("--%s (%s) is empty: give it a value, or leave it out", f, env(f)[0])
		}
	}
	identity := c.String("certificate-identity") != "" || c.String("certificate-identity-regexp") != ""
	issuer := c.String("certificate-oidc-issuer") != "" || c.String("certificate-oidc-issuer-regexp") != ""
	switch {
	case identity != issuer:
		return usagef("--certificate-identity and --certificate-oidc-issuer go together: anybody may vouch for any name")
	case identity && c.String("key") != "":
		return usagef("--key and --certificate-identity exclude each other: say which of them must have signed")
	}
	return nil
}

// demanded reads the flags. asked tells that something must be demanded.
func demanded(c *cli.Context, client *oci.Client, asked bool) (*demand, error) {
	binding, err := bindingPolicy()
	if err != nil {
		return nil, err
	}
	if err := named(c); err != nil {
		return nil, err
	}
	d := &demand{client: client, offline: c.Bool("offline"), root: c.String("trusted-root")}
	v := verifier(c)
	if v.Key != "" || len(v.Identities) > 0 {
		d.verifier = &v
	}
	file := c.String("policy")
	if binding == file {
		binding = "" // the flag has it from there
	}
	for _, file := range []string{file, binding} {
		if file == "" {
			continue
		}
		p, err := signing.LoadPolicy(file)
		if err != nil {
			return nil, err
		}
		d.policies = append(d.policies, p)
	}
	if asked && d.verifier == nil && d.policies == nil {
		return nil, usagef("say whose signature: --key, --certificate-identity with --certificate-oidc-issuer, or --policy; mpack verify --help shows how")
	}
	return d, nil
}

// gate returns what must let an artifact pass before it is read, nil where
// nothing is demanded.
func gate(c *cli.Context, client *oci.Client) (func(context.Context, *oci.Repo, ocispec.Descriptor) error, error) {
	d, err := demanded(c, client, c.Bool("verify"))
	if err != nil || d.verifier == nil && d.policies == nil {
		return nil, err
	}
	return func(ctx context.Context, r *oci.Repo, at ocispec.Descriptor) error {
		held, err := d.check(ctx, r, at)
		if err != nil {
			return err
		}
		if held.Decision != nil {
			for _, w := range held.Decision.Warnings {
				say(c, "warning: %s", oneLine(w))
			}
		}
		return nil
	}, nil
}

// verified is why an artifact may pass.
type verified struct {
	Signatures []signing.Signature
	Decision   *signing.Decision // nil without a policy
}

// check decides on what r was resolved to.
func (d *demand) check(ctx context.Context, r *oci.Repo, at ocispec.Descriptor) (*verified, error) {
	s := subject(r, at)
	out := new(verified)
	if d.verifier != nil {
		sigs, err := signing.Verify(ctx, s, signing.VerifyOptions{Verifier: *d.verifier, Annotations: d.signedAnn})
		if err != nil {
			return nil, err
		}
		out.Signatures = sigs
	}
	if len(d.policies) > 0 && r.Ref.Scheme != oci.Registry {
		// oci:model@sha256:… could be read as an image of a registry, which a glob may let pass.
		return nil, &signing.VerificationError{Subject: r.Ref.String(), Reason: signing.NoPolicy, Err: errors.New("policies are about names in registries")}
	}
	for _, p := range d.policies {
		o := signing.CheckOptions{Reference: r.Ref.String(), TrustedRoot: d.root, Offline: d.offline, Source: d.source}
		decision, err := p.Check(ctx, s, o)
		if err != nil {
			return nil, err
		}
		if out.Decision == nil {
			out.Decision = new(signing.Decision)
		}
		out.Decision.Matches = append(out.Decision.Matches, decision.Matches...)
		out.Decision.Warnings = append(out.Decision.Warnings, decision.Warnings...)
	}
	return out, nil
}

// source opens a repository in which a policy says that signatures lie.
func (d *demand) source(ctx context.Context, repository string) (oras.GraphTarget, error) {
	ref, err := oci.ParseRepository(repository)
	if err != nil {
		return nil, err
	}
	r, err := d.client.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	return r.Target(), nil
}

// subject is what is signed of what r was resolved to.
func subject(r *oci.Repo, at ocispec.Descriptor) signing.Subject {
	return signing.Subject{Repository: r.Ref.Name(), Descriptor: at, Target: r.Target()}
}
