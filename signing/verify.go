package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	cosigntypes "github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/rekor/pkg/client"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// Identity is who a certificate must be for, in the words of cosign's flags:
// a Subject or SubjectRegExp (--certificate-identity) and an Issuer or
// IssuerRegExp (--certificate-oidc-issuer). A regular expression (RE2) matches
// anywhere in the name: anchor it with ^ and $. Where both forms are given,
// both must match.
type Identity struct{ Subject, SubjectRegExp, Issuer, IssuerRegExp string }

// Verifier says who must have signed, and what is trusted for it. Either a key
// or identities are needed. Files may also be env://VAR.
type Verifier struct {
	// Key is a public key: a PEM file, env://VAR, k8s://namespace/secret,
	// pkcs11: or a KMS URI. KeyPEM is the key itself.
	Key    string
	KeyPEM []byte

	// Identities of certificates, any of which is enough.
	Identities []Identity

	// CertificateChain is a PEM file with an authority of one's own: its
	// intermediates, then its root. CARoots and CAIntermediates say the same
	// in two files, with several roots. Empty: SIGSTORE_ROOT_FILE or sigstore's.
	CertificateChain, CARoots, CAIntermediates string
	// InsecureIgnoreSCT takes certificates that no certificate transparency
	// log has seen.
	InsecureIgnoreSCT bool

	// InsecureIgnoreTlog takes signatures that no transparency log has seen.
	InsecureIgnoreTlog bool
	// RekorURL is asked for entries that are not stored with a legacy
	// signature, unless Offline; empty: none is asked.
	RekorURL string
	Offline  bool

	// UseSignedTimestamps takes the time of signing from a timestamp
	// authority; TimestampCertificateChain (leaf to root, PEM) implies it.
	UseSignedTimestamps       bool
	TimestampCertificateChain string

	// TrustedRoot is a trusted_root.json that takes the place of sigstore's
	// TUF repository and of its environment variables. What is named above
	// goes before it.
	TrustedRoot string
}

func (v *Verifier) keyed() bool { return v.Key != "" || v.KeyPEM != nil }

func (v *Verifier) signedTimestamps() bool {
	return v.UseSignedTimestamps || v.TimestampCertificateChain != ""
}

// VerifyOptions say whose signature is wanted.
type VerifyOptions struct {
	Verifier
	// Annotations that must have been signed with the digest, among others.
	Annotations map[string]string
}

// Verify returns the subject's signatures that hold, of either format; one is
// enough. If there is none, the error is a *VerificationError that says why of
// the signature that came nearest. A registry that fails is another error.
func Verify(ctx context.Context, s Subject, o VerifyOptions) ([]Signature, error) {
	fail := func(err error) ([]Signature, error) {
		if errors.Is(err, ErrNotVerified) {
			return nil, err // it says of what
		}
		return nil, fmt.Errorf("verify %s: %w", s.Descriptor.Digest, err)
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	c, err := o.Verifier.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer c.close()
	f := failures{subject: s.Descriptor.Digest.String(), none: NoSignature}
	legacy, err := legacyEntries(ctx, s, "sig", simpleSigningType, maxPayload)
	if err != nil {
		return fail(f.of(err))
	}
	bundles, err := bundleEntries(ctx, s)
	if err != nil {
		return fail(f.of(err))
	}
	var found []Signature
	for _, e := range legacy {
		err := e.err
		if err == nil {
			var sig Signature
			if sig, err = c.signature(ctx, s, e, o.Annotations); err == nil {
				found = append(found, sig)
				continue
			}
		}
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		f.add(err)
	}
	for _, e := range bundles {
		err := e.err
		if err == nil {
			// who signs an attestation does not sign what it speaks of
			if st, err := parseStatement(e.bundle.GetDsseEnvelope().GetPayload()); err == nil && st.PredicateType != cosigntypes.CosignSignPredicateType {
				continue
			}
			var sig Signature
			if sig, err = c.signatureBundle(s, e, o.Annotations); err == nil {
				found = append(found, sig)
				continue
			}
		}
		f.add(err)
	}
	if len(found) > 0 {
		return found, nil
	}
	return fail(f.err())
}

// failures are why none of the signatures holds.
type failures struct {
	subject string
	none    Reason // if there are none at all
	broken  []error
	other   error // what kept one from being read
}

func (f *failures) add(err error) {
	err = f.of(err)
	var v *VerificationError
	if !errors.As(err, &v) {
		f.other = err
		return
	}
	f.broken = append(f.broken, err)
}

// of makes a VerificationError of what cannot be read as a signature.
func (f *failures) of(err error) error {
	var v *VerificationError
	if errors.Is(err, errBroken) && !errors.As(err, &v) {
		return &VerificationError{Subject: f.subject, Reason: Malformed, Err: err}
	}
	return err
}

func (f *failures) err() error {
	if f.other != nil {
		return f.other
	}
	return closest(f.subject, f.none, f.broken)
}

// checker is a Verifier at work: its key and roots are there.
type checker struct {
	v          *Verifier
	identities []identity
	trust      *trust
	legacy     cosign.CheckOpts // of legacy signatures, but for trust
	hint       string           // of the key, as in bundles
	close      func()
}

// identity is an Identity with its expressions compiled.
type identity struct {
	Identity
	subject, issuer *regexp.Regexp
}

func (v *Verifier) open(ctx context.Context) (*checker, error) {
	c := &checker{v: v, close: func() {}}
	switch {
	case v.keyed() && len(v.Identities) > 0:
		return nil, errors.New("a key and identities exclude each other: give one of them")
	case !v.keyed() && len(v.Identities) == 0:
		return nil, errors.New("neither a key nor an identity is given: say who must have signed")
	}
	for _, id := range v.Identities {
		i, err := compile(id)
		if err != nil {
			return nil, err
		}
		c.identities = append(c.identities, i)
	}
	var err error
	if c.trust, err = v.trust(); err != nil {
		return nil, err
	}
	c.legacy = cosign.CheckOpts{
		IgnoreSCT:           v.InsecureIgnoreSCT,
		IgnoreTlog:          v.InsecureIgnoreTlog,
		Offline:             v.Offline || v.RekorURL == "",
		UseSignedTimestamps: v.signedTimestamps(),
	}
	if !c.legacy.IgnoreTlog && !c.legacy.Offline {
		if c.legacy.RekorClient, err = client.GetRekorClient(v.RekorURL); err != nil {
			return nil, fmt.Errorf("transparency log %s: %w", v.RekorURL, err)
		}
	}
	if !v.keyed() {
		return c, nil
	}
	key, done, err := loadVerifier(ctx, v.Key, v.KeyPEM)
	if err != nil {
		return nil, err
	}
	c.close = done
	c.legacy.SigVerifier = key
	c.trust.key = root.NewExpiringKey(key, time.Time{}, time.Time{})
	if public, err := key.PublicKey(); err == nil {
		c.hint, _ = keyHint(public)
	}
	return c, nil
}

func compile(id Identity) (identity, error) {
	i := identity{Identity: id}
	if id.Subject == "" && id.SubjectRegExp == "" || id.Issuer == "" && id.IssuerRegExp == "" {
		return i, errors.New("an identity needs a subject and an issuer, or regular expressions for them")
	}
	var err error
	if i.subject, err = regexp.Compile(id.SubjectRegExp); err == nil {
		i.issuer, err = regexp.Compile(id.IssuerRegExp)
	}
	if err != nil {
		return i, fmt.Errorf("identity: %w", err)
	}
	return i, nil
}

// matches reports whether one of the subjects and the issuer are meant.
func (i *identity) matches(subjects []string, issuer string) bool {
	return (i.Issuer == "" || i.Issuer == issuer) && i.issuer.MatchString(issuer) &&
		slices.ContainsFunc(subjects, func(s string) bool {
			return (i.Subject == "" || i.Subject == s) && i.subject.MatchString(s)
		})
}

// identify checks whom a certificate is for.
func (c *checker) identify(cert *x509.Certificate) *failure {
	if cert == nil {
		return &failure{NoCertificate, nil}
	}
	subjects, issuer := cryptoutils.GetSubjectAlternateNames(cert), issuerOf(cert)
	for _, i := range c.identities {
		if i.matches(subjects, issuer) {
			return nil
		}
	}
	return &failure{IdentityMismatch, fmt.Errorf("it is %q, whom %q vouches for", strings.Join(subjects, ", "), issuer)}
}

// identityOf is the certificate's first subject alternative name and its OIDC
// issuer.
func identityOf(cert *x509.Certificate) (subject, issuer string) {
	if names := cryptoutils.GetSubjectAlternateNames(cert); len(names) > 0 {
		subject = names[0]
	}
	return subject, issuerOf(cert)
}

// issuerOf reads Fulcio's extension for the OIDC issuer, in its older or newer
// form; empty if the certificate has none.
func issuerOf(cert *x509.Certificate) string {
	e := cosign.CertExtensions{Cert: cert}
	if issuer := e.GetIssuer(); issuer != "" {
		return issuer
	}
	// sigstore-go knows the newer one
	newer, err := certificate.ParseExtensions(cert.Extensions)
	if err != nil {
		return ""
	}
	return newer.Issuer
}

// failure is a VerificationError that does not know its subject.
type failure struct {
	reason Reason
	err    error
}

func (f *failure) of(subject string) error {
	return &VerificationError{Subject: subject, Reason: f.reason, Err: f.err}
}

// guard runs a verification of what others wrote. The libraries that read it
// are large; if one panics, the signature is not one that holds.
func guard(check func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errBroken, p)
		}
	}()
	return check()
}

// signature verifies a legacy signature of the subject.
func (c *checker) signature(ctx context.Context, s Subject, e legacyEntry, annotations map[string]string) (Signature, error) {
	var signed payload.SimpleContainerImage
	raw, err := e.sig.Payload()
	if err == nil {
		err = json.Unmarshal(raw, &signed)
	}
	if err != nil {
		return Signature{}, fmt.Errorf("%w: payload: %w", errBroken, err)
	}
	sig, err := c.holds(s, e, func(co *cosign.CheckOpts, h v1.Hash) error {
		co.ClaimVerifier = cosign.SimpleClaimVerifier
		co.Annotations = anyValues(annotations)
		_, err := cosign.VerifyImageSignature(ctx, e.sig, h, co)
		return err
	}, func() *failure {
		if got := signed.Critical.Image.DockerManifestDigest; got != s.Descriptor.Digest.String() {
			return &failure{DigestMismatch, fmt.Errorf("it is of %q", got)}
		}
		return annotated(annotations, signed.Optional)
	})
	sig.Payload, sig.Annotations = raw, texts(signed.Optional)
	return sig, err
}

// attestation verifies a legacy attestation of the subject.
func (c *checker) attestation(ctx context.Context, s Subject, cl *claim) error {
	st, err := parseStatement(cl.Payload)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	sig, err := c.holds(s, *cl.legacy, func(co *cosign.CheckOpts, h v1.Hash) error {
		co.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
		_, err := cosign.VerifyBlobAttestation(ctx, cl.legacy.sig, h, co)
		return err
	}, func() *failure { return speaksOf(&st, s) })
	sig.Payload = cl.Payload
	if err == nil {
		cl.Signature = sig
	}
	return err
}

func speaksOf(st *statement, s Subject) *failure {
	if _, ok := st.about(s); ok {
		return nil
	}
	if len(st.Subject) == 0 {
		return &failure{DigestMismatch, errors.New("it is of nothing")}
	}
	return &failure{DigestMismatch, fmt.Errorf("it is of %q", st.Subject[0].Digest)}
}

// annotated compares the annotations that are wanted with those signed.
func annotated(want map[string]string, have map[string]any) *failure {
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if got, ok := have[k]; !ok {
			return &failure{AnnotationMismatch, fmt.Errorf("%q is not there", k)}
		} else if got != want[k] {
			return &failure{AnnotationMismatch, fmt.Errorf("%q is %q, not %q", k, got, want[k])}
		}
	}
	return nil
}

// texts are annotations as strings; nil if there are none.
func texts(m map[string]any) map[string]string {
	if len(m) == 0 {
		return nil
	}
	all := make(map[string]string, len(m))
	for k, v := range m {
		all[k] = fmt.Sprint(v)
	}
	return all
}

// holds lets cosign check a legacy signature or attestation, and if it does
// not hold finds out why.
func (c *checker) holds(s Subject, e legacyEntry, check func(*cosign.CheckOpts, v1.Hash) error, claims func() *failure) (Signature, error) {
	subject := s.Descriptor.Digest.String()
	h, err := v1.NewHash(subject)
	if err != nil {
		return Signature{}, err
	}
	cert, err := e.sig.Cert()
	if err != nil {
		return Signature{}, fmt.Errorf("%w: certificate: %w", errBroken, err)
	}
	chain, err := e.sig.Chain()
	if err != nil {
		return Signature{}, fmt.Errorf("%w: certificate chain: %w", errBroken, err)
	}
	co := c.legacy
	trust := c.trust.with(chain)
	co.TrustedMaterial = trust
	var why *failure
	err = guard(func() error {
		if why = c.stamped(e.sig); why != nil {
			return errors.New("timestamp")
		}
		explained := co
		err := check(&co, h)
		if err != nil {
			why = c.explain(e.sig, cert, trust, &explained, claims, err)
		} else if c.legacy.SigVerifier == nil {
			why = c.identify(cert)
		}
		return err
	})
	switch {
	case why != nil:
		return Signature{}, why.of(subject)
	case err != nil:
		return Signature{}, err
	}
	sig := Signature{Format: Legacy, Manifest: e.manifest, LogIndex: -1}
	if c.legacy.SigVerifier == nil {
		sig.Identity, sig.Issuer = identityOf(cert)
	}
	if b, err := e.sig.Bundle(); err == nil && b != nil && !co.IgnoreTlog {
		sig.LogIndex, sig.Time = b.Payload.LogIndex, time.Unix(b.Payload.IntegratedTime, 0).UTC()
	}
	return sig, nil
}

// stamped checks the timestamp of a legacy signature, if it has one: cosign
// panics where none of the authorities made it.
func (c *checker) stamped(sig oci.Signature) *failure {
	stamp, err := sig.RFC3161Timestamp()
	if !c.legacy.UseSignedTimestamps || err == nil && stamp == nil {
		return nil
	}
	var raw []byte
	if err == nil {
		raw, err = signedBytes(sig)
	}
	if err != nil {
		return &failure{Malformed, err}
	}
	err = errors.New("no timestamp authority is trusted")
	for _, a := range c.trust.stamps {
		if _, err = a.Verify(stamp.SignedRFC3161Timestamp, raw); err == nil {
			return nil
		}
	}
	return &failure{Unverifiable, fmt.Errorf("timestamp: %w", err)}
}

// signedBytes are what a legacy timestamp is of: the signature, or the whole
// envelope of an attestation.
func signedBytes(sig oci.Signature) ([]byte, error) {
	b64, err := sig.Base64Signature()
	if err != nil {
		return nil, err
	}
	if b64 == "" {
		return sig.Payload()
	}
	return base64.StdEncoding.DecodeString(b64)
}

// explain says why cosign refused a legacy signature.
func (c *checker) explain(sig oci.Signature, cert *x509.Certificate, t *trust, co *cosign.CheckOpts, claims func() *failure, refusal error) *failure {
	if key := co.SigVerifier; key != nil {
		if err := intact(key, sig); errors.Is(err, errBroken) {
			return &failure{Malformed, err}
		} else if err != nil {
			return &failure{WrongKey, err}
		}
	} else {
		if f := c.vouched(cert, t); f != nil {
			return f
		}
		key, err := signature.LoadVerifier(cert.PublicKey, crypto.SHA256)
		if err == nil {
			err = intact(key, sig)
		}
		if err != nil {
			return &failure{Unverifiable, err}
		}
	}
	if f := claims(); f != nil {
		return f
	}
	when := time.Now()
	if !co.IgnoreTlog {
		ok, err := cosign.VerifyBundle(sig, co)
		if err != nil {
			return &failure{NoLogEntry, err}
		}
		b, err := sig.Bundle()
		if !ok || err != nil || b == nil {
			return &failure{NoLogEntry, refusal}
		}
		when = time.Unix(b.Payload.IntegratedTime, 0)
	}
	if cert != nil {
		if err := cosign.CheckExpiry(cert, when); err != nil {
			return &failure{Expired, err}
		}
	}
	return &failure{Unverifiable, refusal}
}

// vouched checks who a certificate is for, and whether an authority that is
// trusted issued it; not when.
func (c *checker) vouched(cert *x509.Certificate, t *trust) *failure {
	if cert == nil {
		return &failure{NoCertificate, nil}
	}
	if _, err := verify.VerifyLeafCertificate(cert.NotBefore, cert, t); err != nil {
		return &failure{UntrustedIssuer, fmt.Errorf("it says it is of %q", cert.Issuer)}
	}
	return c.identify(cert)
}

// intact checks a legacy signature with the key, and nothing else.
func intact(key signature.Verifier, sig oci.Signature) error {
	raw, err := sig.Payload()
	if err != nil {
		return err
	}
	b64, err := sig.Base64Signature()
	if err != nil {
		return err
	}
	if mediaType, err := sig.MediaType(); err == nil && mediaType == dsseType {
		var env dsse.Envelope
		if err := json.Unmarshal(raw, &env); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		v, err := dsse.NewEnvelopeVerifier(&sigdsse.VerifierAdapter{SignatureVerifier: key})
		if err == nil {
			_, err = v.Verify(context.Background(), &env)
		}
		return err
	}
	made, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(made) == 0 {
		return fmt.Errorf("%w: signature %q", errBroken, b64)
	}
	return key.VerifySignature(bytes.NewReader(made), bytes.NewReader(raw))
}

// signatureBundle verifies a bundle that signs the subject.
func (c *checker) signatureBundle(s Subject, e bundleEntry, annotations map[string]string) (Signature, error) {
	sig, st, err := c.bundleOf(s, e)
	if err != nil {
		return Signature{}, err
	}
	if st.PredicateType != cosigntypes.CosignSignPredicateType {
		return Signature{}, fmt.Errorf("%w: it signs a %q", errBroken, st.PredicateType)
	}
	about, _ := st.about(s)
	if f := annotated(annotations, about.Annotations); f != nil {
		return Signature{}, f.of(s.Descriptor.Digest.String())
	}
	sig.Annotations = texts(about.Annotations)
	return sig, nil
}

// bundleOf verifies a bundle about the subject.
func (c *checker) bundleOf(s Subject, e bundleEntry) (Signature, statement, error) {
	sig, raw, err := c.bundle(e.bundle, s.Descriptor.Digest)
	if err != nil {
		return Signature{}, statement{}, err
	}
	sig.Manifest = e.manifest
	st, err := parseStatement(raw)
	if err != nil {
		return Signature{}, statement{}, fmt.Errorf("%w: %w", errBroken, err)
	}
	// sigstore-go has compared the digest of some algorithm; it must be this one
	if f := speaksOf(&st, s); f != nil {
		return Signature{}, statement{}, f.of(s.Descriptor.Digest.String())
	}
	return sig, st, nil
}

// bundle verifies a sigstore bundle with a DSSE envelope and returns what is
// signed. If artifact is not empty the in-toto statement must speak of it;
// otherwise what the statement speaks of is for the caller to compare.
func (c *checker) bundle(b *sgbundle.Bundle, artifact digest.Digest) (Signature, []byte, error) {
	subject := "bundle"
	about, digests := verify.WithoutArtifactUnsafe(), []verify.ArtifactDigest(nil)
	if artifact != "" {
		subject = artifact.String()
		if err := artifact.Validate(); err != nil {
			return Signature{}, nil, fmt.Errorf("verify bundle: %w", err)
		}
		sum, err := hex.DecodeString(artifact.Encoded())
		if err != nil {
			return Signature{}, nil, fmt.Errorf("verify bundle: %w", err)
		}
		digests = []verify.ArtifactDigest{{Algorithm: artifact.Algorithm().String(), Digest: sum}}
		about = verify.WithArtifactDigests(digests)
	}
	if b.GetDsseEnvelope() == nil {
		return Signature{}, nil, fmt.Errorf("%w: bundle: no DSSE envelope", errBroken)
	}
	verifier, err := verify.NewVerifier(c.trust, c.bundleOptions()...)
	if err != nil {
		return Signature{}, nil, fmt.Errorf("verify bundle: %w", err)
	}
	who := verify.WithoutIdentitiesUnsafe() // identify compares them
	if c.trust.key != nil {
		who = verify.WithKey()
	}
	var why *failure
	err = guard(func() error {
		_, err := verifier.Verify(b, verify.NewPolicy(about, who))
		cert := bundleCertificate(b)
		if err != nil {
			why = c.explainBundle(b, cert, digests, err)
			return err
		}
		if c.trust.key == nil {
			why = c.identify(cert)
		}
		return nil
	})
	switch {
	case why != nil:
		return Signature{}, nil, why.of(subject)
	case err != nil:
		return Signature{}, nil, err
	}
	sig := Signature{Format: Bundle, LogIndex: -1, Payload: b.GetDsseEnvelope().GetPayload()}
	if c.trust.key == nil {
		sig.Identity, sig.Issuer = identityOf(bundleCertificate(b))
	}
	if entries := b.GetVerificationMaterial().GetTlogEntries(); len(entries) == 1 && !c.v.InsecureIgnoreTlog {
		sig.LogIndex, sig.Time = entries[0].GetLogIndex(), logTime(entries[0].GetIntegratedTime())
	}
	return sig, sig.Payload, nil
}

// logTime is a log's time; logs of version 2 have none.
func logTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// bundleOptions ask of a bundle what cosign asks.
func (c *checker) bundleOptions() []verify.VerifierOption {
	var o []verify.VerifierOption
	keyed := c.trust.key != nil
	if !keyed && !c.v.InsecureIgnoreSCT {
		o = append(o, verify.WithSignedCertificateTimestamps(1))
	}
	if !c.v.InsecureIgnoreTlog {
		o = append(o, verify.WithTransparencyLog(1))
	}
	switch {
	case c.v.signedTimestamps():
		o = append(o, verify.WithSignedTimestamps(1))
	case keyed:
		o = append(o, verify.WithNoObserverTimestamps())
	case !c.v.InsecureIgnoreTlog:
		o = append(o, verify.WithIntegratedTimestamps(1))
	default:
		o = append(o, verify.WithCurrentTime())
	}
	return o
}

// explainBundle says why sigstore-go refused a bundle.
func (c *checker) explainBundle(b *sgbundle.Bundle, cert *x509.Certificate, digests []verify.ArtifactDigest, refusal error) *failure {
	material, err := b.VerificationContent()
	if err != nil {
		return &failure{Malformed, err}
	}
	content, err := b.SignatureContent()
	if err != nil {
		return &failure{Malformed, err}
	}
	reason := Unverifiable
	if c.trust.key != nil {
		hint := b.GetVerificationMaterial().GetPublicKey().GetHint()
		if cert != nil {
			return &failure{WrongKey, errors.New("it is signed with a certificate")}
		}
		if hint != c.hint {
			reason = WrongKey
		}
	} else if f := c.vouched(cert, c.trust); f != nil {
		return f
	}
	if err := verify.VerifySignature(content, material, c.trust); err != nil {
		return &failure{reason, err}
	}
	if digests != nil {
		if err := verify.VerifySignatureWithArtifactDigests(content, material, c.trust, digests); err != nil {
			return &failure{DigestMismatch, err}
		}
	}
	if !c.v.InsecureIgnoreTlog {
		if _, err := verify.VerifyTlogEntry(b, c.trust, 1, false); err != nil {
			if cert != nil {
				for _, e := range b.GetVerificationMaterial().GetTlogEntries() {
					if err := cosign.CheckExpiry(cert, time.Unix(e.GetIntegratedTime(), 0)); err != nil {
						return &failure{Expired, err}
					}
				}
			}
			return &failure{NoLogEntry, err}
		}
	}
	if cert != nil && c.v.InsecureIgnoreTlog && !c.v.signedTimestamps() {
		if err := cosign.CheckExpiry(cert, time.Now()); err != nil {
			return &failure{Expired, err}
		}
	}
	return &failure{Unverifiable, refusal}
}

// bundleCertificate is the certificate in a bundle; nil if there is none.
func bundleCertificate(b *sgbundle.Bundle) *x509.Certificate {
	content, err := b.VerificationContent()
	if err != nil {
		return nil
	}
	return content.Certificate()
}
