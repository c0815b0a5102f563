package signing

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/cosign/env"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/tuf"
)

// trust is what a verification relies on, whatever it came from: a
// trusted_root.json, files that flags or cosign's environment variables name,
// or sigstore's TUF repository for what none of them gives.
type trust struct {
	authorities []root.CertificateAuthority
	rekor, ct   map[string]*root.TransparencyLog
	stamps      []root.TimestampingAuthority
	key         root.TimeConstrainedVerifier // nil: certificates

	// an authority of one's own; authorities is made of these
	roots, intermediates []*x509.Certificate
}

// The methods make it a root.TrustedMaterial.

func (t *trust) FulcioCertificateAuthorities() []root.CertificateAuthority { return t.authorities }
func (t *trust) RekorLogs() map[string]*root.TransparencyLog               { return t.rekor }
func (t *trust) CTLogs() map[string]*root.TransparencyLog                  { return t.ct }
func (t *trust) TimestampingAuthorities() []root.TimestampingAuthority     { return t.stamps }
func (t *trust) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	if t.key == nil {
		return nil, errors.New("signed with a key, not with a certificate")
	}
	return t.key, nil
}

// with is the trust where an authority of one's own may also certify over the
// intermediates, which need no trust themselves.
func (t *trust) with(intermediates []*x509.Certificate) *trust {
	if t.roots == nil || len(intermediates) == 0 {
		return t
	}
	w := *t
	w.own(t.roots, append(append([]*x509.Certificate{}, t.intermediates...), intermediates...))
	return &w
}

func (t *trust) own(roots, intermediates []*x509.Certificate) {
	t.roots, t.intermediates, t.authorities = roots, intermediates, nil
	for _, r := range roots {
		t.authorities = append(t.authorities, &root.FulcioCertificateAuthority{Root: r, Intermediates: intermediates})
	}
}

// publicRoot asks sigstore's TUF repository, or the one that TUF_ROOT,
// TUF_MIRROR and TUF_ROOT_JSON or cosign initialize name, once a process.
var publicRoot = sync.OnceValues(cosign.TrustedRoot)

// trust gathers what the verification needs, and asks the network for nothing
// else.
func (v *Verifier) trust() (*trust, error) {
	keyless := !v.keyed()
	need := struct{ authorities, ct, rekor, stamps bool }{
		keyless, keyless && !v.InsecureIgnoreSCT, !v.InsecureIgnoreTlog, v.signedTimestamps(),
	}
	t := &trust{}
	var base root.TrustedMaterial
	if v.TrustedRoot != "" {
		raw, err := readRef(v.TrustedRoot)
		if err == nil {
			base, err = root.NewTrustedRootFromJSON(raw)
		}
		if err != nil {
			return nil, fmt.Errorf("trusted root %s: %w", v.TrustedRoot, err)
		}
	} else {
		// as in cosign, these give way to a trusted root
		var err error
		if need.rekor {
			if t.rekor, err = logKeys(env.Getenv(env.VariableSigstoreRekorPublicKey)); err != nil {
				return nil, fmt.Errorf("transparency log's public key: %w", err)
			}
		}
		if need.ct {
			if t.ct, err = logKeys(env.Getenv(env.VariableSigstoreCTLogPublicKeyFile)); err != nil {
				return nil, fmt.Errorf("certificate transparency log's public key: %w", err)
			}
		}
	}
	if need.authorities {
		roots, intermediates, err := v.ownAuthority()
		if err != nil {
			return nil, err
		}
		if len(roots) > 0 {
			t.own(roots, intermediates)
		}
	}
	if need.stamps {
		var err error
		if t.stamps, err = v.ownTimestampAuthority(); err != nil {
			return nil, err
		}
	}
	missing := need.authorities && t.authorities == nil || need.ct && t.ct == nil || need.rekor && t.rekor == nil || need.stamps && t.stamps == nil
	if missing && base == nil {
		var err error
		if base, err = publicRoot(); err != nil {
			return nil, fmt.Errorf("sigstore's trust root: %w (without network give a trusted root file; with a key, a transparency log can be ignored)", err)
		}
	}
	if base == nil {
		return t, nil
	}
	if need.authorities && t.authorities == nil {
		t.authorities = base.FulcioCertificateAuthorities()
	}
	if need.ct && t.ct == nil {
		t.ct = base.CTLogs()
	}
	if need.rekor && t.rekor == nil {
		t.rekor = base.RekorLogs()
	}
	if need.stamps && t.stamps == nil {
		t.stamps = base.TimestampingAuthorities()
	}
	return t, nil
}

// ownAuthority reads the authority that flags or SIGSTORE_ROOT_FILE name; nil
// if none is named.
func (v *Verifier) ownAuthority() (roots, intermediates []*x509.Certificate, err error) {
	switch {
	case v.CertificateChain != "" && (v.CARoots != "" || v.CAIntermediates != ""):
		return nil, nil, errors.New("a certificate chain and CA roots exclude each other")
	case v.CertificateChain != "":
		chain, err := certificates("certificate chain", v.CertificateChain)
		if err != nil {
			return nil, nil, err
		}
		return chain[len(chain)-1:], chain[:len(chain)-1], nil
	case v.CARoots != "":
		if roots, err = certificates("CA roots", v.CARoots); err != nil {
			return nil, nil, err
		}
		if v.CAIntermediates != "" {
			intermediates, err = certificates("CA intermediates", v.CAIntermediates)
		}
		return roots, intermediates, err
	case v.CAIntermediates != "":
		return nil, nil, errors.New("CA intermediates need CA roots")
	}
	file := env.Getenv(env.VariableSigstoreRootFile)
	if file == "" || v.TrustedRoot != "" {
		return nil, nil, nil
	}
	all, err := certificates(env.VariableSigstoreRootFile.String(), file)
	for _, c := range all {
		if selfIssued(c) {
			roots = append(roots, c)
		} else {
			intermediates = append(intermediates, c)
		}
	}
	if err == nil && len(roots) == 0 {
		err = fmt.Errorf("%s: no root certificate", file)
	}
	return roots, intermediates, err
}

// ownTimestampAuthority reads the chain that a flag or
// SIGSTORE_TSA_CERTIFICATE_FILE names; nil if none is named.
func (v *Verifier) ownTimestampAuthority() ([]root.TimestampingAuthority, error) {
	file := v.TimestampCertificateChain
	if file == "" && v.TrustedRoot == "" {
		file = env.Getenv(env.VariableSigstoreTSACertificateFile)
	}
	if file == "" {
		return nil, nil
	}
	all, err := certificates("timestamp certificate chain", file)
	if err != nil {
		return nil, err
	}
	var a root.SigstoreTimestampingAuthority
	for _, c := range all {
		switch {
		case !c.IsCA && a.Leaf == nil:
			a.Leaf = c
		case !c.IsCA:
			return nil, fmt.Errorf("timestamp certificate chain %s: more than one leaf", file)
		case selfIssued(c):
			a.Root = c
		default:
			a.Intermediates = append(a.Intermediates, c)
		}
	}
	if a.Leaf == nil || a.Root == nil {
		return nil, fmt.Errorf("timestamp certificate chain %s: wants a leaf and a root", file)
	}
	return []root.TimestampingAuthority{&a}, nil
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// certificates reads at least one certificate from a file, env://VAR, or what
// is PEM itself.
func certificates(what, ref string) ([]*x509.Certificate, error) {
	raw := []byte(ref)
	if !strings.Contains(ref, "-----BEGIN ") {
		var err error
		if raw, err = readRef(ref); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	all, err := cryptoutils.UnmarshalCertificatesFromPEM(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM", what)
	}
	return all, nil
}

// logKeys reads a log's public key; nil if no file is named.
func logKeys(file string) (map[string]*root.TransparencyLog, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := readRef(file)
	if err != nil {
		return nil, err
	}
	keys := cosign.NewTrustedTransparencyLogPubKeys()
	if err := keys.AddTransparencyLogPubKey(raw, tuf.Active); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	logs := map[string]*root.TransparencyLog{}
	for id, k := range keys.Keys {
		bin, err := hex.DecodeString(id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		logs[id] = &root.TransparencyLog{
			ID:        bin,
			PublicKey: k.PubKey,
			HashFunc:  crypto.SHA256, SignatureHashFunc: crypto.SHA256,
			// sigstore-go takes none for unset
			ValidityPeriodStart: time.Unix(1, 0),
		}
	}
	return logs, nil
}
