// Package signing signs, attests and verifies what lies in a registry or an
// OCI layout, as cosign does and so that cosign, policy-controller and Kyverno
// read it. It knows a digest and a place that holds it (an oras target),
// nothing of what was packed.
//
//	subject (a manifest's digest)
//	├── tag sha256-<hex>.sig    simplesigning payloads, a layer each   Legacy
//	├── tag sha256-<hex>.att    DSSE envelopes, a layer each           Legacy
//	└── referrers               sigstore bundles v0.3, a manifest each Bundle
//
// Sign and Attest write, Verify, VerifyAttestation and Policy.Check decide,
// Attestations lists without deciding. What does not verify is ErrNotVerified,
// and nothing else that fails is ever taken for a success.
//
// Formats: cosign's specs/SIGNATURE_SPEC.md, specs/BUNDLE_SPEC.md, the in-toto
// attestation framework v1, and the OpenSSF model signing format (model.go).
package signing

import (
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
)

// Subject is what is signed: always a digest, never a tag.
type Subject struct {
	// Repository is the name that signed payloads carry as docker-reference,
	// such as registry.example/team/model. It is a claim, not an address.
	Repository string
	// Descriptor of the manifest or index; its digest must be SHA-256.
	Descriptor ocispec.Descriptor
	// Target holds the manifest and what is written beside it. A remote
	// repository should skip the garbage collection of referrers, which
	// registries without a referrers API refuse.
	Target oras.GraphTarget
}

func (s Subject) check() error {
	if s.Target == nil {
		return errors.New("subject has no target")
	}
	if err := s.Descriptor.Digest.Validate(); err != nil {
		return fmt.Errorf("subject %q: %w", s.Descriptor.Digest, err)
	}
	if s.Descriptor.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("subject %s: only sha256 digests can be signed", s.Descriptor.Digest)
	}
	return nil
}

// attachedTag is where cosign keeps what belongs to the subject (cosign's
// SIGNATURE_SPEC.md, "Tag-based discovery").
func (s Subject) attachedTag(suffix string) string {
	return "sha256-" + s.Descriptor.Digest.Encoded() + "." + suffix
}

// Format is the form a signature is stored in.
type Format int

const (
	// Legacy is cosign's tag (.sig, .att). Every verifier reads it: cosign 1
	// to 3, policy-controller, Kyverno, Connaisseur.
	Legacy Format = iota
	// Bundle is a sigstore bundle v0.3 as an OCI 1.1 referrer: cosign 2.6 and
	// 3, Kyverno; policy-controller 0.13 has it "not yet implemented". cosign
	// 2.6 wants a trusted root for it even where a key needs none.
	Bundle
	// Both writes the two. cosign, once it finds one bundle beside a subject,
	// signature or attestation, looks at no legacy signature any more: mix
	// formats only if every reader can read bundles.
	Both
)

// String names the format as in a flag: legacy, bundle or both.
func (f Format) String() string {
	switch f {
	case Legacy:
		return "legacy"
	case Bundle:
		return "bundle"
	case Both:
		return "both"
	}
	return fmt.Sprintf("Format(%d)", int(f))
}

// ParseFormat is the inverse of String.
func ParseFormat(s string) (Format, error) {
	for _, f := range []Format{Legacy, Bundle, Both} {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("signature format %q: want legacy, bundle or both", s)
}

// Signature is one that was written or verified.
type Signature struct {
	Format   Format
	Manifest ocispec.Descriptor // that holds it
	// Identity and Issuer are the certificate's; both are empty for a key.
	Identity, Issuer string
	// Annotations that were signed with the digest.
	Annotations map[string]string
	// LogIndex is the place in the transparency log, -1 if there is none.
	LogIndex int64
	// Time is when the log says it was signed; zero if there is no entry.
	Time time.Time
	// Payload is what was signed, byte by byte.
	Payload []byte
}

// ErrNotVerified is what every VerificationError is.
var ErrNotVerified = errors.New("not verified")

// Reason says why something is not verified.
type Reason string

// The reasons, from the least to the most that held.
const (
	NoSignature        Reason = "no signature"
	Malformed          Reason = "malformed signature"
	WrongKey           Reason = "not signed with this key"
	NoCertificate      Reason = "signed with a key, not with a certificate"
	UntrustedIssuer    Reason = "certificate of an authority that is not trusted"
	IdentityMismatch   Reason = "signed by another identity"
	Expired            Reason = "signed when the certificate was not valid"
	NoLogEntry         Reason = "no valid transparency log entry"
	DigestMismatch     Reason = "signature of another digest"
	AnnotationMismatch Reason = "signed annotations differ"
	NoAttestation      Reason = "no attestation of this type"
	ContentMismatch    Reason = "files differ from what was signed"
	NoPolicy           Reason = "no policy covers it"
	PolicyDenied       Reason = "refused by policy"
	Unverifiable       Reason = "signature does not verify"
)

// rank orders the reasons by how far a signature came, to report the closest
// of several failures.
var rank = func() map[Reason]int {
	m := map[Reason]int{}
	for i, r := range []Reason{NoSignature, NoAttestation, Malformed, Unverifiable, NoCertificate, WrongKey, UntrustedIssuer, IdentityMismatch,
		Expired, NoLogEntry, DigestMismatch, AnnotationMismatch} {
		m[r] = i
	}
	return m
}()

// VerificationError is an ErrNotVerified that says why.
type VerificationError struct {
	Subject string // digest or file
	Reason  Reason
	Err     error // the details, may be nil
}

// Error implements error.
func (e *VerificationError) Error() string {
	s := fmt.Sprintf("%s: %s: %s", e.Subject, ErrNotVerified, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes it an ErrNotVerified.
func (e *VerificationError) Is(target error) bool { return target == ErrNotVerified }

// Unwrap returns the details.
func (e *VerificationError) Unwrap() error { return e.Err }

// closest returns the failure of the signature that came nearest to being
// valid, and how many others there were.
func closest(subject string, none Reason, failures []error) error {
	best := &VerificationError{Subject: subject, Reason: none}
	for _, err := range failures {
		var v *VerificationError
		if !errors.As(err, &v) {
			v = &VerificationError{Subject: subject, Reason: Unverifiable, Err: err}
		}
		if best.Err == nil && best.Reason == none || rank[v.Reason] > rank[best.Reason] {
			best = v
		}
	}
	if len(failures) > 1 {
		return &VerificationError{Subject: subject, Reason: best.Reason, Err: fmt.Errorf("%w (the nearest of %d signatures)", detail(best.Err), len(failures))}
	}
	return best
}

func detail(err error) error {
	if err == nil {
		return errors.New("none fits")
	}
	return err
}
