package signing

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// This file is the OpenSSF Model Signing (OMS) format, version 1.0: a sigstore
// bundle over the SHA-256 digests of a directory's files, which the
// model_signing CLI writes and reads as model.sig. Section numbers are those of
// its specification (ossf/model-signing-spec, spec/v1.0.md).
const (
	modelPredicateType = "https://model_signing/signature/v1.0"

	// modelType is a referrer that holds an OMS bundle. It must not begin as a
	// sigstore bundle's type does: cosign, if it finds one such referrer, reads
	// bundles only, and no longer the legacy signature beside it.
	modelType = "application/vnd.mpack.model-signature.v1+json"
)

// ModelSignatureFile is the name that an OMS bundle has by convention in the
// directory that it signs. It is never among the signed files.
const ModelSignatureFile = "model.sig"

// modelIgnored is what the CLI leaves out whatever it is told (section 6.2), so
// that a bundle which lists such a file would not verify.
var modelIgnored = []string{".git", ".gitattributes", ".github", ".gitignore", ModelSignatureFile}

// FileDigest is a file's SHA-256. The path is relative to the model's root,
// with slashes.
type FileDigest struct {
	Path   string
	SHA256 [sha256.Size]byte
}

// ModelOptions are how files are signed.
type ModelOptions struct {
	Signer
	// Ignore names paths, files or directories, that were left out; the bundle
	// records them, so that a verifier does not miss them. Git's files and
	// model.sig always are.
	Ignore []string
	// FollowedLinks tells that a symlink is signed as a file with its target's
	// content, which makes the CLI follow links too.
	FollowedLinks bool
}

// modelStatement is the in-toto statement of a bundle (sections 5 and 6.6).
type modelStatement struct {
	Type          string         `json:"_type"`
	Subject       []resource     `json:"subject"`
	PredicateType string         `json:"predicateType"`
	Predicate     modelPredicate `json:"predicate"`
}

type modelPredicate struct {
	Serialization modelSerialization `json:"serialization"`
	Resources     []modelResource    `json:"resources"`
}

type modelSerialization struct {
	Method        string   `json:"method"`
	HashType      string   `json:"hash_type"`
	AllowSymlinks bool     `json:"allow_symlinks"`
	IgnorePaths   []string `json:"ignore_paths,omitempty"`
}

type modelResource struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}

// SignModel signs the files' digests and returns the bundle, the content of a
// model.sig. name is the model's, by custom its directory's. Files that the
// format leaves out (git's, model.sig, o.Ignore) are left out. The CLI verifies
// with elliptic curve keys, certificates and keyless; other keys sign too, but
// only mpack and sigstore's libraries verify them.
func SignModel(ctx context.Context, name string, files []FileDigest, o ModelOptions) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("sign model %q: %w", name, err)
	}
	st, err := newModelStatement(name, files, o)
	if err != nil {
		return fail(err)
	}
	raw, err := json.Marshal(st)
	if err != nil {
		return fail(err)
	}
	by, err := o.Signer.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer by.close()
	by.keypair = modelKeypair{by.keypair}
	b, err := by.sign(ctx, &sign.DSSEData{Data: raw, PayloadType: intotoType})
	if err != nil {
		return fail(err)
	}
	if o.Certificate != "" {
		if err := withChain(b, by.chain); err != nil {
			return fail(err)
		}
	}
	out, err := protojson.Marshal(b)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// newModelStatement lists the files in the order of the format: of their names,
// by code points (section 5.2.1).
func newModelStatement(name string, files []FileDigest, o ModelOptions) (modelStatement, error) {
	if name == "" || !utf8.ValidString(name) {
		return modelStatement{}, errors.New("a model needs a name")
	}
	ignore := slices.Clone(modelIgnored)
	for _, p := range o.Ignore {
		if !validModelPath(p) || p == "." || strings.ContainsAny(p, "*?[") {
			return modelStatement{}, fmt.Errorf("ignored path %q: want a path in the model, without wildcards", p)
		}
		ignore = append(ignore, p)
	}
	slices.Sort(ignore)
	ignore = slices.Compact(ignore)
	files = slices.DeleteFunc(slices.Clone(files), func(f FileDigest) bool { return ignored(ignore, f.Path) })
	if len(files) == 0 {
		return modelStatement{}, errors.New("there are no files to sign")
	}
	slices.SortFunc(files, func(a, b FileDigest) int { return cmp.Compare(a.Path, b.Path) })
	p := modelPredicate{
		Serialization: modelSerialization{Method: "files", HashType: "sha256", AllowSymlinks: o.FollowedLinks, IgnorePaths: ignore},
		Resources:     make([]modelResource, len(files)),
	}
	for i, f := range files {
		if !validModelPath(f.Path) || f.Path == "." {
			return modelStatement{}, fmt.Errorf("file %q: want a relative path in UTF-8", f.Path)
		}
		if i > 0 && f.Path == files[i-1].Path {
			return modelStatement{}, fmt.Errorf("file %q: listed twice", f.Path)
		}
		p.Resources[i] = modelResource{Name: f.Path, Algorithm: "sha256", Digest: hex.EncodeToString(f.SHA256[:])}
	}
	root := modelRoot(files)
	return modelStatement{
		Type:          statementV1,
		Subject:       []resource{{Name: name, Digest: map[string]string{"sha256": hex.EncodeToString(root[:])}}},
		PredicateType: modelPredicateType,
		Predicate:     p,
	}, nil
}

// modelRoot is the digest of a model: of its files' digests, in their order
// (section 6.5.1).
func modelRoot(files []FileDigest) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range files {
		h.Write(f.SHA256[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// validModelPath reports whether p is canonical (section 6.1.2). "." is, of a
// model that is one file: so the CLI names it.
func validModelPath(p string) bool { return fs.ValidPath(p) }

// ignored reports whether p is one of the paths or below one.
func ignored(paths []string, p string) bool {
	return slices.ContainsFunc(paths, func(i string) bool {
		rest, ok := strings.CutPrefix(p, i)
		return ok && (rest == "" || rest[0] == '/')
	})
}

// modelKeypair has the hint by which the CLI knows a key: SHA-256 of its PEM,
// in hex (section 4.1).
type modelKeypair struct{ sign.Keypair }

func (k modelKeypair) GetHint() []byte { return []byte(modelHint(k.GetPublicKey())) }

// modelHint is empty, and so no hint, for what is no public key.
func modelHint(public crypto.PublicKey) string {
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(pem))
}

// withChain puts the certificate in the form that the method "certificate"
// has: the leaf, and those that lead to the root (section 4.1).
func withChain(b *protobundle.Bundle, pem []byte) error {
	all := []*protocommon.X509Certificate{b.GetVerificationMaterial().GetCertificate()}
	if len(pem) > 0 {
		certs, err := cryptoutils.UnmarshalCertificatesFromPEM(pem)
		if err != nil {
			return fmt.Errorf("certificate chain: %w", err)
		}
		for _, c := range certs {
			all = append(all, &protocommon.X509Certificate{RawBytes: c.Raw})
		}
	}
	b.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{
		X509CertificateChain: &protocommon.X509CertificateChain{Certificates: all},
	}
	return nil
}

// Model is what a verified bundle says.
type Model struct {
	// Name is the model's, a claim that means nothing (section 6.5).
	Name string
	// Files that are signed, sorted by path. A model that is one file may have
	// "." for its name.
	Files []FileDigest
	// Ignored paths are not covered: what lies there is as good as unsigned.
	Ignored []string
	// FollowedLinks tells that files may be signed that are symlinks on disk.
	FollowedLinks bool
	// Signature says who signed.
	Signature Signature
}

// parseModel reads the statement of a bundle whose signature has been checked.
// Only the serialization "files" with SHA-256 is read: shards and other hashes
// are refused.
func parseModel(raw []byte) (*Model, error) {
	var st modelStatement
	if err := json.Unmarshal(raw, &st); err != nil {
		return nil, fmt.Errorf("model statement: %w", err)
	}
	if st.Type != statementV1 || st.PredicateType != modelPredicateType {
		return nil, fmt.Errorf("no OMS signature: statement of type %q about %q", st.Type, st.PredicateType)
	}
	p := st.Predicate
	if p.Serialization.Method != "files" {
		return nil, fmt.Errorf("serialization %q: only whole files are read; sign with --serialization files", p.Serialization.Method)
	}
	if p.Serialization.HashType != "sha256" {
		return nil, fmt.Errorf("hash %q: only sha256 is read", p.Serialization.HashType)
	}
	if len(st.Subject) != 1 {
		return nil, fmt.Errorf("%d subjects, want one", len(st.Subject))
	}
	if len(p.Resources) == 0 {
		return nil, errors.New("no file is signed")
	}
	m := &Model{Name: st.Subject[0].Name, FollowedLinks: p.Serialization.AllowSymlinks, Files: make([]FileDigest, len(p.Resources))}
	for i, r := range p.Resources {
		if !validModelPath(r.Name) || r.Name == "." && len(p.Resources) > 1 {
			return nil, fmt.Errorf("file %q: not a path in the model", r.Name)
		}
		if r.Algorithm != "sha256" {
			return nil, fmt.Errorf("file %q: hash %q, want sha256", r.Name, r.Algorithm)
		}
		d, err := hex.DecodeString(r.Digest)
		if err != nil || len(d) != sha256.Size {
			return nil, fmt.Errorf("file %q: malformed digest", r.Name)
		}
		m.Files[i] = FileDigest{r.Name, [sha256.Size]byte(d)}
	}
	// in the order that they have: older signers sort otherwise
	if root := modelRoot(m.Files); st.Subject[0].Digest["sha256"] != hex.EncodeToString(root[:]) {
		return nil, errors.New("the model's digest is not that of its files' digests")
	}
	slices.SortFunc(m.Files, func(a, b FileDigest) int { return cmp.Compare(a.Path, b.Path) })
	for i := 1; i < len(m.Files); i++ {
		if m.Files[i].Path == m.Files[i-1].Path {
			return nil, fmt.Errorf("file %q: listed twice", m.Files[i].Path)
		}
	}
	m.Ignored = append(slices.Clone(modelIgnored), p.Serialization.IgnorePaths...)
	slices.Sort(m.Ignored)
	m.Ignored = slices.Compact(m.Ignored)
	return m, nil
}

// ModelDifference is how files differ from the signed ones, all by path, sorted.
type ModelDifference struct {
	Changed, Missing, Extra []string
}

// Error names the files, the first few of each kind.
func (d *ModelDifference) Error() string {
	var parts []string
	for _, k := range []struct {
		what  string
		paths []string
	}{{"changed", d.Changed}, {"missing", d.Missing}, {"not signed", d.Extra}} {
		const most = 8
		switch n := len(k.paths); {
		case n > most:
			parts = append(parts, fmt.Sprintf("%d %s: %q and %d more", n, k.what, k.paths[:most], n-most))
		case n > 0:
			parts = append(parts, fmt.Sprintf("%d %s: %q", n, k.what, k.paths))
		}
	}
	return strings.Join(parts, "; ")
}

// Compare checks files, all that the directory holds, against the signed ones.
// If they are not the same, the error is a *VerificationError with reason
// ContentMismatch that wraps a *ModelDifference. Files below an ignored path
// are not asked for, but those that are signed all the same must be there.
func (m *Model) Compare(files []FileDigest) error {
	have := make(map[string][sha256.Size]byte, len(files))
	for _, f := range files {
		have[f.Path] = f.SHA256
	}
	if len(m.Files) == 1 && m.Files[0].Path == "." && len(files) == 1 {
		have = map[string][sha256.Size]byte{".": files[0].SHA256}
	}
	var d ModelDifference
	for _, f := range m.Files {
		sum, ok := have[f.Path]
		switch {
		case !ok:
			d.Missing = append(d.Missing, f.Path)
		case sum != f.SHA256:
			d.Changed = append(d.Changed, f.Path)
		}
		delete(have, f.Path)
	}
	for _, p := range slices.Sorted(maps.Keys(have)) {
		if !ignored(m.Ignored, p) {
			d.Extra = append(d.Extra, p)
		}
	}
	if d.Changed == nil && d.Missing == nil && d.Extra == nil {
		return nil
	}
	return &VerificationError{Subject: m.Name, Reason: ContentMismatch, Err: &d}
}

// parseModelBundle reads a bundle as the CLI has written it since 0.3, and
// returns the certificates that came with the signer's.
func parseModelBundle(raw []byte) (*protobundle.Bundle, []*x509.Certificate, error) {
	fail := func(err error) (*protobundle.Bundle, []*x509.Certificate, error) {
		return nil, nil, fmt.Errorf("OMS bundle: %w", err)
	}
	if len(raw) > maxEnvelope {
		return fail(fmt.Errorf("more than %d bytes", maxEnvelope))
	}
	raw, err := withoutKey(raw)
	if err != nil {
		return fail(err)
	}
	b := new(protobundle.Bundle)
	if err := protojson.Unmarshal(raw, b); err != nil {
		return fail(err)
	}
	if b.GetDsseEnvelope().GetPayloadType() != intotoType {
		return fail(errors.New("it signs no in-toto statement"))
	}
	// sigstore's libraries take one certificate, not a chain
	certs := b.GetVerificationMaterial().GetX509CertificateChain().GetCertificates()
	if len(certs) == 0 {
		return b, nil, nil
	}
	b.VerificationMaterial.Content = &protobundle.VerificationMaterial_Certificate{Certificate: certs[0]}
	var chain []*x509.Certificate
	for _, c := range certs[1:] {
		parsed, err := x509.ParseCertificate(c.GetRawBytes())
		if err != nil {
			return fail(err)
		}
		chain = append(chain, parsed)
	}
	return b, chain, nil
}

// withoutKey takes out the public key that the CLI, until 1.1, put where the
// key's hint belongs.
func withoutKey(bundle []byte) ([]byte, error) {
	var outer, material, key map[string]json.RawMessage
	if err := json.Unmarshal(bundle, &outer); err != nil {
		return nil, err
	}
	if json.Unmarshal(outer["verificationMaterial"], &material) != nil || json.Unmarshal(material["publicKey"], &key) != nil || key["rawBytes"] == nil {
		return bundle, nil // protojson judges it
	}
	material["publicKey"] = json.RawMessage("{}")
	var err error
	if outer["verificationMaterial"], err = json.Marshal(material); err != nil {
		return nil, err
	}
	return json.Marshal(outer)
}

// VerifyModel checks who signed a bundle and returns what it says; the files
// are for Compare. If it does not hold, the error is a *VerificationError.
//
// The signer's certificate may bring its own intermediates; only roots need
// trust. Where the Verifier names an authority of one's own and no identity,
// whoever has a certificate of it may sign, and no log is asked: this is the
// CLI's "verify certificate", whose certificates seldom name anyone.
func VerifyModel(ctx context.Context, bundle []byte, v Verifier) (*Model, error) {
	refuse := func(err error) (*Model, error) {
		var known *VerificationError
		if !errors.As(err, &known) {
			err = &VerificationError{Subject: "model signature", Reason: Malformed, Err: err}
		}
		return nil, fmt.Errorf("verify model: %w", err)
	}
	anyone := !v.keyed() && len(v.Identities) == 0 && (v.CertificateChain != "" || v.CARoots != "")
	if anyone {
		v.Identities = []Identity{{SubjectRegExp: ".*", IssuerRegExp: ".*"}}
		v.InsecureIgnoreSCT, v.InsecureIgnoreTlog = true, true
	}
	c, err := v.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify model: %w", err)
	}
	defer c.close()
	pb, chain, err := parseModelBundle(bundle)
	if err != nil {
		return refuse(err)
	}
	if key := pb.GetVerificationMaterial().GetPublicKey(); key != nil && c.legacy.SigVerifier != nil {
		// translated, as a hint for what went wrong
		if public, err := c.legacy.SigVerifier.PublicKey(); err == nil && key.Hint == modelHint(public) {
			key.Hint = c.hint
		}
	}
	b, err := sgbundle.NewBundle(pb)
	if err != nil {
		return refuse(err)
	}
	c.trust = c.trust.with(chain)
	var sig Signature
	var payload []byte
	if anyone {
		sig, payload, err = c.certified(b)
	} else {
		sig, payload, err = c.bundle(b, "")
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return refuse(err)
	}
	m, err := parseModel(payload)
	if err != nil {
		return refuse(err)
	}
	m.Signature = sig
	return m, nil
}

// certified verifies a bundle by whomever the authority certified, now.
// sigstore-go does not, where the certificate has no name.
func (c *checker) certified(b *sgbundle.Bundle) (Signature, []byte, error) {
	var why *failure
	err := guard(func() error {
		material, err := b.VerificationContent()
		if err != nil {
			return err
		}
		content, err := b.SignatureContent()
		if err != nil {
			return err
		}
		cert := material.Certificate()
		if cert == nil {
			why = &failure{NoCertificate, nil}
		} else if _, err := verify.VerifyLeafCertificate(cert.NotBefore, cert, c.trust); err != nil {
			why = &failure{UntrustedIssuer, fmt.Errorf("it says it is of %q", cert.Issuer)}
		} else if _, err := verify.VerifyLeafCertificate(time.Now(), cert, c.trust); err != nil {
			why = &failure{Expired, err}
		} else if err := verify.VerifySignature(content, material, c.trust); err != nil {
			why = &failure{Unverifiable, err}
		}
		return nil
	})
	switch {
	case why != nil:
		return Signature{}, nil, why.of("bundle")
	case err != nil:
		return Signature{}, nil, err
	}
	sig := Signature{Format: Bundle, LogIndex: -1, Payload: b.GetDsseEnvelope().GetPayload()}
	sig.Identity, sig.Issuer = identityOf(bundleCertificate(b))
	return sig, sig.Payload, nil
}

// AttachModel stores a bundle beside the subject whose files it signs, as a
// referrer.
func AttachModel(ctx context.Context, s Subject, bundle []byte) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("attach a model signature to %s: %w", s.Descriptor.Digest, err)
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	b, _, err := parseModelBundle(bundle)
	if err != nil {
		return fail(err)
	}
	if _, err := parseModel(b.GetDsseEnvelope().GetPayload()); err != nil {
		return fail(err)
	}
	layer := content.NewDescriptorFromBytes(modelType, bundle)
	if err := push(ctx, s.Target, layer, bundle); err != nil {
		return fail(err)
	}
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: ModelSignatureFile}
	d, err := oras.PackManifest(ctx, s.Target, oras.PackManifestVersion1_1, modelType, oras.PackManifestOptions{
		Subject: &ocispec.Descriptor{MediaType: s.Descriptor.MediaType, Digest: s.Descriptor.Digest, Size: s.Descriptor.Size},
		Layers:  []ocispec.Descriptor{layer},
		ManifestAnnotations: map[string]string{
			ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339),
			bundlePredicateKey:        modelPredicateType,
		},
	})
	if err != nil {
		return fail(err)
	}
	return d, nil
}

// ModelBundles returns the bundles that AttachModel stored beside the subject,
// unverified: VerifyModel decides what they are worth, and Compare whether they
// are about these files. What cannot be read is left out.
func ModelBundles(ctx context.Context, s Subject) ([][]byte, error) {
	fail := func(err error) ([][]byte, error) {
		return nil, fmt.Errorf("model signatures of %s: %w", s.Descriptor.Digest, err)
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	// as in bundleEntries, the listing alone does not say of which type it is
	referrers, err := referrersOf(ctx, s)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	var all [][]byte
	looked, total := 0, 0
	for _, r := range referrers {
		if r.ArtifactType != modelType && r.ArtifactType != "" && r.ArtifactType != ocispec.MediaTypeEmptyJSON {
			continue
		}
		if looked++; looked > maxSignatures {
			return fail(fmt.Errorf("more than the %d referrers that are looked at", maxSignatures))
		}
		raw, err := readModelBundle(ctx, s, r)
		if errors.Is(err, errBroken) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return fail(err)
		}
		if total += len(raw); total > maxTotal {
			return fail(fmt.Errorf("more than the %d bytes that are looked at", maxTotal))
		}
		all = append(all, raw)
	}
	return all, nil
}

func readModelBundle(ctx context.Context, s Subject, d ocispec.Descriptor) ([]byte, error) {
	raw, err := fetch(ctx, s.Target, d, maxManifest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errBroken, d.Digest, err)
	}
	if m.ArtifactType != modelType || len(m.Layers) != 1 || m.Subject == nil || m.Subject.Digest != s.Descriptor.Digest {
		return nil, fmt.Errorf("%w: %s: not a model signature of %s", errBroken, d.Digest, s.Descriptor.Digest)
	}
	return fetch(ctx, s.Target, m.Layers[0], maxEnvelope)
}
