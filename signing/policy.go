package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/semver"
	"oras.land/oras-go/v2"
)

// Policy says whose signatures and which attestations what repository needs:
// the ClusterImagePolicies (policy.sigstore.dev/v1beta1 and v1alpha1) of one
// file, as sigstore's policy-controller and its policy-tester read them.
//
// A policy covers what one of its globs matches. All policies that cover a
// subject must hold, each by any one of its authorities; what none covers is
// refused. A policy with match (kinds of Kubernetes objects, labels) covers
// nothing here, as in policy-tester. One with mode: warn that does not hold
// becomes a warning.
//
// What mpack cannot decide is refused when the file is read, never passed over:
// fields it does not know, CUE and Rego policies (either language would make
// mpack larger by a fifth), CA certificates in keyless authorities (which
// policy-controller takes for keys), prefixes of signature tags.
//
// An attacker who can move tags can offer an old version, well signed, for a
// new one. Two annotations in a policy's metadata refuse it; policy-controller
// does not read them:
//
//	mpack/minimum-version: 1.4.0               semantic version
//	mpack/not-before: 2026-03-01T00:00:00Z     RFC 3339
//
// They are compared with org.opencontainers.image.version and .created in the
// manifest (or, of an index, in what it holds), which the signed digest covers.
// Who states neither is refused, and so is who contradicts himself.
type Policy struct {
	rules []rule
}

// rule is one ClusterImagePolicy.
type rule struct {
	name        string
	globs       []*regexp.Regexp
	authorities []authority
	warn        bool
	match       bool // it is about Kubernetes objects only

	minimumVersion string // with a v; empty: any
	notBefore      time.Time
}

// authority is one of those of whom any is enough.
type authority struct {
	name      string
	static    *policyStatic
	verifier  Verifier
	trustRoot string // that must be given; empty: none
	format    string // legacy, bundle, or empty for either
	source    string // another repository with the signatures
	// attestations that are wanted in place of a signature, by type
	attestations []policyAttestation
}

// maxPolicy is how many bytes of a policy file are read.
const maxPolicy = 4 << 20

// LoadPolicy reads a policy file.
func LoadPolicy(path string) (*Policy, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	p, err := ParsePolicy(f)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads YAML with one or several ClusterImagePolicies. Any field or
// kind that it does not know is an error: a misspelt one must not open a door.
func ParsePolicy(r io.Reader) (*Policy, error) {
	raw, err := readLimited(r, maxPolicy)
	if err != nil {
		return nil, err
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	p := &Policy{}
	for {
		var doc policyDocument
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if reflect.DeepEqual(doc, policyDocument{}) {
			continue // nothing between two separators
		}
		r, err := doc.rule()
		if err != nil {
			return nil, fmt.Errorf("ClusterImagePolicy %q: %w", doc.Metadata.Name, err)
		}
		// policy-controller passes over the second
		if slices.ContainsFunc(p.rules, func(o rule) bool { return o.name == r.name }) {
			return nil, fmt.Errorf("ClusterImagePolicy %q: there are two of that name", r.name)
		}
		p.rules = append(p.rules, r)
	}
	if len(p.rules) == 0 {
		return nil, errors.New("there is no ClusterImagePolicy in it")
	}
	return p, p.oneTrustRoot()
}

// oneTrustRoot refuses policies that know more trust roots than can be given.
func (p *Policy) oneTrustRoot() error {
	var one string
	for _, r := range p.rules {
		for _, a := range r.authorities {
			if a.trustRoot == "" {
				continue
			}
			if one != "" && a.trustRoot != one {
				return fmt.Errorf("trustRootRef: %q and %q are named, but only one trusted root can be given", one, a.trustRoot)
			}
			one = a.trustRoot
		}
	}
	return nil
}

var globCharacters = regexp.MustCompile(`^[a-zA-Z0-9-_:/*.@]+$`)

// compileGlob is policy-controller's pkg/apis/glob: "*" is any run of
// characters without a slash, "**" with slashes too, and the whole reference,
// with registry and tag or digest, must match.
func compileGlob(glob string) (*regexp.Regexp, error) {
	if !globCharacters.MatchString(glob) {
		return nil, fmt.Errorf("%q: want a reference with * and ** for wildcards", glob)
	}
	// short forms, as policy-controller has them
	switch glob {
	case "*":
		glob = name.DefaultRegistry + "/library/*"
	case "*/*":
		glob = name.DefaultRegistry + "/*/*"
	}
	var re strings.Builder
	re.WriteByte('^')
	for i := 0; i < len(glob); i++ {
		switch {
		case strings.HasPrefix(glob[i:], "**"):
			re.WriteString(".*")
			i++
		case glob[i] == '*':
			re.WriteString("[^/]*")
		default:
			re.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	re.WriteByte('$')
	return regexp.Compile(re.String())
}

// referenceNames are the spellings of an image that globs are tried on: with
// all that a short one leaves out, and as it is.
func referenceNames(image string) ([]string, name.Reference, error) {
	ref, err := name.ParseReference(image, name.WeakValidation)
	if err != nil {
		return nil, nil, err
	}
	names := []string{ref.Name()}
	if image != ref.Name() {
		names = append(names, image)
	}
	return names, ref, nil
}

// CheckOptions are what a policy does not say itself.
type CheckOptions struct {
	// Reference is what the user asked for, with its tag. Globs that name tags
	// are tried on it; others also on Repository@digest. Empty: only those.
	Reference string
	// TrustedRoot is a trusted_root.json in place of sigstore's own; it is what
	// trustRootRef means, and without it authorities with one do not hold.
	TrustedRoot string
	// Offline asks no transparency log; what is stored with a signature must do.
	Offline bool
	// Source opens the repository that an authority's source names; nil: such
	// authorities do not hold.
	Source func(ctx context.Context, repository string) (oras.GraphTarget, error)
}

// Decision is why a subject is let through.
type Decision struct {
	Matches []PolicyMatch
	// Warnings of policies in mode warn that do not hold.
	Warnings []error
}

// PolicyMatch is a policy that holds, and by which of its authorities.
type PolicyMatch struct {
	Policy, Authority string
	// Static tells that nothing was verified: the authority lets all through.
	Static bool
	// Signatures, or Attestations where the authority asks for those.
	Signatures   []Signature
	Attestations []Attestation
}

// Check decides whether the subject may be used. If not, the error is a
// *VerificationError: NoPolicy if no policy covers it, PolicyDenied if one does
// not hold, with the reasons of its authorities. A registry or another service
// that fails is another error, and no less a refusal.
func (p *Policy) Check(ctx context.Context, s Subject, o CheckOptions) (*Decision, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("check policy: %w", err)
	}
	rules, err := p.covering(s, o.Reference)
	if err != nil {
		return nil, err
	}
	var d Decision
	for _, r := range rules {
		m, err := r.check(ctx, s, o)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			d.Matches = append(d.Matches, m)
		case r.warn:
			d.Warnings = append(d.Warnings, err)
		default:
			return nil, err
		}
	}
	return &d, nil
}

// covering finds the rules that the subject must satisfy.
func (p *Policy) covering(s Subject, reference string) ([]*rule, error) {
	refuse := func(err error) ([]*rule, error) {
		return nil, &VerificationError{Subject: s.Descriptor.Digest.String(), Reason: NoPolicy, Err: err}
	}
	names, at, err := referenceNames(s.Repository + "@" + s.Descriptor.Digest.String())
	if err != nil {
		return refuse(fmt.Errorf("%q is not a repository's name: %w", s.Repository, err))
	}
	if reference != "" {
		more, ref, err := referenceNames(reference)
		if err != nil {
			return refuse(err)
		}
		if ref.Context().Name() != at.Context().Name() {
			return nil, fmt.Errorf("check policy: %s is not in %s", reference, s.Repository)
		}
		names = append(names, more...)
	}
	var rules []*rule
	for i := range p.rules {
		r := &p.rules[i]
		if !r.match && slices.ContainsFunc(r.globs, func(g *regexp.Regexp) bool { return slices.ContainsFunc(names, g.MatchString) }) {
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return refuse(fmt.Errorf("none of %d is about %s", len(p.rules), names[len(names)-1]))
	}
	return rules, nil
}

// check looks for an authority that holds, and at the pinned version.
func (r *rule) check(ctx context.Context, s Subject, o CheckOptions) (PolicyMatch, error) {
	var denied, failed error
	for _, a := range r.authorities {
		m, err := a.check(ctx, s, o)
		if err == nil {
			if err = r.pinned(ctx, s); err != nil {
				return m, fmt.Errorf("policy %s: %w", r.name, err)
			}
			m.Policy = r.name
			return m, nil
		}
		err = fmt.Errorf("authority %s: %w", a.name, err)
		if errors.Is(err, ErrNotVerified) {
			denied = alsoError(denied, err)
		} else {
			failed = alsoError(failed, err)
		}
	}
	if failed != nil {
		return PolicyMatch{}, fmt.Errorf("policy %s cannot be decided: %w", r.name, failed)
	}
	return PolicyMatch{}, denial(s, fmt.Errorf("policy %s: %w", r.name, denied))
}

func denial(s Subject, err error) error {
	return &VerificationError{Subject: s.Descriptor.Digest.String(), Reason: PolicyDenied, Err: err}
}

// alsoError is both errors on one line.
func alsoError(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w; %w", a, b)
}

func (a *authority) check(ctx context.Context, s Subject, o CheckOptions) (PolicyMatch, error) {
	m := PolicyMatch{Authority: a.name}
	if a.static != nil {
		if a.static.Action != "pass" {
			why := "it lets nothing through"
			if a.static.Message != "" {
				why += fmt.Sprintf(": %q", a.static.Message)
			}
			return m, denial(s, errors.New(why))
		}
		m.Static = true
		return m, nil
	}
	v := a.verifier
	v.TrustedRoot, v.Offline = o.TrustedRoot, o.Offline
	if a.trustRoot != "" && o.TrustedRoot == "" {
		return m, denial(s, fmt.Errorf("trustRootRef %s: no trusted root is given", a.trustRoot))
	}
	if a.source != "" {
		if o.Source == nil {
			return m, denial(s, fmt.Errorf("source %s: signatures in other repositories cannot be read here", a.source))
		}
		target, err := o.Source(ctx, a.source)
		if err != nil {
			return m, fmt.Errorf("source %s: %w", a.source, err)
		}
		s.Target = target
	}
	if len(a.attestations) == 0 {
		all, err := Verify(ctx, s, VerifyOptions{Verifier: v})
		if err != nil {
			return m, err
		}
		m.Signatures = slices.DeleteFunc(all, func(sig Signature) bool { return a.format != "" && sig.Format.String() != a.format })
		if len(m.Signatures) == 0 {
			return m, denial(s, fmt.Errorf("no signature has the format %s", a.format))
		}
		return m, nil
	}
	for _, want := range a.attestations {
		all, err := VerifyAttestation(ctx, s, AttestationOptions{Verifier: v, PredicateType: want.PredicateType})
		if err != nil {
			return m, fmt.Errorf("attestation %s: %w", want.Name, err)
		}
		all = slices.DeleteFunc(all, func(at Attestation) bool { return a.format != "" && at.Format.String() != a.format })
		if len(all) == 0 {
			return m, denial(s, fmt.Errorf("attestation %s: none has the format %s", want.Name, a.format))
		}
		m.Attestations = append(m.Attestations, all...)
	}
	return m, nil
}

// pinned checks what the manifest states against what the policy pins. The
// digest is that of a signed subject by now, so the statement is the signer's.
func (r *rule) pinned(ctx context.Context, s Subject) error {
	if r.minimumVersion == "" && r.notBefore.IsZero() {
		return nil
	}
	inner, err := members(ctx, s)
	if err != nil {
		return err
	}
	if len(inner) >= maxSignatures {
		return denial(s, fmt.Errorf("it holds more than the %d manifests that are looked at", maxSignatures))
	}
	var versions, times []string
	for _, s := range append(inner, s) {
		raw, err := fetch(ctx, s.Target, s.Descriptor, maxManifest)
		if err != nil {
			return err
		}
		var m struct{ Annotations map[string]string }
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("%s: %w", s.Descriptor.Digest, err)
		}
		if v, ok := m.Annotations[ocispec.AnnotationVersion]; ok {
			versions = append(versions, v)
		}
		if t, ok := m.Annotations[ocispec.AnnotationCreated]; ok {
			times = append(times, t)
		}
	}
	if r.minimumVersion != "" {
		if len(versions) == 0 {
			return denial(s, fmt.Errorf("it does not state its version (%s), which must be %s or later", ocispec.AnnotationVersion, r.minimumVersion))
		}
		for _, v := range versions {
			if c := canonicalVersion(v); c == "" || semver.Compare(c, r.minimumVersion) < 0 {
				return denial(s, fmt.Errorf("it is version %q, but must be %s or later", v, r.minimumVersion))
			}
		}
	}
	if !r.notBefore.IsZero() {
		if len(times) == 0 {
			return denial(s, fmt.Errorf("it does not state when it was made (%s), which must be %s or later", ocispec.AnnotationCreated, r.notBefore.Format(time.RFC3339)))
		}
		for _, v := range times {
			if t, err := time.Parse(time.RFC3339, v); err != nil || t.Before(r.notBefore) {
				return denial(s, fmt.Errorf("it was made at %q, but must be from %s or later", v, r.notBefore.Format(time.RFC3339)))
			}
		}
	}
	return nil
}
