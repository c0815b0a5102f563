package signing

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/providers"
	_ "github.com/sigstore/cosign/v2/pkg/providers/all" // ambient OIDC tokens
	cosigntypes "github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// The public good instance of sigstore.
const (
	PublicFulcioURL = "https://fulcio.sigstore.dev"
	PublicRekorURL  = "https://rekor.sigstore.dev"
)

// Signer says with what is signed: a key, or an identity that Fulcio
// certifies. No service is used that is not named here.
type Signer struct {
	// Key is a cosign key file, env://VAR, k8s://namespace/secret, pkcs11: or a
	// KMS URI. Empty: keyless.
	Key      string
	Password Password // of a key file; nil: an empty one

	// Certificate of the key by an authority of one's own, and the chain up to
	// it (the root last, may be left out): PEM files or env://VAR.
	Certificate, CertificateChain string

	// FulcioURL is the authority that certifies an identity; needed without Key.
	FulcioURL string
	// IdentityToken is an OIDC token or a file that holds one. Empty: what the
	// environment offers (GitHub, GitLab, Kubernetes, Google, Buildkite,
	// SPIFFE, SIGSTORE_ID_TOKEN).
	IdentityToken string
	// OIDCProvider picks one of the environment's providers by cosign's name.
	OIDCProvider string

	// RekorURL is the transparency log to enter signatures in; empty: none.
	RekorURL string
	// TimestampURL is an RFC 3161 authority's; empty: none.
	TimestampURL string
}

// SignOptions are how a subject is signed.
type SignOptions struct {
	Signer
	Format      Format
	Annotations map[string]string // signed with the digest
	// Recursive signs what an index holds too, before the index.
	Recursive bool
}

// Sign signs the subject's digest and writes the signature beside it. A
// signature by the same key over the same payload is not written twice in the
// legacy form.
func Sign(ctx context.Context, s Subject, o SignOptions) ([]Signature, error) {
	fail := func(err error) ([]Signature, error) {
		return nil, fmt.Errorf("sign %s: %w", s.Descriptor.Digest, err)
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	subjects := []Subject{s}
	if o.Recursive {
		inner, err := members(ctx, s)
		if err != nil {
			return fail(err)
		}
		subjects = append(inner, s)
	}
	by, err := o.Signer.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer by.close()
	var all []Signature
	for _, s := range subjects {
		if o.Format != Bundle {
			sig, err := by.legacy(ctx, s, o.Annotations)
			if err != nil {
				return fail(err)
			}
			all = append(all, sig)
		}
		if o.Format != Legacy {
			st := newStatement(s, cosigntypes.CosignSignPredicateType, json.RawMessage("{}"), o.Annotations)
			// cosign leaves the name out here
			st.Subject[0].Name = ""
			sig, err := by.referrer(ctx, s, st)
			if err != nil {
				return fail(err)
			}
			sig.Annotations = o.Annotations
			all = append(all, sig)
		}
	}
	return all, nil
}

// session is a Signer at work: one key, one certificate.
type session struct {
	keypair   sign.Keypair
	verifier  signature.Verifier
	opts      sign.BundleOptions
	timestamp *sign.TimestampAuthority
	chain     []byte // PEM, without the leaf
	close     func()
}

func (o *Signer) open(ctx context.Context) (*session, error) {
	se := &session{close: func() {}}
	if o.Key != "" {
		sv, done, err := loadSigner(ctx, o.Key, o.Password)
		if err != nil {
			return nil, err
		}
		se.close = done
		k, err := newKeypair(sv)
		if err != nil {
			done()
			return nil, fmt.Errorf("private key %s: %w", shown(o.Key), err)
		}
		se.keypair = k
	} else if err := o.keyless(ctx, se); err != nil {
		return nil, err
	}
	verifier, err := signature.LoadDefaultVerifier(se.keypair.GetPublicKey(), loadOptions...)
	if err == nil && o.Certificate != "" {
		err = o.ownCertificate(se)
	}
	if err != nil {
		se.close()
		return nil, err
	}
	se.verifier = verifier
	if o.TimestampURL != "" {
		se.timestamp = sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: o.TimestampURL, Timeout: 30 * time.Second, Retries: 2})
		se.opts.TimestampAuthorities = []*sign.TimestampAuthority{se.timestamp}
	}
	if o.RekorURL != "" {
		se.opts.TransparencyLogs = []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: o.RekorURL, Timeout: 90 * time.Second, Retries: 2})}
	}
	return se, nil
}

// Ready tells what would keep the signer from signing, before there is
// anything to sign: a missing key, a wrong password, no identity. Nothing is
// certified or entered in a log for it.
func (o *Signer) Ready(ctx context.Context) error {
	if o.Key == "" {
		_, err := o.identity(ctx)
		return err
	}
	se, err := o.open(ctx)
	if err != nil {
		return err
	}
	se.close()
	return nil
}

// identity returns the token to be certified by, if the rest is given too.
func (o *Signer) identity(ctx context.Context) (string, error) {
	if o.Certificate != "" {
		return "", errors.New("a certificate needs the key it is for")
	}
	if o.FulcioURL == "" {
		return "", errors.New("neither a key nor a Fulcio URL is given")
	}
	if o.RekorURL == "" && o.TimestampURL == "" {
		return "", errors.New("a keyless signature outlives its certificate only with a transparency log or a timestamp: give a Rekor or a timestamp authority's URL")
	}
	return o.token(ctx)
}

// keyless makes a key for this once and gets it certified.
func (o *Signer) keyless(ctx context.Context, se *session) error {
	token, err := o.identity(ctx)
	if err != nil {
		return err
	}
	k, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return err
	}
	se.keypair = k
	se.opts.CertificateProvider = &once{from: sign.NewFulcio(&sign.FulcioOptions{BaseURL: o.FulcioURL, Timeout: 30 * time.Second, Retries: 2})}
	se.opts.CertificateProviderOptions = &sign.CertificateProviderOptions{IDToken: token}
	return nil
}

// tokenAudience is what Fulcio wants tokens to be for.
const tokenAudience = "sigstore"

// token finds the OIDC token. No error of it holds the token.
func (o *Signer) token(ctx context.Context) (string, error) {
	if t := o.IdentityToken; t != "" {
		// a JWT has two dots and no separator, a file rarely
		if f, err := os.Open(t); err == nil {
			defer f.Close()
			b, err := readLimited(f, maxKey)
			if err != nil {
				return "", fmt.Errorf("identity token: %w", err)
			}
			return strings.TrimSpace(string(b)), nil
		}
		if strings.Count(t, ".") != 2 {
			return "", errors.New("identity token: neither a file nor a JWT")
		}
		return t, nil
	}
	if o.OIDCProvider != "" {
		p, err := providers.ProvideFrom(ctx, o.OIDCProvider)
		if err != nil {
			return "", err
		}
		return p.Provide(ctx, tokenAudience)
	}
	if !providers.Enabled(ctx) {
		return "", errors.New("no identity: sign with a key, give an identity token, or run where one is offered (GitHub, GitLab and Kubernetes workloads)")
	}
	t, err := providers.Provide(ctx, tokenAudience)
	if err != nil {
		return "", fmt.Errorf("ask the environment for an identity token: %w", err)
	}
	return t, nil
}

// once asks for a certificate the first time only, so that all signatures of a
// session are made with one.
type once struct {
	from sign.CertificateProvider
	der  []byte
}

func (c *once) GetCertificate(ctx context.Context, k sign.Keypair, o *sign.CertificateProviderOptions) ([]byte, error) {
	if c.der == nil {
		der, err := c.from.GetCertificate(ctx, k, o)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		c.der = der
	}
	return c.der, nil
}

// ownCertificate uses a certificate that is there already.
func (o *Signer) ownCertificate(se *session) error {
	raw, err := readRef(o.Certificate)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(raw)
	if err != nil || len(certs) == 0 {
		return fmt.Errorf("certificate %s: no certificate in PEM", o.Certificate)
	}
	if err := cryptoutils.EqualKeys(certs[0].PublicKey, se.keypair.GetPublicKey()); err != nil {
		return fmt.Errorf("certificate %s: is of another key", o.Certificate)
	}
	se.opts.CertificateProvider = &once{der: certs[0].Raw}
	if o.CertificateChain == "" {
		return nil
	}
	if se.chain, err = readRef(o.CertificateChain); err != nil {
		return fmt.Errorf("certificate chain: %w", err)
	}
	if chain, err := cryptoutils.UnmarshalCertificatesFromPEM(se.chain); err != nil || len(chain) == 0 {
		return fmt.Errorf("certificate chain %s: no certificate in PEM", o.CertificateChain)
	}
	return nil
}

func (se *session) sign(ctx context.Context, c sign.Content) (*protobundle.Bundle, error) {
	opts := se.opts
	opts.Context = ctx
	return sign.Bundle(c, se.keypair, opts)
}

// legacy signs a simplesigning payload and adds it to the .sig tag.
func (se *session) legacy(ctx context.Context, s Subject, annotations map[string]string) (Signature, error) {
	raw, err := simpleSigning(s, annotations)
	if err != nil {
		return Signature{}, err
	}
	b, err := se.sign(ctx, &sign.PlainData{Data: raw})
	if err != nil {
		return Signature{}, err
	}
	opts := se.legacyOptions(b, b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps())
	sig, err := static.NewSignature(raw, base64.StdEncoding.EncodeToString(b.GetMessageSignature().GetSignature()), opts...)
	if err != nil {
		return Signature{}, err
	}
	d, err := appendLegacy(ctx, s, "sig", sig, func(l ocispec.Descriptor) bool {
		if se.opts.CertificateProvider != nil || len(se.opts.TransparencyLogs) > 0 || se.timestamp != nil || hasMaterial(l) {
			return false
		}
		old, err := base64.StdEncoding.DecodeString(l.Annotations[static.SignatureAnnotationKey])
		return err == nil && se.verifier.VerifySignature(bytes.NewReader(old), bytes.NewReader(raw)) == nil
	})
	if err != nil {
		return Signature{}, err
	}
	return written(Legacy, d, b, raw, annotations), nil
}

// hasMaterial reports whether a layer has more than a bare signature.
func hasMaterial(l ocispec.Descriptor) bool {
	for _, k := range []string{static.CertificateAnnotationKey, static.BundleAnnotationKey, static.RFC3161TimestampAnnotationKey} {
		if l.Annotations[k] != "" {
			return true
		}
	}
	return false
}

// simpleSigning is the payload that cosign signs: digest, name, annotations.
func simpleSigning(s Subject, annotations map[string]string) ([]byte, error) {
	// weak: a layout's name need not be a registry's
	repo, err := name.NewRepository(s.Repository, name.WeakValidation)
	optional := anyValues(annotations)
	if err == nil {
		return payload.Cosign{Image: repo.Digest(s.Descriptor.Digest.String()), Annotations: optional}.MarshalJSON()
	}
	p := payload.SimpleContainerImage{Optional: optional}
	p.Critical.Identity.DockerReference = s.Repository
	p.Critical.Image.DockerManifestDigest = s.Descriptor.Digest.String()
	p.Critical.Type = payload.CosignSignatureType
	return json.Marshal(p)
}

// legacyOptions are a bundle's verification material as layer annotations.
func (se *session) legacyOptions(b *protobundle.Bundle, stamps []*protocommon.RFC3161SignedTimestamp) []static.Option {
	var opts []static.Option
	m := b.GetVerificationMaterial()
	if c := m.GetCertificate(); c != nil {
		opts = append(opts, static.WithCertChain(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.GetRawBytes()}), se.chain))
	}
	if e := m.GetTlogEntries(); len(e) > 0 {
		opts = append(opts, static.WithBundle(&bundle.RekorBundle{
			SignedEntryTimestamp: e[0].GetInclusionPromise().GetSignedEntryTimestamp(),
			Payload: bundle.RekorPayload{
				Body:           e[0].GetCanonicalizedBody(),
				IntegratedTime: e[0].GetIntegratedTime(),
				LogIndex:       e[0].GetLogIndex(),
				LogID:          hex.EncodeToString(e[0].GetLogId().GetKeyId()),
			},
		}))
	}
	if len(stamps) > 0 {
		opts = append(opts, static.WithRFC3161Timestamp(bundle.TimestampToRFC3161Timestamp(stamps[0].GetSignedTimestamp())))
	}
	return opts
}

// referrer signs a statement and writes it as a bundle.
func (se *session) referrer(ctx context.Context, s Subject, st statement) (Signature, error) {
	b, raw, err := se.statement(ctx, st)
	if err != nil {
		return Signature{}, err
	}
	return se.writeStatement(ctx, s, st, b, raw)
}

// statement signs a statement in a DSSE envelope.
func (se *session) statement(ctx context.Context, st statement) (*protobundle.Bundle, []byte, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, nil, err
	}
	b, err := se.sign(ctx, &sign.DSSEData{Data: raw, PayloadType: intotoType})
	return b, raw, err
}

// written describes what was just signed.
func written(f Format, d ocispec.Descriptor, b *protobundle.Bundle, raw []byte, annotations map[string]string) Signature {
	sig := Signature{Format: f, Manifest: d, Annotations: annotations, LogIndex: -1, Payload: raw}
	m := b.GetVerificationMaterial()
	if c, err := x509.ParseCertificate(m.GetCertificate().GetRawBytes()); err == nil {
		sig.Identity, sig.Issuer = identityOf(c)
	}
	if e := m.GetTlogEntries(); len(e) > 0 {
		sig.LogIndex, sig.Time = e[0].GetLogIndex(), time.Unix(e[0].GetIntegratedTime(), 0).UTC()
	}
	return sig
}
