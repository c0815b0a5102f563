package signing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

// cip is a ClusterImagePolicy of that name for registry.example, with the
// authorities in YAML.
func cip(name string, authorities ...string) string {
	return policyText(name, "registry.example/**", "", authorities...)
}

func policyText(name, glob, metadata string, authorities ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\napiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: %s\n%sspec:\n  images:\n  - glob: %q\n  authorities:\n", name, metadata, glob)
	for _, a := range authorities {
		b.WriteString("  - " + strings.ReplaceAll(a, "\n", "\n    ") + "\n")
	}
	return b.String()
}

// keyAuthority asks for the key in the file.
func keyAuthority(t testing.TB, public string) string {
	t.Helper()
	pem, err := os.ReadFile(public)
	check(t, err)
	return "key:\n  data: |\n    " + strings.ReplaceAll(strings.TrimSpace(string(pem)), "\n", "\n    ")
}

func parse(t testing.TB, texts ...string) *Policy {
	t.Helper()
	p, err := ParsePolicy(strings.NewReader(strings.Join(texts, "")))
	check(t, err)
	return p
}

func TestGlobs(t *testing.T) {
	hub := name.DefaultRegistry
	const sum = "@sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
	for _, c := range []struct {
		glob, image string
		want        bool
	}{
		{"**", "registry.example/a/b:v1", true},
		{"registry.example/**", "registry.example/a/b:v1", true},
		{"registry.example/**", "registry.example/aa" + sum, true},
		{"registry.example/*", "registry.example/aa" + sum, true}, // no slash in a digest
		{"registry.example/*", "registry.example/a/b", false},
		{"registry.example/*/*", "registry.example/aa", false},
		{"registry.example/*/*", "registry.example/a/b", true},
		{"registry.example/aa", "registry.example/aa", true}, // as it is written
		{"registry.example/aa", "registry.example/aa:latest", false},
		{"registry.example/aa*", "registry.example/aa:v1", true},
		{"registry.example/aa:*", "registry.example/aa:v1", true},
		{"registry.example/aa:*", "registry.example/aa" + sum, false},
		{"registry.example/aa" + sum, "registry.example/aa" + sum, true},
		{"registry.example/**/c", "registry.example/a/b/c", true},
		{"registry.example/***", "registry.example/a/b", true},
		{"registry.example/aa:v1", "registryxexample/aa:v1", false}, // a dot is a dot
		{"registry.example/aa:v1", "evil.registry.example/aa:v1", false},
		{"registry.example/aa:v1", "registry.example/aa:v1.2", false},
		{"**", "aa", true},
		{"*", "aa", true},
		{"*", "team/a", false},
		{"*/*", "team/a", true},
		{"*/*", "registry.example/aa", false},
		{hub + "/library/*", "aa", true},
		{hub + "/library/aa:latest", "aa", true},
		{hub + "/*/*", "team/a", true},
		{"a*", "aa", true},
		{"team/a", "team/a", true},
	} {
		g, err := compileGlob(c.glob)
		check(t, err)
		names, _, err := referenceNames(c.image)
		check(t, err)
		if got := slices.ContainsFunc(names, g.MatchString); got != c.want {
			t.Errorf("%s on %s: %t, want %t", c.glob, c.image, got, c.want)
		}
	}
	for _, bad := range []string{"", ".+", "[a-z]*", "a b", "a\n", "a#", "a|b", `a\`} {
		if _, err := compileGlob(bad); err == nil {
			t.Errorf("%q is a glob", bad)
		}
	}
}

func TestPolicyCheck(t *testing.T) {
	ctx := t.Context()
	aliceKey, alice := key(t)
	bobKey, bob := key(t)
	target := memory.New()
	signed, unsigned := store(t, target, "signed"), store(t, target, "unsigned")
	_, err := Sign(ctx, signed, SignOptions{Signer: signer(aliceKey), Format: Both})
	check(t, err)
	_, err = Attest(ctx, signed, AttestOptions{Signer: signer(bobKey), PredicateType: "https://example.com/review", Predicate: []byte("{}")})
	check(t, err)
	byAlice, byBob := keyAuthority(t, alice), keyAuthority(t, bob)
	reviewed := "\nattestations:\n- {name: review, predicateType: https://example.com/review}"
	const pass, fail = "static: {action: pass}", "static: {action: fail, message: not here}"
	for name, c := range map[string]struct {
		policy    string
		s         Subject
		reference string
		reason    Reason
		by        []string // policy/authority
		warnings  int
		says      string
	}{
		"signed":                    {cip("p", byAlice), signed, "", "", []string{"p/authority-0"}, 0, ""},
		"unsigned":                  {cip("p", byAlice), unsigned, "", PolicyDenied, nil, 0, "no signature"},
		"another's key":             {cip("p", byBob), signed, "", PolicyDenied, nil, 0, "policy p: authority authority-0"},
		"any authority will do":     {cip("p", byBob, "name: a\n"+byAlice), signed, "", "", []string{"p/a"}, 0, ""},
		"every policy must hold":    {cip("p", byAlice) + cip("q", byBob), signed, "", PolicyDenied, nil, 0, "policy q"},
		"both policies hold":        {cip("p", byAlice) + cip("q", pass), signed, "", "", []string{"p/authority-0", "q/authority-0"}, 0, ""},
		"not covered":               {policyText("p", "elsewhere.example/**", "", pass), signed, "", NoPolicy, nil, 0, "registry.example/team/model@sha256"},
		"covered by tag":            {policyText("p", "registry.example/team/model:v*", "", pass), signed, "registry.example/team/model:v1", "", []string{"p/authority-0"}, 0, ""},
		"tag asked by digest":       {policyText("p", "registry.example/team/model:v*", "", pass), signed, "", NoPolicy, nil, 0, ""},
		"digest glob asked by tag":  {policyText("p", "registry.example/*/*@sha256:*", "", fail), signed, "registry.example/team/model:v1", PolicyDenied, nil, 0, ""},
		"static pass":               {cip("p", pass), unsigned, "", "", []string{"p/authority-0"}, 0, ""},
		"static fail":               {cip("p", fail), signed, "", PolicyDenied, nil, 0, "not here"},
		"warn":                      {strings.Replace(cip("p", byBob), "spec:", "spec:\n  mode: warn", 1), signed, "", "", nil, 1, ""},
		"warn beside enforce":       {strings.Replace(cip("p", byBob), "spec:", "spec:\n  mode: warn", 1) + cip("q", byBob), signed, "", PolicyDenied, nil, 0, ""},
		"about pods":                {strings.Replace(cip("p", pass), "spec:", "spec:\n  match:\n  - {version: v1, resource: pods}", 1), signed, "", NoPolicy, nil, 0, ""},
		"legacy signature":          {cip("p", byAlice+"\nsignatureFormat: legacy"), signed, "", "", []string{"p/authority-0"}, 0, ""},
		"bundle signature":          {cip("p", byAlice+"\nsignatureFormat: bundle"), signed, "", "", []string{"p/authority-0"}, 0, ""},
		"attested":                  {cip("p", byBob+reviewed), signed, "", "", []string{"p/authority-0"}, 0, ""},
		"attested by another":       {cip("p", byAlice+reviewed), signed, "", PolicyDenied, nil, 0, "attestation review"},
		"not attested":              {cip("p", byBob+reviewed), unsigned, "", PolicyDenied, nil, 0, "no attestation"},
		"other attestation":         {cip("p", byBob+strings.ReplaceAll(reviewed, "com/review", "com/other")), signed, "", PolicyDenied, nil, 0, "no attestation"},
		"attested in another form":  {cip("p", byBob+reviewed+"\nsignatureFormat: bundle"), signed, "", PolicyDenied, nil, 0, "format bundle"},
		"log entry is asked for":    {cip("p", byAlice+"\nctlog: {trustRootRef: ours}"), signed, "", PolicyDenied, nil, 0, "no trusted root"},
		"signatures elsewhere":      {cip("p", byAlice+"\nsource:\n- {oci: registry.example/signatures}"), signed, "", PolicyDenied, nil, 0, "other repositories"},
		"trust root is not given":   {cip("p", "keyless:\n  trustRootRef: ours\n  identities: [{issuer: https://a.example, subject: me}]"), signed, "", PolicyDenied, nil, 0, "no trusted root"},
		"first document is a blank": {"---\n# nothing\n---\n" + cip("p", pass) + "---\n", signed, "", "", []string{"p/authority-0"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parse(t, c.policy).Check(ctx, c.s, CheckOptions{Reference: c.reference})
			if c.reason != "" {
				refused(t, err, c.reason)
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("does not say %q: %v", c.says, err)
				}
				return
			}
			check(t, err)
			var by []string
			for _, m := range d.Matches {
				by = append(by, m.Policy+"/"+m.Authority)
				if m.Static != (len(m.Signatures)+len(m.Attestations) == 0) {
					t.Errorf("held by %+v", m)
				}
			}
			if !slices.Equal(by, c.by) || len(d.Warnings) != c.warnings {
				t.Errorf("held by %q with %d warnings, want %q with %d", by, len(d.Warnings), c.by, c.warnings)
			}
		})
	}
}

func TestPolicyReferenceOfAnotherRepository(t *testing.T) {
	s := store(t, memory.New(), "x")
	p := parse(t, policyText("p", "registry.example/open/**", "", "static: {action: pass}"))
	if _, err := p.Check(t.Context(), s, CheckOptions{Reference: "registry.example/open/model:v1"}); err == nil {
		t.Error("the policy of another repository let it through")
	}
	s.Repository = "../not a name"
	_, err := p.Check(t.Context(), s, CheckOptions{})
	refused(t, err, NoPolicy)
}

func TestPolicyKeyless(t *testing.T) {
	ctx := t.Context()
	ss := newSigstore(t)
	s := store(t, memory.New(), "x")
	_, err := Sign(ctx, s, SignOptions{Signer: ss.signer("me@example.com")})
	check(t, err)
	authority := func(identity string) string {
		return "keyless:\n  url: https://fulcio.example\n  trustRootRef: ours\n  insecureIgnoreSCT: true\n  identities: [" + identity + "]\nctlog: {trustRootRef: ours}"
	}
	o := CheckOptions{TrustedRoot: ss.trustedRoot, Offline: true}
	d, err := parse(t, cip("p", authority("{issuer: "+issuer+", subjectRegExp: '^me@'}"))).Check(ctx, s, o)
	check(t, err)
	if got := d.Matches[0].Signatures[0].Identity; got != "me@example.com" {
		t.Errorf("signed by %s", got)
	}
	_, err = parse(t, cip("p", authority("{issuer: "+issuer+", subject: you@example.com}"))).Check(ctx, s, o)
	refused(t, err, PolicyDenied)
	if !strings.Contains(err.Error(), "me@example.com") {
		t.Errorf("does not say who it was: %v", err)
	}
	o.TrustedRoot = newSigstore(t).trustedRoot
	_, err = parse(t, cip("p", authority("{issuer: "+issuer+", subject: me@example.com}"))).Check(ctx, s, o)
	refused(t, err, PolicyDenied)

	// a timestamp takes the log's place
	by := ss.signer("me@example.com")
	by.RekorURL, by.TimestampURL = "", ss.tsa
	s = store(t, memory.New(), "y")
	_, err = Sign(ctx, s, SignOptions{Signer: by})
	check(t, err)
	stamped := strings.ReplaceAll(authority("{issuer: "+issuer+", subject: me@example.com}"), "ctlog:", "rfc3161timestamp:")
	o.TrustedRoot = ss.trustedRoot
	_, err = parse(t, cip("p", stamped)).Check(ctx, s, o)
	check(t, err)
	_, err = parse(t, cip("p", stamped+"\nctlog: {trustRootRef: ours}")).Check(ctx, s, o)
	refused(t, err, PolicyDenied)
}

func TestPolicySource(t *testing.T) {
	ctx := t.Context()
	private, public := key(t)
	s := store(t, memory.New(), "x")
	elsewhere := s
	elsewhere.Target = memory.New()
	_, err := Sign(ctx, elsewhere, SignOptions{Signer: signer(private)})
	check(t, err)
	p := parse(t, cip("p", keyAuthority(t, public)+"\nsource:\n- oci: registry.example/signatures\n  signaturePullSecrets: [{name: x}]"))
	var asked string
	o := CheckOptions{Source: func(_ context.Context, repository string) (oras.GraphTarget, error) {
		asked = repository
		return elsewhere.Target, nil
	}}
	_, err = p.Check(ctx, s, o)
	check(t, err)
	if asked != "registry.example/signatures" {
		t.Errorf("asked for %s", asked)
	}
	o.Source = func(context.Context, string) (oras.GraphTarget, error) { return nil, errors.New("unreachable") }
	if _, err := p.Check(ctx, s, o); err == nil || errors.Is(err, ErrNotVerified) {
		t.Errorf("got %v, want an error that is no verdict", err)
	}
}

// stated pushes a manifest with annotations.
func stated(t *testing.T, target oras.GraphTarget, annotations map[string]string) Subject {
	t.Helper()
	raw, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: annotations})
	check(t, err)
	d := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, raw)
	check(t, push(t.Context(), target, d, raw))
	return Subject{"registry.example/team/model", d, target}
}

func TestPolicyPins(t *testing.T) {
	target := memory.New()
	version := func(v string) Subject { return stated(t, target, map[string]string{ocispec.AnnotationVersion: v}) }
	created := func(v string) Subject { return stated(t, target, map[string]string{ocispec.AnnotationCreated: v}) }
	minimum := "  annotations: {mpack/minimum-version: 1.4.0}\n"
	since := "  annotations: {mpack/not-before: '2026-03-01T00:00:00Z'}\n"
	for name, c := range map[string]struct {
		pin  string
		s    Subject
		pass bool
	}{
		"the version":           {minimum, version("1.4.0"), true},
		"with a v":              {minimum, version("v1.4.1"), true},
		"later":                 {minimum, version("1.10.0"), true},
		"older":                 {minimum, version("1.3.9"), false},
		"before its release":    {minimum, version("1.4.0-rc.1"), false},
		"no version number":     {minimum, version("latest"), false},
		"does not say":          {minimum, created("2026-03-01T00:00:00Z"), false},
		"index":                 {minimum, storeIndex(t, target, version("1.4.0"), created("x")), true},
		"index with an old one": {minimum, storeIndex(t, target, version("1.4.0"), version("1.3.0")), false},
		"index of nothing":      {minimum, storeIndex(t, target, created("x")), false},
		"in time":               {since, created("2026-03-01T01:00:00+01:00"), true},
		"too early":             {since, created("2026-03-01T00:59:59+01:00"), false},
		"no time":               {since, created("yesterday"), false},
		"time is not there":     {since, version("1.4.0"), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, policyText("p", "**", c.pin, "static: {action: pass}")).Check(t.Context(), c.s, CheckOptions{})
			if c.pass {
				check(t, err)
				return
			}
			refused(t, err, PolicyDenied)
		})
	}
}

func TestPolicyFailingRegistryIsNoVerdict(t *testing.T) {
	_, public := key(t)
	s := store(t, memory.New(), "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, mode := range []string{"enforce", "warn"} {
		p := parse(t, strings.Replace(cip("p", keyAuthority(t, public)), "spec:", "spec:\n  mode: "+mode, 1))
		if _, err := p.Check(ctx, s, CheckOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", mode, err)
		}
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	_, public := key(t)
	byKey := keyAuthority(t, public)
	good := cip("p", byKey)
	const keyless = "keyless:\n  identities: [{issuer: https://a.example, subject: me}]"
	in := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	bad := map[string][2]string{
		"nothing":              {"", "no ClusterImagePolicy"},
		"only blanks":          {"---\n---\n", "no ClusterImagePolicy"},
		"not YAML":             {"a: [", "yaml"},
		"list":                 {"- a\n", "cannot unmarshal"},
		"kind":                 {in("kind: ClusterImagePolicy", "kind: TrustRoot"), "TrustRoot"},
		"version":              {in("v1beta1", "v1"), "v1beta1"},
		"no name":              {in("name: p", "name: ''"), "metadata.name"},
		"two of a name":        {good + good, "two of that name"},
		"misspelt field":       {in("authorities", "authoritys"), "authoritys"},
		"misspelt in depth":    {cip("p", "keyless:\n  identitys: []"), "identitys"},
		"case":                 {in("authorities", "Authorities"), "Authorities"},
		"same field twice":     {good + "  authorities: []\n", "already"},
		"misspelt metadata":    {in("name: p", "name: p\n  annotation: {}"), "annotation"},
		"misspelt annotation":  {in("name: p", "name: p\n  annotations: {mpack/minimal-version: '1'}"), "mpack/minimum-version"},
		"not a version":        {in("name: p", "name: p\n  annotations: {mpack/minimum-version: newest}"), "semantic version"},
		"not a time":           {in("name: p", "name: p\n  annotations: {mpack/not-before: soon}"), "want a time"},
		"no images":            {in("images:\n  - glob: \"registry.example/**\"", "images: []"), "spec.images"},
		"bad glob":             {policyText("p", "[a-z]", "", byKey), "glob"},
		"no authorities":       {policyText("p", "**", ""), "spec.authorities"},
		"mode":                 {in("spec:", "spec:\n  mode: audit"), "enforce or warn"},
		"policy of the whole":  {in("spec:", "spec:\n  policy: {type: cue, data: 'a: 1'}"), "CUE"},
		"policy in CUE":        {cip("p", byKey+"\nattestations:\n- {name: a, predicateType: custom, policy: {type: cue, data: x}}"), "CUE"},
		"no kind of authority": {cip("p", "name: a"), "one of key, keyless and static"},
		"two kinds":            {cip("p", byKey+"\nstatic: {action: pass}"), "one of key, keyless and static"},
		"static action":        {cip("p", "static: {action: allow}"), "pass or fail"},
		"static and more":      {cip("p", "static: {action: pass}\nctlog: {url: https://a.example}"), "static goes with no"},
		"no key":               {cip("p", "key: {hashAlgorithm: sha256}"), "data, kms and secretRef"},
		"two keys":             {cip("p", byKey+"\n  kms: awskms:///x"), "data, kms and secretRef"},
		"certificate as key":   {cip("p", "key: {data: x}"), "public key"},
		"KMS":                  {cip("p", "key: {kms: file:///x}"), "awskms"},
		"file as KMS":          {cip("p", "key: {kms: cosign.pub}"), "awskms"},
		"secret":               {cip("p", "key: {secretRef: {name: ../x}}"), "secretRef"},
		"hash":                 {cip("p", byKey+"\n  hashAlgorithm: sha512"), "only sha256"},
		"no identities":        {cip("p", "keyless: {url: https://a.example}"), "identities"},
		"identity without all": {cip("p", "keyless: {identities: [{issuer: https://a.example}]}"), "subject"},
		"identity in two ways": {cip("p", "keyless: {identities: [{issuer: a, issuerRegExp: a, subject: b}]}"), "exclude"},
		"expression":           {cip("p", "keyless: {identities: [{issuer: a, subjectRegExp: '('}]}"), "identity"},
		"CA certificate":       {cip("p", keyless+"\n  ca-cert: {data: x}"), "ca-cert"},
		"URL":                  {cip("p", keyless+"\n  url: fulcio"), "URL"},
		"log URL":              {cip("p", byKey+"\nctlog: {url: ftp://a.example}"), "ctlog.url"},
		"log of nothing":       {cip("p", byKey+"\nctlog: {}"), "ctlog"},
		"timestamp of nothing": {cip("p", byKey+"\nrfc3161timestamp: {}"), "rfc3161timestamp"},
		"two trust roots":      {cip("p", keyless+"\n  trustRootRef: a\nctlog: {trustRootRef: b}"), "only one trusted root"},
		"two in two policies":  {cip("p", keyless+"\n  trustRootRef: a") + cip("q", keyless+"\n  trustRootRef: b"), "only one trusted root"},
		"format":               {cip("p", byKey+"\nsignatureFormat: simple"), "legacy or bundle"},
		"two sources":          {cip("p", byKey+"\nsource: [{oci: a.example/b}, {oci: a.example/c}]"), "only one"},
		"source":               {cip("p", byKey+"\nsource: [{oci: 'a b'}]"), "source"},
		"tag prefix":           {cip("p", byKey+"\nsource: [{tagPrefix: x}]"), "tagPrefix"},
		"attestation":          {cip("p", byKey+"\nattestations: [{name: a}]"), "predicateType"},
		"predicate type":       {cip("p", byKey+"\nattestations: [{name: a, predicateType: slsa}]"), "predicate type"},
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		t.Run(name, func(t *testing.T) {
			_, err := ParsePolicy(strings.NewReader(bad[name][0]))
			if err == nil {
				t.Fatal("read")
			}
			if !strings.Contains(err.Error(), bad[name][1]) {
				t.Errorf("does not say %q: %v", bad[name][1], err)
			}
		})
	}
}

func TestParsePolicyReads(t *testing.T) {
	// as a cluster gives it back
	p := parse(t, `apiVersion: policy.sigstore.dev/v1alpha1
kind: ClusterImagePolicy
metadata:
  name: p
  uid: 1f0c
  resourceVersion: "12"
  generation: 1
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {team: ml}
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: "{}"
spec:
  mode: enforce
  images: [{glob: "registry.example/**"}]
  authorities:
  - name: kms
    key: {kms: "hashivault://models", hashAlgorithm: SHA256}
    ctlog: {url: "https://rekor.example"}
  - key: {secretRef: {name: models}}
  - keyless:
      url: https://fulcio.example
      identities:
      - {issuer: "https://a.example", subjectRegExp: "@team$"}
      - {issuerRegExp: ".*", subject: me}
    attestations:
    - {name: provenance, predicateType: slsaprovenance1}
status:
  conditions: [{type: Ready, status: "True"}]
`)
	a := p.rules[0].authorities
	if v := a[0].verifier; v.Key != "hashivault://models" || v.RekorURL != "https://rekor.example" || v.InsecureIgnoreTlog {
		t.Errorf("KMS: %+v", v)
	}
	if v := a[1].verifier; v.Key != "k8s://cosign-system/models" || !v.InsecureIgnoreTlog || a[1].name != "authority-1" {
		t.Errorf("secret: %+v", a[1])
	}
	if v := a[2].verifier; len(v.Identities) != 2 || v.InsecureIgnoreTlog || v.InsecureIgnoreSCT || v.Identities[0].SubjectRegExp != "@team$" {
		t.Errorf("keyless: %+v", v)
	}
}

func TestLoadPolicy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if _, err := LoadPolicy(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	check(t, os.WriteFile(file, []byte(cip("p", "static: {action: pass}")), 0o600))
	_, err := LoadPolicy(file)
	check(t, err)
}

func FuzzParsePolicy(f *testing.F) {
	_, public := key(f)
	f.Add([]byte(cip("p", keyAuthority(f, public), "static: {action: fail}")))
	f.Add([]byte(policyText("p", "**", "  annotations: {mpack/minimum-version: 1.4.0}\n", "keyless:\n  url: https://a.example\n  identities: [{issuer: a, subject: b}]\nctlog: {url: https://a.example}\nsource: [{oci: a.example/b}]\nattestations: [{name: a, predicateType: custom}]")))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Add([]byte("---\n!!binary |\n  x\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParsePolicy(strings.NewReader(string(raw)))
		if err != nil {
			return
		}
		for _, r := range p.rules {
			if r.name == "" || len(r.globs) == 0 || len(r.authorities) == 0 {
				t.Errorf("a policy without substance: %+v", r)
			}
			for _, a := range r.authorities {
				if (a.static == nil) == (!a.verifier.keyed() && len(a.verifier.Identities) == 0) {
					t.Errorf("an authority that asks for nobody: %+v", a)
				}
			}
		}
	})
}
