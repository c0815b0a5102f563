package signing

import (
	"crypto"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/semver"
)

// The documents, in the words of policy-controller's
// pkg/apis/policy/v1beta1/clusterimagepolicy_types.go.

type policyDocument struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   policyMetadata `yaml:"metadata"`
	Spec       policySpec     `yaml:"spec"`
	Status     any            `yaml:"status"`
}

type policyMetadata struct {
	Name        string            `yaml:"name"`
	Annotations map[string]string `yaml:"annotations"`
	// what a cluster adds
	Namespace         string            `yaml:"namespace"`
	Labels            map[string]string `yaml:"labels"`
	UID               any               `yaml:"uid"`
	ResourceVersion   any               `yaml:"resourceVersion"`
	Generation        any               `yaml:"generation"`
	CreationTimestamp any               `yaml:"creationTimestamp"`
	Finalizers        any               `yaml:"finalizers"`
	OwnerReferences   any               `yaml:"ownerReferences"`
	ManagedFields     any               `yaml:"managedFields"`
}

type policySpec struct {
	Images []struct {
		Glob string `yaml:"glob"`
	} `yaml:"images"`
	Authorities []policyAuthority `yaml:"authorities"`
	Policy      any               `yaml:"policy"`
	Mode        string            `yaml:"mode"`
	Match       []struct {
		Group    string `yaml:"group"`
		Version  string `yaml:"version"`
		Resource string `yaml:"resource"`
		Selector any    `yaml:"selector"`
	} `yaml:"match"`
}

type policyAuthority struct {
	Name             string              `yaml:"name"`
	Key              *policyKey          `yaml:"key"`
	Keyless          *policyKeyless      `yaml:"keyless"`
	Static           *policyStatic       `yaml:"static"`
	Source           []policySource      `yaml:"source"`
	CTLog            *policyLog          `yaml:"ctlog"`
	Attestations     []policyAttestation `yaml:"attestations"`
	RFC3161Timestamp *policyTimestamp    `yaml:"rfc3161timestamp"`
	SignatureFormat  string              `yaml:"signatureFormat"`
}

type policyKey struct {
	SecretRef *struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"secretRef"`
	Data          string `yaml:"data"`
	KMS           string `yaml:"kms"`
	HashAlgorithm string `yaml:"hashAlgorithm"`
}

type policyKeyless struct {
	URL        string `yaml:"url"`
	Identities []struct {
		Issuer        string `yaml:"issuer"`
		Subject       string `yaml:"subject"`
		IssuerRegExp  string `yaml:"issuerRegExp"`
		SubjectRegExp string `yaml:"subjectRegExp"`
	} `yaml:"identities"`
	CACert            any    `yaml:"ca-cert"`
	TrustRootRef      string `yaml:"trustRootRef"`
	InsecureIgnoreSCT bool   `yaml:"insecureIgnoreSCT"`
}

type policyStatic struct {
	Action  string `yaml:"action"`
	Message string `yaml:"message"`
}

type policySource struct {
	OCI string `yaml:"oci"`
	// Kubernetes secrets; here the caller's credentials are used
	SignaturePullSecrets []struct {
		Name string `yaml:"name"`
	} `yaml:"signaturePullSecrets"`
	TagPrefix string `yaml:"tagPrefix"`
}

type policyLog struct {
	URL          string `yaml:"url"`
	TrustRootRef string `yaml:"trustRootRef"`
}

type policyTimestamp struct {
	TrustRootRef string `yaml:"trustRootRef"`
}

type policyAttestation struct {
	Name          string `yaml:"name"`
	PredicateType string `yaml:"predicateType"`
	Policy        any    `yaml:"policy"`
}

func (doc *policyDocument) rule() (rule, error) {
	r := rule{name: doc.Metadata.Name, match: len(doc.Spec.Match) > 0}
	switch {
	case doc.APIVersion != "policy.sigstore.dev/v1beta1" && doc.APIVersion != "policy.sigstore.dev/v1alpha1" || doc.Kind != "ClusterImagePolicy":
		return r, fmt.Errorf("%s of %q is not read: want a ClusterImagePolicy of policy.sigstore.dev/v1beta1 or v1alpha1", doc.Kind, doc.APIVersion)
	case r.name == "":
		return r, errors.New("metadata.name is missing")
	case len(doc.Spec.Images) == 0:
		return r, errors.New("spec.images is missing")
	case len(doc.Spec.Authorities) == 0:
		return r, errors.New("spec.authorities is missing")
	case doc.Spec.Policy != nil:
		return r, fmt.Errorf("spec.policy: %w", errPolicyLanguage)
	}
	switch doc.Spec.Mode {
	case "", "enforce":
	case "warn":
		r.warn = true
	default:
		return r, fmt.Errorf("spec.mode %q: want enforce or warn", doc.Spec.Mode)
	}
	for i, image := range doc.Spec.Images {
		g, err := compileGlob(image.Glob)
		if err != nil {
			return r, fmt.Errorf("spec.images[%d].glob: %w", i, err)
		}
		r.globs = append(r.globs, g)
	}
	for i := range doc.Spec.Authorities {
		a, err := doc.Spec.Authorities[i].authority()
		if err != nil {
			return r, fmt.Errorf("spec.authorities[%d]: %w", i, err)
		}
		if a.name == "" {
			a.name = fmt.Sprintf("authority-%d", i)
		}
		r.authorities = append(r.authorities, a)
	}
	for k, v := range doc.Metadata.Annotations {
		if !strings.HasPrefix(k, "mpack/") {
			continue
		}
		switch k {
		case minimumVersionKey:
			if r.minimumVersion = canonicalVersion(v); r.minimumVersion == "" {
				return r, fmt.Errorf("metadata.annotations: %s %q: want a semantic version", k, v)
			}
		case notBeforeKey:
			t, err := time.Parse(time.RFC3339, v)
			if err != nil {
				return r, fmt.Errorf("metadata.annotations: %s %q: want a time such as 2026-03-01T00:00:00Z", k, v)
			}
			r.notBefore = t
		default:
			return r, fmt.Errorf("metadata.annotations: %s: want %s or %s", k, minimumVersionKey, notBeforeKey)
		}
	}
	return r, nil
}

// The annotations that mpack reads.
const (
	minimumVersionKey = "mpack/minimum-version"
	notBeforeKey      = "mpack/not-before"
)

// canonicalVersion is a semantic version with its v; empty if it is none.
func canonicalVersion(s string) string {
	if s = "v" + strings.TrimPrefix(s, "v"); !semver.IsValid(s) {
		return ""
	}
	return s
}

var errPolicyLanguage = errors.New("CUE and Rego policies are not evaluated by mpack; ask for the attestation alone, and leave such a policy to policy-controller")

func (p *policyAuthority) authority() (authority, error) {
	a := authority{name: p.Name, static: p.Static, format: p.SignatureFormat, attestations: p.Attestations}
	kinds := 0
	for _, there := range []bool{p.Key != nil, p.Keyless != nil, p.Static != nil} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		return a, errors.New("want one of key, keyless and static")
	}
	if a.format != "" && a.format != Legacy.String() && a.format != Bundle.String() {
		return a, fmt.Errorf("signatureFormat %q: want legacy or bundle", a.format)
	}
	if p.Static != nil {
		switch {
		case p.Static.Action != "pass" && p.Static.Action != "fail":
			return a, fmt.Errorf("static.action %q: want pass or fail", p.Static.Action)
		case len(p.Attestations) > 0 || len(p.Source) > 0 || p.CTLog != nil || p.RFC3161Timestamp != nil:
			return a, errors.New("static goes with no attestations, source, ctlog or rfc3161timestamp")
		}
		return a, nil
	}
	var err error
	if p.Key != nil {
		if err := p.Key.verifier(&a.verifier); err != nil {
			return a, fmt.Errorf("key: %w", err)
		}
	} else if err := p.Keyless.verifier(&a.verifier); err != nil {
		return a, fmt.Errorf("keyless: %w", err)
	}
	var roots []string
	if p.Keyless != nil {
		roots = append(roots, p.Keyless.TrustRootRef)
	}
	if t := p.RFC3161Timestamp; t != nil {
		if t.TrustRootRef == "" {
			return a, errors.New("rfc3161timestamp.trustRootRef is missing")
		}
		a.verifier.UseSignedTimestamps = true
		roots = append(roots, t.TrustRootRef)
	}
	// a log is asked for where one is named, and keyless where no timestamp
	// takes its place
	a.verifier.InsecureIgnoreTlog = p.CTLog == nil && (p.Key != nil || p.RFC3161Timestamp != nil)
	if p.CTLog != nil {
		if p.CTLog.URL == "" && p.CTLog.TrustRootRef == "" {
			return a, errors.New("ctlog: want a url or a trustRootRef")
		}
		if a.verifier.RekorURL, err = webAddress(p.CTLog.URL); err != nil {
			return a, fmt.Errorf("ctlog.url: %w", err)
		}
		roots = append(roots, p.CTLog.TrustRootRef)
	}
	for _, r := range roots {
		if a.trustRoot != "" && r != "" && r != a.trustRoot {
			return a, fmt.Errorf("trustRootRef: %q and %q are named, but only one trusted root can be given", a.trustRoot, r)
		}
		if r != "" {
			a.trustRoot = r
		}
	}
	if len(p.Source) > 1 {
		return a, errors.New("source: only one is supported")
	}
	for _, s := range p.Source {
		if s.TagPrefix != "" {
			return a, errors.New("source[0].tagPrefix is not supported")
		}
		if s.OCI != "" {
			if _, err := name.NewRepository(s.OCI, name.WeakValidation); err != nil {
				return a, fmt.Errorf("source[0].oci: %w", err)
			}
		}
		a.source = s.OCI
	}
	for i, at := range p.Attestations {
		if at.Name == "" || at.PredicateType == "" {
			return a, fmt.Errorf("attestations[%d]: want a name and a predicateType", i)
		}
		if at.Policy != nil {
			return a, fmt.Errorf("attestations[%d].policy: %w", i, errPolicyLanguage)
		}
		if _, err := PredicateTypeURI(at.PredicateType); err != nil {
			return a, fmt.Errorf("attestations[%d]: %w", i, err)
		}
	}
	return a, nil
}

// policyNamespace is where policy-controller reads secrets.
const policyNamespace = "cosign-system"

// verifier asks for the key. The hash is the key's own, SHA-256 for most: a
// policy that asks for another is refused.
func (k *policyKey) verifier(v *Verifier) error {
	places := 0
	for _, there := range []bool{k.Data != "", k.KMS != "", k.SecretRef != nil} {
		if there {
			places++
		}
	}
	if places != 1 {
		return errors.New("want one of data, kms and secretRef")
	}
	hash := crypto.SHA256
	switch {
	case k.Data != "":
		pub, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(k.Data))
		if err != nil {
			return fmt.Errorf("data: no public key in PEM: %w", err)
		}
		algo, err := signature.GetDefaultAlgorithmDetails(pub, loadOptions...)
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		hash = algo.GetHashType()
		v.KeyPEM = []byte(k.Data)
	case k.KMS != "":
		if !isKMS(k.KMS) {
			return fmt.Errorf("kms %q: want a URI of awskms://, azurekms://, gcpkms:// or hashivault://", k.KMS)
		}
		v.Key = k.KMS
	default:
		namespace := k.SecretRef.Namespace
		if namespace == "" {
			namespace = policyNamespace
		}
		if !kubernetesName.MatchString(namespace) || !kubernetesName.MatchString(k.SecretRef.Name) {
			return errors.New("secretRef: want the name of a secret with cosign.pub")
		}
		v.Key = kubernetesScheme + namespace + "/" + k.SecretRef.Name
	}
	// of a key that is fetched later the hash is not known
	if want := strings.ToLower(strings.TrimSpace(k.HashAlgorithm)); want != "" {
		if has := strings.ReplaceAll(strings.ToLower(hash.String()), "-", ""); want != has {
			return fmt.Errorf("hashAlgorithm %q: only %s is supported with this key", k.HashAlgorithm, has)
		}
	}
	return nil
}

func (k *policyKeyless) verifier(v *Verifier) error {
	if k.CACert != nil {
		return errors.New("ca-cert is not supported; put the authority in a trusted root, and name it with trustRootRef")
	}
	if _, err := webAddress(k.URL); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if len(k.Identities) == 0 {
		return errors.New("identities is missing")
	}
	for i, id := range k.Identities {
		if id.Issuer != "" && id.IssuerRegExp != "" || id.Subject != "" && id.SubjectRegExp != "" {
			return fmt.Errorf("identities[%d]: a name and a regular expression for it exclude each other", i)
		}
		v.Identities = append(v.Identities, Identity{Subject: id.Subject, SubjectRegExp: id.SubjectRegExp, Issuer: id.Issuer, IssuerRegExp: id.IssuerRegExp})
		if _, err := compile(v.Identities[i]); err != nil {
			return fmt.Errorf("identities[%d]: %w", i, err)
		}
	}
	v.InsecureIgnoreSCT = k.InsecureIgnoreSCT
	return nil
}

// webAddress checks a URL; none is well too.
func webAddress(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", fmt.Errorf("%q: want an http or https URL", s)
	}
	return s, nil
}
