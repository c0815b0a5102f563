package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"mpack/layout"
	"mpack/layout/tree"
	"mpack/oci"
	"mpack/signing"
)

func signCommand() *cli.Command {
	return &cli.Command{
		Name:      "sign",
		Usage:     "sign an artifact as cosign does, or the files of a directory",
		ArgsUsage: "REF",
		Description: `Signs the digest that REF is resolved to, never the tag; of an index also what is
in it. cosign verify, policy-controller and Kyverno accept the signature. An
OpenSSF model signature over the files' SHA-256 digests is attached beside it.

With --dir, and no REF, the files of a directory are signed and the model
signature is written to DIR/model.sig, where the model_signing CLI looks for it.

Without --key the signature is keyless: Fulcio certifies the identity that an
OIDC token states. A signature goes into the transparency log at --rekor-url,
which everyone can read, unless --tlog-upload=false.

Examples:
  mpack sign --key cosign.key registry.example.com/team/model:v3
  mpack sign --key cosign.key --tlog-upload=false -a build=417 registry.example.com/team/model:v3
  mpack sign registry.example.com/team/model:v3       # keyless, in CI
  mpack sign --key cosign.key --dir ./model`,
		Flags: flags(signFlags(), []cli.Flag{
			listFlag("annotation", "sign `KEY=VALUE` with the digest", "a"),
			stringFlag("dir", "sign the files of `DIR` instead of an artifact"),
			stringFlag("signature", "write the signature of --dir to `FILE`; default: DIR/model.sig"),
			formatFlag(),
		}, outputFlags(), registryFlags()),
		Action: sign,
	}
}

func sign(c *cli.Context) error {
	if dir := c.String("dir"); dir != "" {
		return signDirectory(c, dir)
	}
	if err := maxArgs(c, 1); err != nil {
		return err
	}
	if c.String("signature") != "" {
		return usagef("--signature is where the signature of --dir goes; that of REF goes where REF is")
	}
	annotations, err := keyValues("annotation", c.StringSlice("annotation"))
	if err != nil {
		return err
	}
	r, d, err := resolved(c)
	if err != nil {
		return err
	}
	defer r.Close()
	sigs, err := signArtifact(c, r, d, signer(c), annotations)
	if err != nil {
		return err
	}
	return printSignatures(c, r, d, sigs)
}

// signArtifact signs a digest and, of an artifact of mpack, its files.
func signArtifact(c *cli.Context, r *oci.Repo, d ocispec.Descriptor, by signing.Signer, annotations map[string]string) ([]signing.Signature, error) {
	s := subject(r, d)
	sigs, err := signing.Sign(c.Context, s, signing.SignOptions{Signer: by, Format: signatureFormat(c), Annotations: annotations, Recursive: true})
	if err != nil {
		return nil, err
	}
	a, err := r.ArtifactAt(c.Context, d)
	if errors.Is(err, oci.ErrNotArtifact) {
		return sigs, nil
	}
	if err != nil {
		return nil, err
	}
	ix, err := a.Index(c.Context)
	if err != nil {
		return nil, err
	}
	files, linked := fileDigests(ix)
	bundle, err := signing.SignModel(c.Context, r.Ref.Base(), files, signing.ModelOptions{Signer: by, FollowedLinks: linked})
	if err != nil {
		return nil, err
	}
	_, err = signing.AttachModel(c.Context, s, bundle)
	return sigs, err
}

// fileDigests lists the files of an index as a model signature has them:
// symlinks to files are signed as what they lead to, as linked tells.
func fileDigests(ix *layout.Index) (files []signing.FileDigest, linked bool) {
	for i := range ix.Files {
		f := &ix.Files[i]
		to, err := ix.File(f.Path)
		if err != nil || !to.Regular() {
			continue // a directory, or a link to one, whose files are listed by themselves
		}
		linked = linked || f != to
		files = append(files, signing.FileDigest{Path: f.Path, SHA256: to.SHA256})
	}
	return files, linked
}

// hashDirectory hashes the files of a directory as push would pack them or, if
// strangers may have put some there, also those that its .mpackignore hides.
// What they are likely to be may be known.
func hashDirectory(c *cli.Context, dir string, strangers bool, known *layout.Index) (*layout.Index, error) {
	return readDirectory(c, dir, tree.Options{Strangers: strangers}, func(ctx context.Context, t *tree.Tree, p layout.Progress) (*layout.Index, error) {
		return layout.HashFiles(ctx, t, known, p)
	})
}

// readDirectory has read make the index of a directory, and shows how far it is.
func readDirectory(c *cli.Context, dir string, o tree.Options, read func(context.Context, *tree.Tree, layout.Progress) (*layout.Index, error)) (*layout.Index, error) {
	t, err := tree.Walk(c.Context, dir, o)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	p := progressOf(c, hashing)
	defer p.Done()
	return read(c.Context, t, p.Func())
}

func signDirectory(c *cli.Context, dir string) error {
	if c.Args().Present() {
		return usagef("--dir signs a directory's files, and no artifact: leave out %s, or --dir", c.Args().First())
	}
	if len(c.StringSlice("annotation")) > 0 {
		return usagef("--annotation is signed with an artifact's digest; the signature of --dir holds none")
	}
	ix, err := hashDirectory(c, dir, false, nil)
	if err != nil {
		return err
	}
	files, linked := fileDigests(ix)
	name, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	bundle, err := signing.SignModel(c.Context, filepath.Base(name), files, signing.ModelOptions{Signer: signer(c), FollowedLinks: linked})
	if err != nil {
		return err
	}
	out := signatureFile(c, dir)
	if err := os.WriteFile(out, bundle, 0o644); err != nil {
		return fmt.Errorf("write the signature: %w", err)
	}
	say(c, "signed %s files of %s", humanCount(int64(len(files))), dir)
	_, err = fmt.Fprintln(c.App.Writer, out)
	return err
}

func signatureFile(c *cli.Context, dir string) string {
	if f := c.String("signature"); f != "" {
		return f
	}
	return filepath.Join(dir, signing.ModelSignatureFile)
}

// signatureJSON is a signature as commands print it.
type signatureJSON struct {
	Format      string            `json:"format"`
	Manifest    string            `json:"manifest"`
	Identity    string            `json:"identity,omitempty"`
	Issuer      string            `json:"issuer,omitempty"`
	LogIndex    *int64            `json:"logIndex,omitempty"`
	Time        string            `json:"time,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func signaturesJSON(sigs []signing.Signature) []signatureJSON {
	out := make([]signatureJSON, len(sigs))
	for i, s := range sigs {
		out[i] = signatureJSON{Format: s.Format.String(), Manifest: string(s.Manifest.Digest), Identity: s.Identity, Issuer: s.Issuer, Annotations: s.Annotations}
		if s.LogIndex >= 0 {
			out[i].LogIndex = &s.LogIndex
		}
		if !s.Time.IsZero() {
			out[i].Time = s.Time.Format(time.RFC3339)
		}
	}
	return out
}

// printSignatures says what was signed; on standard output the digest, or JSON.
func printSignatures(c *cli.Context, r *oci.Repo, d ocispec.Descriptor, sigs []signing.Signature) error {
	ref := r.Ref.Name() + "@" + string(d.Digest)
	if c.String("format") == "json" {
		return printJSON(c.App.Writer, struct {
			Reference  string          `json:"reference"`
			Digest     string          `json:"digest"`
			Signatures []signatureJSON `json:"signatures"`
		}{ref, string(d.Digest), signaturesJSON(sigs)})
	}
	for _, s := range sigs {
		say(c, "signed %s, %s format%s", ref, s.Format, signedBy(s))
	}
	_, err := fmt.Fprintln(c.App.Writer, d.Digest)
	return err
}

// signedBy says who signed and where that is on record, as far as is known.
func signedBy(s signing.Signature) string {
	text := ""
	if s.Identity != "" {
		text += ", by " + printable(s.Identity) + " (" + printable(s.Issuer) + ")"
	}
	if s.LogIndex >= 0 {
		text += fmt.Sprintf(", entry %d of the transparency log", s.LogIndex)
	}
	if !s.Time.IsZero() {
		text += ", at " + s.Time.Format(time.RFC3339)
	}
	return text
}
