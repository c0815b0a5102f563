package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign/attestation"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	cosigntypes "github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// predicateTypes are cosign's short names.
var predicateTypes = map[string]string{
	"custom":           attestation.CosignCustomProvenanceV01,
	"slsaprovenance":   "https://slsa.dev/provenance/v0.2",
	"slsaprovenance02": "https://slsa.dev/provenance/v0.2",
	"slsaprovenance1":  "https://slsa.dev/provenance/v1",
	"spdx":             "https://spdx.dev/Document",
	"spdxjson":         "https://spdx.dev/Document",
	"cyclonedx":        "https://cyclonedx.org/bom",
	"link":             "https://in-toto.io/Link/v1",
	"vuln":             attestation.CosignVulnProvenanceV01,
	"openvex":          attestation.OpenVexNamespace,
}

// PredicateTypeURI resolves one of cosign's short names (slsaprovenance, spdx,
// cyclonedx, custom …); a URI stands for itself.
func PredicateTypeURI(name string) (string, error) {
	if uri, ok := predicateTypes[name]; ok {
		return uri, nil
	}
	if _, err := url.ParseRequestURI(name); err != nil {
		return "", fmt.Errorf("predicate type %q: want custom, slsaprovenance, slsaprovenance02, slsaprovenance1, spdx, spdxjson, cyclonedx, link, vuln, openvex or a URI", name)
	}
	return name, nil
}

// The versions of in-toto statements. cosign writes the first where it attests
// and the second where it signs; readers take both.
const (
	statementV01 = "https://in-toto.io/Statement/v0.1"
	statementV1  = "https://in-toto.io/Statement/v1"
)

// statement is an in-toto statement.
type statement struct {
	Type          string          `json:"_type"`
	Subject       []resource      `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate,omitempty"`
}

// resource is what a statement speaks of.
type resource struct {
	Name        string            `json:"name,omitempty"`
	Digest      map[string]string `json:"digest"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

// newStatement speaks of the subject.
func newStatement(s Subject, predicateType string, predicate json.RawMessage, annotations map[string]string) statement {
	return statement{
		Type: statementV1,
		Subject: []resource{{
			Name:        s.Repository,
			Digest:      map[string]string{string(s.Descriptor.Digest.Algorithm()): s.Descriptor.Digest.Encoded()},
			Annotations: anyValues(annotations),
		}},
		PredicateType: predicateType,
		Predicate:     predicate,
	}
}

// anyValues is the map with values of any type; nil if it is empty.
func anyValues(m map[string]string) map[string]any {
	if len(m) == 0 {
		return nil
	}
	all := make(map[string]any, len(m))
	for k, v := range m {
		all[k] = v
	}
	return all
}

// parseStatement reads what a DSSE envelope holds.
func parseStatement(raw []byte) (statement, error) {
	var st statement
	if err := json.Unmarshal(raw, &st); err != nil {
		return statement{}, fmt.Errorf("in-toto statement: %w", err)
	}
	if st.Type != statementV01 && st.Type != statementV1 {
		return statement{}, fmt.Errorf("in-toto statement: of type %q", st.Type)
	}
	return st, nil
}

// about finds what the statement says of the digest.
func (st *statement) about(s Subject) (resource, bool) {
	for _, r := range st.Subject {
		if r.Digest[string(s.Descriptor.Digest.Algorithm())] == s.Descriptor.Digest.Encoded() {
			return r, true
		}
	}
	return resource{}, false
}

// AttestOptions are what is attested, and how.
type AttestOptions struct {
	Signer
	Format Format
	// PredicateType is one of cosign's short names or a URI; empty: custom.
	PredicateType string
	// Predicate is JSON; with custom and spdx it may be any text.
	Predicate []byte
}

// Attest signs a statement about the subject and writes it beside it.
func Attest(ctx context.Context, s Subject, o AttestOptions) ([]Signature, error) {
	fail := func(err error) ([]Signature, error) {
		return nil, fmt.Errorf("attest %s: %w", s.Descriptor.Digest, err)
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	st, err := o.statement(s)
	if err != nil {
		return fail(err)
	}
	by, err := o.Signer.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer by.close()
	b, raw, err := by.statement(ctx, st)
	if err != nil {
		return fail(err)
	}
	var all []Signature
	if o.Format != Bundle {
		sig, err := by.legacyAttestation(ctx, s, st, b, raw)
		if err != nil {
			return fail(err)
		}
		all = append(all, sig)
	}
	if o.Format != Legacy {
		sig, err := by.writeStatement(ctx, s, st, b, raw)
		if err != nil {
			return fail(err)
		}
		all = append(all, sig)
	}
	return all, nil
}

// statement makes what cosign attest would make of the predicate, but leaves
// the predicate as it is where cosign would drop what it does not know.
func (o *AttestOptions) statement(s Subject) (statement, error) {
	kind := o.PredicateType
	if kind == "" {
		kind = "custom"
	}
	uri, err := PredicateTypeURI(kind)
	if err != nil {
		return statement{}, err
	}
	if uri == cosigntypes.CosignSignPredicateType {
		return statement{}, fmt.Errorf("predicate type %s is a signature's: sign instead", uri)
	}
	if len(o.Predicate) > maxEnvelope/2 {
		return statement{}, fmt.Errorf("predicate: more than %d bytes", maxEnvelope/2)
	}
	predicate := json.RawMessage(o.Predicate)
	switch {
	case uri == attestation.CosignCustomProvenanceV01:
		predicate, err = json.Marshal(attestation.CosignPredicate{Data: string(o.Predicate), Timestamp: time.Now().UTC().Format(time.RFC3339)})
	case kind == "spdx":
		// bundles hold objects only
		if o.Format != Legacy {
			return statement{}, errors.New("predicate: SPDX as text fits the legacy format only; use spdxjson")
		}
		predicate, err = json.Marshal(string(o.Predicate))
	default:
		var object map[string]json.RawMessage
		if err := json.Unmarshal(o.Predicate, &object); err != nil || object == nil {
			return statement{}, fmt.Errorf("predicate: %s wants a JSON object", kind)
		}
		// cosign's own checks of the fields that a type must have
		_, err = attestation.GenerateStatement(attestation.GenerateOpts{Predicate: bytes.NewReader(o.Predicate), Type: kind})
	}
	if err != nil {
		return statement{}, fmt.Errorf("predicate: %w", err)
	}
	st := newStatement(s, uri, predicate, nil)
	st.Type = statementV01
	return st, nil
}

// legacyAttestation adds the envelope of a bundle to the .att tag.
func (se *session) legacyAttestation(ctx context.Context, s Subject, st statement, b *protobundle.Bundle, raw []byte) (Signature, error) {
	// the very bytes that sigstore-go enters in the log
	envelope, err := json.Marshal(b.GetDsseEnvelope())
	if err != nil {
		return Signature{}, err
	}
	var stamps []*protocommon.RFC3161SignedTimestamp
	if se.timestamp != nil {
		// in this form the whole envelope is stamped, in a bundle its signature
		stamp, err := se.timestamp.GetTimestamp(ctx, envelope)
		if err != nil {
			return Signature{}, err
		}
		stamps = append(stamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: stamp})
	}
	opts := append(se.legacyOptions(b, stamps),
		static.WithLayerMediaType(dsseType), static.WithAnnotations(map[string]string{predicateKey: st.PredicateType}))
	att, err := static.NewAttestation(envelope, opts...)
	if err != nil {
		return Signature{}, err
	}
	d, err := appendLegacy(ctx, s, "att", att, func(ocispec.Descriptor) bool { return false })
	if err != nil {
		return Signature{}, err
	}
	return written(Legacy, d, b, raw, nil), nil
}

// writeStatement stores a signed statement as a bundle.
func (se *session) writeStatement(ctx context.Context, s Subject, st statement, b *protobundle.Bundle, raw []byte) (Signature, error) {
	out, err := protojson.Marshal(b)
	if err != nil {
		return Signature{}, err
	}
	d, err := writeBundle(ctx, s, out, st.PredicateType)
	if err != nil {
		return Signature{}, err
	}
	return written(Bundle, d, b, raw, nil), nil
}

// Attestation is a statement about a subject. What an Attestation is worth
// says the function that returns it.
type Attestation struct {
	Signature
	PredicateType string // a URI
	Statement     json.RawMessage
	Predicate     json.RawMessage
}

// AttestationOptions say whose attestation is wanted and of which type.
type AttestationOptions struct {
	Verifier
	// PredicateType is one of cosign's short names or a URI; empty: any.
	PredicateType string
}

// VerifyAttestation returns the attestations of the subject that hold: signed
// by whom the Verifier names, about this digest, of this type. If there is
// none, the error is a *VerificationError. What a predicate says is for the
// caller to judge.
func VerifyAttestation(ctx context.Context, s Subject, o AttestationOptions) ([]Attestation, error) {
	fail := func(err error) ([]Attestation, error) {
		if errors.Is(err, ErrNotVerified) {
			return nil, err // it says of what
		}
		return nil, fmt.Errorf("verify attestation of %s: %w", s.Descriptor.Digest, err)
	}
	want := ""
	if o.PredicateType != "" {
		var err error
		if want, err = PredicateTypeURI(o.PredicateType); err != nil {
			return fail(err)
		}
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	c, err := o.Verifier.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer c.close()
	claims, err := claimed(ctx, s)
	if err != nil {
		return fail(err)
	}
	var found []Attestation
	f := failures{subject: s.Descriptor.Digest.String(), none: NoAttestation}
	for _, cl := range claims {
		switch {
		case cl.err != nil:
			f.add(cl.err)
			continue
		case want != "" && cl.PredicateType != want:
			// signed or not, it is not what was asked for
			continue
		}
		if cl.legacy != nil {
			err = c.attestation(ctx, s, cl)
		} else {
			cl.Signature, _, err = c.bundleOf(s, *cl.bundle)
		}
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		if err != nil {
			f.add(err)
			continue
		}
		found = append(found, cl.Attestation)
	}
	if len(found) > 0 {
		return found, nil
	}
	return fail(f.err())
}

// Attestations lists what is attested of the subject and DECIDES NOTHING: no
// signature, identity, digest or log entry is checked, anyone who may write to
// the repository can have written it. VerifyAttestation decides. What cannot
// be read is left out.
func Attestations(ctx context.Context, s Subject) ([]Attestation, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("list attestations: %w", err)
	}
	claims, err := claimed(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("list attestations of %s: %w", s.Descriptor.Digest, err)
	}
	var all []Attestation
	for _, cl := range claims {
		if cl.err == nil {
			all = append(all, cl.Attestation)
		} else if !errors.Is(cl.err, errBroken) {
			return nil, fmt.Errorf("list attestations of %s: %w", s.Descriptor.Digest, cl.err)
		}
	}
	return all, nil
}

// claim is an attestation that nobody has checked.
type claim struct {
	Attestation
	legacy *legacyEntry
	bundle *bundleEntry
	err    error
}

// claimed reads the attestations of either format, and no signatures.
func claimed(ctx context.Context, s Subject) ([]*claim, error) {
	legacy, err := legacyEntries(ctx, s, "att", dsseType, maxEnvelope)
	if err != nil {
		return nil, err
	}
	bundles, err := bundleEntries(ctx, s)
	if err != nil {
		return nil, err
	}
	var all []*claim
	add := func(cl *claim, f Format, manifest ocispec.Descriptor, payload []byte, err error) {
		cl.Signature = Signature{Format: f, Manifest: manifest, LogIndex: -1, Payload: payload}
		var st statement
		if err == nil {
			if st, err = parseStatement(payload); err != nil {
				err = fmt.Errorf("%w: %w", errBroken, err)
			}
		}
		cl.err = err
		cl.PredicateType, cl.Statement, cl.Predicate = st.PredicateType, payload, st.Predicate
		if st.PredicateType != cosigntypes.CosignSignPredicateType {
			all = append(all, cl)
		}
	}
	for _, e := range legacy {
		var payload []byte
		err := e.err
		if err == nil {
			payload, err = envelopePayload(e)
		}
		cl := &claim{legacy: &e}
		add(cl, Legacy, e.manifest, payload, err)
		if err == nil {
			if cert, err := e.sig.Cert(); err == nil && cert != nil {
				cl.Identity, cl.Issuer = identityOf(cert)
			}
		}
	}
	for _, e := range bundles {
		cl := &claim{bundle: &e}
		if e.err == nil && e.bundle.GetDsseEnvelope() == nil {
			continue
		}
		var payload []byte
		if e.err == nil {
			payload = e.bundle.GetDsseEnvelope().GetPayload()
		}
		add(cl, Bundle, e.manifest, payload, e.err)
		if e.err == nil {
			if cert := bundleCertificate(e.bundle); cert != nil {
				cl.Identity, cl.Issuer = identityOf(cert)
			}
		}
	}
	return all, nil
}

// envelopePayload unwraps a DSSE envelope without checking its signature.
func envelopePayload(e legacyEntry) ([]byte, error) {
	raw, err := e.sig.Payload()
	if err != nil {
		return nil, err
	}
	var env dsse.Envelope
	if err := json.Unmarshal(raw, &env); err != nil {
		return nil, fmt.Errorf("%w: DSSE envelope: %w", errBroken, err)
	}
	payload, err := env.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("%w: DSSE envelope: %w", errBroken, err)
	}
	return payload, nil
}
