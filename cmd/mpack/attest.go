package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"mpack/signing"
)

const typeUsage = "`TYPE` of the predicate: slsaprovenance1, spdxjson, cyclonedx, openvex, vuln, custom … or a URI"

func attestCommand() *cli.Command {
	return &cli.Command{
		Name:      "attest",
		Usage:     "sign a statement about an artifact: provenance, an SBOM, a test report",
		ArgsUsage: "REF",
		Description: `The statement is about the digest that REF is resolved to. cosign
verify-attestation and policy-controller read it.

Examples:
  mpack attest --key cosign.key --predicate sbom.json --type cyclonedx registry.example.com/team/model:v3
  mpack attest --key cosign.key --predicate eval.json --type https://example.com/evaluation/v1 registry.example.com/team/model:v3`,
		Flags: flags([]cli.Flag{
			stringFlag("predicate", "what is stated, a `FILE`; - is standard input"),
			&cli.StringFlag{Name: "type", Usage: typeUsage, Value: "custom", EnvVars: env("type")},
		}, signFlags(), []cli.Flag{formatFlag(), boolFlag("quiet", "print nothing but the result", "q")}, registryFlags()),
		Action: attest,
	}
}

// maxPredicate is how many bytes of a predicate are read.
const maxPredicate = 32 << 20

func attest(c *cli.Context) error {
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	name := c.String("predicate")
	if name == "" {
		return usagef("--predicate is missing; mpack attest --help shows how")
	}
	in := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	predicate, err := io.ReadAll(io.LimitReader(in, maxPredicate+1))
	if err == nil && len(predicate) > maxPredicate {
		err = fmt.Errorf("more than %d bytes", maxPredicate)
	}
	if err != nil {
		return fmt.Errorf("read the predicate: %w", err)
	}
	r, d, err := resolved(c)
	if err != nil {
		return err
	}
	defer r.Close()
	sigs, err := signing.Attest(c.Context, subject(r, d), signing.AttestOptions{
		Signer: signer(c), Format: signatureFormat(c), PredicateType: c.String("type"), Predicate: predicate,
	})
	if err != nil {
		return err
	}
	return printSignatures(c, r, d, sigs)
}

func verifyAttestationCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify-attestation",
		Usage:     "check who attested what, and print it",
		ArgsUsage: "REF",
		Description: `Succeeds if an attestation of this type about the digest that REF is resolved to
holds. The statements that hold are printed, one a line, as JSON; what a predicate
says is for the reader to judge.

Examples:
  mpack verify-attestation --key cosign.pub --type slsaprovenance1 registry.example.com/team/model:v3 | jq .predicate`,
		Flags:  flags([]cli.Flag{stringFlag("type", typeUsage+"; default: any")}, verifyFlags(), []cli.Flag{boolFlag("quiet", "print nothing but the result", "q")}, registryFlags()),
		Action: verifyAttestation,
	}
}

func verifyAttestation(c *cli.Context) error {
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	if err := named(c); err != nil {
		return err
	}
	v := verifier(c)
	if v.Key == "" && len(v.Identities) == 0 {
		return usagef("say whose attestation: --key, or --certificate-identity with --certificate-oidc-issuer")
	}
	r, d, err := resolved(c)
	if err != nil {
		return err
	}
	defer r.Close()
	list, err := signing.VerifyAttestation(c.Context, subject(r, d), signing.AttestationOptions{Verifier: v, PredicateType: c.String("type")})
	if err != nil {
		return fmt.Errorf("verify %s: %w", r.Ref, err)
	}
	for _, a := range list {
		say(c, "verified %s, %s format%s", printable(a.PredicateType), a.Format, signedBy(a.Signature))
	}
	return printStatements(c.App.Writer, list)
}

// printStatements prints in-toto statements, one a line.
func printStatements(w io.Writer, list []signing.Attestation) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, a := range list {
		if err := e.Encode(a.Statement); err != nil {
			return err
		}
	}
	return nil
}

func attestationsCommand() *cli.Command {
	return &cli.Command{
		Name:      "attestations",
		Usage:     "list what is attested of an artifact, without checking who did",
		ArgsUsage: "REF",
		Description: `Anyone who may write to the repository can have written what is listed:
mpack verify-attestation decides. With --download the statements are printed, one a
line, as JSON.

Examples:
  mpack attestations registry.example.com/team/model:v3
  mpack attestations --download --type cyclonedx registry.example.com/team/model:v3 | jq .predicate`,
		Flags: flags([]cli.Flag{
			stringFlag("type", typeUsage+"; default: any"),
			boolFlag("download", "print the statements"),
			formatFlag(),
		}, registryFlags()),
		Action: attestations,
	}
}

func attestations(c *cli.Context) error {
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	wanted := ""
	if t := c.String("type"); t != "" {
		uri, err := signing.PredicateTypeURI(t)
		if err != nil {
			return usagef("--type: %w", err)
		}
		wanted = uri
	}
	r, d, err := resolved(c)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := signing.Attestations(c.Context, subject(r, d))
	if err != nil {
		return err
	}
	list := all[:0]
	for _, a := range all {
		if wanted == "" || a.PredicateType == wanted {
			list = append(list, a)
		}
	}
	if c.Bool("download") {
		return printStatements(c.App.Writer, list)
	}
	type attested struct {
		Type     string `json:"predicateType"`
		Format   string `json:"format"`
		Manifest string `json:"manifest"`
		Claimed  string `json:"claimedIdentity,omitempty"`
	}
	rows := make([]attested, len(list))
	for i, a := range list {
		rows[i] = attested{a.PredicateType, a.Format.String(), string(a.Manifest.Digest), a.Identity}
	}
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, rows)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, a := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", printable(a.Type), a.Format, a.Manifest, printable(a.Claimed))
	}
	return w.Flush()
}
