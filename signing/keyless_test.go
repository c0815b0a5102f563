package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"oras.land/oras-go/v2/content/memory"
)

// testCA is a root and what it certifies.
type testCA struct {
	root, intermediate *x509.Certificate
	key                *ecdsa.PrivateKey // of the intermediate
	chain              string            // file: intermediate, root
}

func ownAuthority(t *testing.T) *testCA {
	t.Helper()
	a := &testCA{}
	var rootKey *ecdsa.PrivateKey
	var err error
	a.root, rootKey, err = ca.GenerateRootCa()
	check(t, err)
	a.intermediate, a.key, err = ca.GenerateFulcioIntermediate(a.root, rootKey)
	check(t, err)
	a.chain = writeCertificates(t, a.intermediate, a.root)
	return a
}

func writeCertificates(t *testing.T, certs ...*x509.Certificate) string {
	t.Helper()
	raw, err := cryptoutils.MarshalCertificatesToPEM(certs)
	check(t, err)
	file := filepath.Join(t.TempDir(), "certs.pem")
	check(t, os.WriteFile(file, raw, 0o600))
	return file
}

// publicOnly lets a certificate be made for a key that others hold.
type publicOnly struct{ key crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.key }
func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no private key")
}

// sigstore is Fulcio, Rekor and a timestamp authority in this process, on
// sigstore-go's virtual sigstore.
type sigstore struct {
	*testCA
	fulcio, rekor, tsa string
	trustedRoot, stamp string           // files
	logTime            func() time.Time // what the log takes for now
	issued             time.Time        // start of certificates, which last 10 minutes
}

const issuer = "https://issuer.example"

func newSigstore(t *testing.T) *sigstore {
	t.Helper()
	virtual, err := ca.NewVirtualSigstore()
	check(t, err)
	s := &sigstore{testCA: ownAuthority(t), logTime: time.Now, issued: time.Now().Add(-time.Minute)}

	serve := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	s.fulcio = serve(func(w http.ResponseWriter, r *http.Request) { s.certify(t, w, r) })
	s.rekor = serve(func(w http.ResponseWriter, r *http.Request) { s.enter(t, virtual, w, r) })

	rootCert, rootKey, err := ca.GenerateRootCa()
	check(t, err)
	tsaCA, tsaCAKey, err := ca.GenerateTSAIntermediate(rootCert, rootKey)
	check(t, err)
	tsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	tsaCert, err := ca.GenerateTSALeafCert(time.Now().Add(-time.Minute), tsaKey, tsaCA, tsaCAKey)
	check(t, err)
	s.stamp = writeCertificates(t, tsaCert, tsaCA, rootCert)
	s.tsa = serve(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		req, err := timestamp.ParseRequest(raw)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		stamp := timestamp.Timestamp{HashAlgorithm: req.HashAlgorithm, HashedMessage: req.HashedMessage, Time: time.Now(), Policy: asn1.ObjectIdentifier{1, 2, 3}, AddTSACertificate: true}
		raw, err = stamp.CreateResponseWithOpts(tsaCert, tsaKey, crypto.SHA256)
		if err != nil {
			t.Error(err)
		}
		w.Write(raw)
	})

	logs := virtual.RekorLogs()
	for id, l := range logs {
		l.ID, err = hex.DecodeString(id)
		check(t, err)
		l.ValidityPeriodEnd = time.Time{}
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: s.root, Intermediates: []*x509.Certificate{s.intermediate}}},
		nil,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: rootCert, Intermediates: []*x509.Certificate{tsaCA}, Leaf: tsaCert}},
		logs)
	check(t, err)
	raw, err := tr.MarshalJSON()
	check(t, err)
	s.trustedRoot = filepath.Join(t.TempDir(), "trusted_root.json")
	check(t, os.WriteFile(s.trustedRoot, raw, 0o600))
	return s
}

// certify is Fulcio's API, version 2: it believes every token.
func (s *sigstore) certify(t *testing.T, w http.ResponseWriter, r *http.Request) {
	var req struct {
		PublicKeyRequest struct {
			PublicKey struct{ Content string } `json:"publicKey"`
		} `json:"publicKeyRequest"`
	}
	token := strings.Split(r.Header.Get("Authorization"), ".")
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || len(token) != 3 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var claims struct{ Email, Iss string }
	raw, _ := base64.RawURLEncoding.DecodeString(token[1])
	json.Unmarshal(raw, &claims)
	public, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(req.PublicKeyRequest.PublicKey.Content))
	if err != nil {
		t.Error(err)
		return
	}
	cert, err := ca.GenerateLeafCert(claims.Email, claims.Iss, s.issued, publicOnly{public}, s.intermediate, s.key)
	if err != nil {
		t.Error(err)
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{
		"certificates": []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))},
	}}})
}

// enter is Rekor's API for new entries.
func (s *sigstore) enter(t *testing.T, virtual *ca.VirtualSigstore, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/api/v1/log/entries" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	fail := func(err error) {
		t.Error(err)
		w.WriteHeader(http.StatusBadRequest)
	}
	proposed, err := models.UnmarshalProposedEntry(r.Body, runtime.JSONConsumer())
	if err != nil {
		fail(err)
		return
	}
	entry, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		fail(err)
		return
	}
	body, err := types.CanonicalizeEntry(r.Context(), entry)
	if err != nil {
		fail(err)
		return
	}
	id, err := virtual.RekorLogID()
	if err != nil {
		fail(err)
		return
	}
	p := tlog.RekorPayload{Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: s.logTime().Unix(), LogIndex: 7, LogID: id}
	set, err := virtual.RekorSignPayload(p)
	if err != nil {
		fail(err)
		return
	}
	proof, err := virtual.GetInclusionProof(body)
	if err != nil {
		fail(err)
		return
	}
	uuid := strings.Repeat("0", 80)
	w.Header().Set("ETag", uuid)
	w.Header().Set("Location", "/api/v1/log/entries/"+uuid)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]any{uuid: map[string]any{
		"body": p.Body, "integratedTime": p.IntegratedTime, "logID": p.LogID, "logIndex": p.LogIndex,
		"verification": map[string]any{"inclusionProof": proof, "signedEntryTimestamp": set},
	}})
}

// signer is keyless, for the e-mail address.
func (s *sigstore) signer(email string) Signer {
	claims, _ := json.Marshal(map[string]any{"email": email, "email_verified": true, "iss": issuer, "sub": email, "aud": "sigstore"})
	return Signer{FulcioURL: s.fulcio, RekorURL: s.rekor, IdentityToken: "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"}
}

// verifier trusts this sigstore; its certificates have no SCT.
func (s *sigstore) verifier(email string) Verifier {
	return Verifier{TrustedRoot: s.trustedRoot, InsecureIgnoreSCT: true, Identities: []Identity{{Subject: email, Issuer: issuer}}}
}

func TestKeyless(t *testing.T) {
	const me = "me@example.com"
	for _, format := range []Format{Legacy, Bundle, Both} {
		t.Run(format.String(), func(t *testing.T) {
			ss := newSigstore(t)
			ctx := t.Context()
			s := store(t, memory.New(), "x")
			made, err := Sign(ctx, s, SignOptions{Signer: ss.signer(me), Format: format, Annotations: map[string]string{"a": "b"}})
			check(t, err)
			got, err := Verify(ctx, s, VerifyOptions{Verifier: ss.verifier(me)})
			check(t, err)
			if len(got) != len(made) {
				t.Fatalf("%d signatures verify, want %d", len(got), len(made))
			}
			for i := range got {
				if got[i].Identity != me || got[i].Issuer != issuer || got[i].LogIndex != 7 || got[i].Time.IsZero() || got[i].Annotations["a"] != "b" {
					t.Errorf("verified %+v", got[i])
				}
				if made[i].Identity != me || made[i].LogIndex != 7 {
					t.Errorf("made %+v", made[i])
				}
			}

			v := ss.verifier(me)
			v.Identities = []Identity{{Subject: "you@example.com", Issuer: issuer}, {SubjectRegExp: `^me@example\.com$`, IssuerRegExp: "^https://issuer"}}
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			check(t, err)

			_, err = Verify(ctx, s, VerifyOptions{Verifier: ss.verifier("you@example.com")})
			refused(t, err, IdentityMismatch)
			if !strings.Contains(err.Error(), me) {
				t.Errorf("does not say who it was: %v", err)
			}
			v.Identities = []Identity{{Subject: me, Issuer: "https://elsewhere.example"}}
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			refused(t, err, IdentityMismatch)

			_, err = Verify(ctx, s, VerifyOptions{Verifier: newSigstore(t).verifier(me)})
			refused(t, err, UntrustedIssuer)

			// its authority, but another's log
			v = newSigstore(t).verifier(me)
			v.CertificateChain = ss.chain
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			refused(t, err, NoLogEntry)

			// a certificate without SCT
			v = ss.verifier(me)
			v.InsecureIgnoreSCT = false
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			refused(t, err, Unverifiable)

			_, public := key(t)
			_, err = Verify(ctx, s, VerifyOptions{Verifier: Verifier{Key: public, TrustedRoot: ss.trustedRoot}})
			refused(t, err, WrongKey)

			other := store(t, s.Target, "other")
			if format == Legacy {
				d, err := s.Target.Resolve(ctx, s.attachedTag("sig"))
				check(t, err)
				check(t, s.Target.Tag(ctx, d, other.attachedTag("sig")))
				_, err = Verify(ctx, other, VerifyOptions{Verifier: ss.verifier(me)})
				refused(t, err, DigestMismatch)
			}
		})
	}
}

func TestKeylessExpired(t *testing.T) {
	const me = "me@example.com"
	for _, format := range []Format{Legacy, Bundle} {
		t.Run(format.String(), func(t *testing.T) {
			ss := newSigstore(t)
			ss.logTime = func() time.Time { return time.Now().Add(20 * time.Minute) }
			s := store(t, memory.New(), "x")
			_, err := Sign(t.Context(), s, SignOptions{Signer: ss.signer(me), Format: format})
			check(t, err)
			_, err = Verify(t.Context(), s, VerifyOptions{Verifier: ss.verifier(me)})
			refused(t, err, Expired)
		})
	}
}

func TestKeylessNeedsLogEntryOrTimestamp(t *testing.T) {
	const me = "me@example.com"
	for _, format := range []Format{Legacy, Bundle} {
		t.Run(format.String(), func(t *testing.T) {
			ss := newSigstore(t)
			s := store(t, memory.New(), "x")
			by := ss.signer(me)
			by.RekorURL, by.TimestampURL = "", ss.tsa
			_, err := Sign(t.Context(), s, SignOptions{Signer: by, Format: format})
			check(t, err)
			_, err = Verify(t.Context(), s, VerifyOptions{Verifier: ss.verifier(me)})
			refused(t, err, NoLogEntry)

			v := ss.verifier(me)
			v.InsecureIgnoreTlog, v.UseSignedTimestamps = true, true
			_, err = Verify(t.Context(), s, VerifyOptions{Verifier: v})
			check(t, err)
			v.UseSignedTimestamps, v.TimestampCertificateChain = false, ss.stamp
			_, err = Verify(t.Context(), s, VerifyOptions{Verifier: v})
			check(t, err)
			v.TimestampCertificateChain = newSigstore(t).stamp
			_, err = Verify(t.Context(), s, VerifyOptions{Verifier: v})
			refused(t, err, Unverifiable)
		})
	}
}

func TestKeyWithLogEntry(t *testing.T) {
	private, public := key(t)
	for _, format := range []Format{Legacy, Bundle, Both} {
		t.Run(format.String(), func(t *testing.T) {
			ss := newSigstore(t)
			ctx := t.Context()
			s := store(t, memory.New(), "x")
			_, err := Sign(ctx, s, SignOptions{Signer: signer(private), Format: format})
			check(t, err)
			v := Verifier{Key: public, TrustedRoot: ss.trustedRoot}
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			refused(t, err, NoLogEntry)

			by := signer(private)
			by.RekorURL = ss.rekor
			_, err = Sign(ctx, s, SignOptions{Signer: by, Format: format})
			check(t, err)
			got, err := Verify(ctx, s, VerifyOptions{Verifier: v})
			check(t, err)
			if got[0].LogIndex != 7 {
				t.Errorf("verified %+v", got[0])
			}
		})
	}
}

func TestTrustFromEnvironment(t *testing.T) {
	const me = "me@example.com"
	ss := newSigstore(t)
	s := store(t, memory.New(), "x")
	_, err := Sign(t.Context(), s, SignOptions{Signer: ss.signer(me), Format: Both})
	check(t, err)
	tr, err := root.NewTrustedRootFromPath(ss.trustedRoot)
	check(t, err)
	for _, l := range tr.RekorLogs() {
		raw, err := cryptoutils.MarshalPublicKeyToPEM(l.PublicKey)
		check(t, err)
		file := filepath.Join(t.TempDir(), "rekor.pub")
		check(t, os.WriteFile(file, raw, 0o600))
		t.Setenv("SIGSTORE_REKOR_PUBLIC_KEY", file)
	}
	t.Setenv("SIGSTORE_ROOT_FILE", ss.chain)
	v := ss.verifier(me)
	v.TrustedRoot = ""
	got, err := Verify(t.Context(), s, VerifyOptions{Verifier: v})
	check(t, err)
	if len(got) != 2 {
		t.Errorf("%d signatures verify, want 2", len(got))
	}
}

func TestOwnAuthority(t *testing.T) {
	for _, format := range []Format{Legacy, Bundle, Both} {
		t.Run(format.String(), func(t *testing.T) {
			ctx := t.Context()
			a := ownAuthority(t)
			private, public := key(t)
			raw, err := os.ReadFile(public)
			check(t, err)
			pub, err := cryptoutils.UnmarshalPEMToPublicKey(raw)
			check(t, err)
			cert, err := ca.GenerateLeafCert("team@example.com", "", time.Now().Add(-time.Minute), publicOnly{pub}, a.intermediate, a.key)
			check(t, err)
			by := signer(private)
			by.Certificate, by.CertificateChain = writeCertificates(t, cert), a.chain
			s := store(t, memory.New(), "x")
			made, err := Sign(ctx, s, SignOptions{Signer: by, Format: format})
			check(t, err)

			v := Verifier{CertificateChain: a.chain, InsecureIgnoreSCT: true, InsecureIgnoreTlog: true, Identities: []Identity{{Subject: "team@example.com", IssuerRegExp: ".*"}}}
			got, err := Verify(ctx, s, VerifyOptions{Verifier: v})
			check(t, err)
			if len(got) != len(made) || got[0].Identity != "team@example.com" {
				t.Errorf("verified %+v", got)
			}
			v.CertificateChain, v.CARoots, v.CAIntermediates = "", writeCertificates(t, a.root), writeCertificates(t, a.intermediate)
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			check(t, err)
			// the legacy form brings the intermediate along
			v.CAIntermediates = ""
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			if format == Bundle {
				refused(t, err, UntrustedIssuer)
			} else {
				check(t, err)
			}
			v.CARoots = writeCertificates(t, ownAuthority(t).root)
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			refused(t, err, UntrustedIssuer)
			v.CARoots = writeCertificates(t, a.root, a.intermediate)
			v.Identities[0].Subject = "other@example.com"
			_, err = Verify(ctx, s, VerifyOptions{Verifier: v})
			refused(t, err, IdentityMismatch)
		})
	}
}

func TestOwnAuthorityExpired(t *testing.T) {
	root, rootKey, err := ca.GenerateRootCa()
	check(t, err)
	private, public := key(t)
	raw, err := os.ReadFile(public)
	check(t, err)
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(raw)
	check(t, err)
	cert, err := ca.GenerateLeafCert("team@example.com", "", time.Now().Add(-time.Hour), publicOnly{pub}, root, rootKey)
	check(t, err)
	by := signer(private)
	by.Certificate = writeCertificates(t, cert)
	for _, format := range []Format{Legacy, Bundle} {
		s := store(t, memory.New(), format.String())
		_, err = Sign(t.Context(), s, SignOptions{Signer: by, Format: format})
		check(t, err)
		v := Verifier{CARoots: writeCertificates(t, root), InsecureIgnoreSCT: true, InsecureIgnoreTlog: true, Identities: []Identity{{Subject: "team@example.com", IssuerRegExp: ".*"}}}
		_, err = Verify(t.Context(), s, VerifyOptions{Verifier: v})
		refused(t, err, Expired)
	}
}

func TestCertificateOfAnotherKey(t *testing.T) {
	a := ownAuthority(t)
	private, _ := key(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	cert, err := ca.GenerateLeafCert("team@example.com", "", time.Now(), other, a.intermediate, a.key)
	check(t, err)
	by := signer(private)
	by.Certificate = writeCertificates(t, cert)
	_, err = Sign(t.Context(), store(t, memory.New(), "x"), SignOptions{Signer: by})
	if err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v", err)
	}
}
