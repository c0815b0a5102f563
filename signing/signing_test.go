package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"google.golang.org/protobuf/encoding/protojson"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// targets are places for a subject: with a referrers API, without, and none.
var targets = map[string]func(t *testing.T) oras.GraphTarget{
	"memory": func(*testing.T) oras.GraphTarget { return memory.New() },
	"layout": func(t *testing.T) oras.GraphTarget {
		s, err := oci.New(t.TempDir())
		check(t, err)
		return s
	},
	"registry": func(t *testing.T) oras.GraphTarget {
		return repository(t, ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true)))
	},
	"registry without referrers": func(t *testing.T) oras.GraphTarget {
		return repository(t, ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	},
}

func repository(t *testing.T, h http.Handler) oras.GraphTarget {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	r, err := remote.NewRepository(strings.TrimPrefix(srv.URL, "http://") + "/team/model")
	check(t, err)
	r.PlainHTTP = true
	r.Client = &auth.Client{} // that tries nothing again
	return r
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store pushes a manifest that the text makes different from others.
func store(t testing.TB, target oras.GraphTarget, text string) Subject {
	t.Helper()
	d, err := oras.PackManifest(t.Context(), target, oras.PackManifestVersion1_1, "application/vnd.test", oras.PackManifestOptions{
		ManifestAnnotations: map[string]string{"text": text, ocispec.AnnotationCreated: "2026-01-01T00:00:00Z"},
	})
	check(t, err)
	return Subject{"registry.example/team/model", d, target}
}

// key writes a key pair and returns its files.
func key(t testing.TB) (private, public string) {
	t.Helper()
	private, public, err := GenerateKey(filepath.Join(t.TempDir(), "cosign"), func(bool) ([]byte, error) { return []byte("pass"), nil })
	check(t, err)
	return private, public
}

func signer(private string) Signer {
	return Signer{Key: private, Password: func(bool) ([]byte, error) { return []byte("pass"), nil }}
}

// offline trusts a key and needs no network.
func offline(public string) Verifier { return Verifier{Key: public, InsecureIgnoreTlog: true} }

// refused wants a VerificationError with the reason.
func refused(t *testing.T, err error, want Reason) {
	t.Helper()
	var v *VerificationError
	if !errors.As(err, &v) || !errors.Is(err, ErrNotVerified) {
		t.Fatalf("got %v, want a VerificationError", err)
	}
	if v.Reason != want {
		t.Fatalf("got %q, want %q: %v", v.Reason, want, err)
	}
}

func TestSignAndVerifyWithKey(t *testing.T) {
	private, public := key(t)
	_, other := key(t)
	for name, open := range targets {
		for _, format := range []Format{Legacy, Bundle, Both} {
			t.Run(name+"/"+format.String(), func(t *testing.T) {
				ctx := t.Context()
				target := open(t)
				s, unsigned := store(t, target, "signed"), store(t, target, "unsigned")
				made, err := Sign(ctx, s, SignOptions{Signer: signer(private), Format: format, Annotations: map[string]string{"env": "test", "n": "1"}})
				check(t, err)
				n := 1
				if format == Both {
					n = 2
				}
				if len(made) != n {
					t.Fatalf("%d signatures, want %d", len(made), n)
				}

				got, err := Verify(ctx, s, VerifyOptions{Verifier: offline(public), Annotations: map[string]string{"env": "test"}})
				check(t, err)
				if len(got) != n {
					t.Fatalf("%d signatures verify, want %d", len(got), n)
				}
				for i := range got {
					if got[i].Format != made[i].Format || got[i].Manifest.Digest != made[i].Manifest.Digest || !bytes.Equal(got[i].Payload, made[i].Payload) {
						t.Errorf("verified %+v, made %+v", got[i], made[i])
					}
					if got[i].Annotations["n"] != "1" || got[i].LogIndex != -1 || got[i].Identity != "" {
						t.Errorf("verified %+v", got[i])
					}
				}

				_, err = Verify(ctx, s, VerifyOptions{Verifier: offline(other)})
				refused(t, err, WrongKey)
				_, err = Verify(ctx, s, VerifyOptions{Verifier: offline(public), Annotations: map[string]string{"env": "prod"}})
				refused(t, err, AnnotationMismatch)
				_, err = Verify(ctx, s, VerifyOptions{Verifier: offline(public), Annotations: map[string]string{"absent": ""}})
				refused(t, err, AnnotationMismatch)
				_, err = Verify(ctx, unsigned, VerifyOptions{Verifier: offline(public)})
				refused(t, err, NoSignature)
				_, err = Verify(ctx, s, VerifyOptions{Verifier: Verifier{
					InsecureIgnoreSCT: true, InsecureIgnoreTlog: true, CertificateChain: ownAuthority(t).chain,
					Identities: []Identity{{SubjectRegExp: ".", IssuerRegExp: ".*"}},
				}})
				refused(t, err, NoCertificate)
				// a signature is no attestation
				_, err = VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(public)})
				refused(t, err, NoAttestation)
			})
		}
	}
}

func TestSecondSignature(t *testing.T) {
	private, public := key(t)
	again, _ := key(t)
	s := store(t, memory.New(), "x")
	var first []Signature
	for i, by := range []string{private, private, again, private} {
		made, err := Sign(t.Context(), s, SignOptions{Signer: signer(by)})
		check(t, err)
		if i == 0 {
			first = made
		}
		if i == 1 && made[0].Manifest.Digest != first[0].Manifest.Digest {
			t.Error("the same signature was added twice")
		}
	}
	m, _, _, err := legacyManifest(t.Context(), s, "sig")
	check(t, err)
	if len(m.Layers) != 2 {
		t.Errorf("%d layers, want one a key", len(m.Layers))
	}
	got, err := Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
	check(t, err)
	if len(got) != 1 {
		t.Errorf("%d signatures verify, want 1", len(got))
	}
}

func TestKeyKinds(t *testing.T) {
	kinds := map[string]func() (crypto.Signer, error){
		"P-256": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		"P-384": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		"RSA":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		"Ed25519": func() (crypto.Signer, error) {
			_, k, err := ed25519.GenerateKey(rand.Reader)
			return k, err
		},
	}
	for name, make := range kinds {
		t.Run(name, func(t *testing.T) {
			k, err := make()
			check(t, err)
			der, err := x509.MarshalPKCS8PrivateKey(k)
			check(t, err)
			dir := t.TempDir()
			plain := filepath.Join(dir, "plain.pem")
			check(t, os.WriteFile(plain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
			pair, err := cosign.ImportKeyPair(plain, func(bool) ([]byte, error) { return []byte("pass"), nil })
			check(t, err)
			private := filepath.Join(dir, "import.key")
			check(t, os.WriteFile(private, pair.PrivateBytes, 0o600))
			s := store(t, memory.New(), name)
			_, err = Sign(t.Context(), s, SignOptions{Signer: signer(private), Format: Both})
			check(t, err)
			got, err := Verify(t.Context(), s, VerifyOptions{Verifier: Verifier{KeyPEM: pair.PublicBytes, InsecureIgnoreTlog: true}})
			check(t, err)
			if len(got) != 2 {
				t.Errorf("%d signatures verify, want 2", len(got))
			}
		})
	}
}

func TestMovedSignature(t *testing.T) {
	private, public := key(t)
	ctx := t.Context()
	target := memory.New()
	good, evil := store(t, target, "good"), store(t, target, "evil")
	_, err := Sign(ctx, good, SignOptions{Signer: signer(private)})
	check(t, err)
	d, err := target.Resolve(ctx, good.attachedTag("sig"))
	check(t, err)
	check(t, target.Tag(ctx, d, evil.attachedTag("sig")))
	_, err = Verify(ctx, evil, VerifyOptions{Verifier: offline(public)})
	refused(t, err, DigestMismatch)

	evil = store(t, target, "evil too")
	by, err := signerOf(private).open(ctx)
	check(t, err)
	raw := signStatement(t, by, newStatement(good, "https://sigstore.dev/cosign/sign/v1", json.RawMessage("{}"), nil))
	_, err = writeBundle(ctx, evil, raw, "https://sigstore.dev/cosign/sign/v1")
	check(t, err)
	_, err = Verify(ctx, evil, VerifyOptions{Verifier: offline(public)})
	refused(t, err, DigestMismatch)
}

func TestTamperedSignature(t *testing.T) {
	private, public := key(t)
	ctx := t.Context()
	s := store(t, memory.New(), "x")
	_, err := Sign(ctx, s, SignOptions{Signer: signer(private), Annotations: map[string]string{"env": "test"}})
	check(t, err)
	m, _, _, err := legacyManifest(ctx, s, "sig")
	check(t, err)
	payload, err := content.FetchAll(ctx, s.Target, m.Layers[0])
	check(t, err)
	payload = bytes.Replace(payload, []byte("test"), []byte("prod"), 1)
	layer := content.NewDescriptorFromBytes(simpleSigningType, payload)
	layer.Annotations = m.Layers[0].Annotations
	check(t, push(ctx, s.Target, layer, payload))
	replaceLayers(t, s, "sig", layer)
	_, err = Verify(ctx, s, VerifyOptions{Verifier: offline(public)})
	refused(t, err, WrongKey)

	// one that holds is enough, whatever lies beside it
	replaceLayers(t, s, "sig", layer, m.Layers[0])
	got, err := Verify(ctx, s, VerifyOptions{Verifier: offline(public)})
	check(t, err)
	if len(got) != 1 {
		t.Errorf("%d signatures verify, want 1", len(got))
	}
}

// overtaken is a target to which somebody else writes between two requests.
type overtaken struct {
	oras.GraphTarget
	pushed, tagged sync.Once
	other          struct{ pushed, tagged func() }
}

func (o *overtaken) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	err := o.GraphTarget.Push(ctx, d, r)
	o.pushed.Do(o.other.pushed)
	return err
}

func (o *overtaken) Tag(ctx context.Context, d ocispec.Descriptor, tag string) error {
	err := o.GraphTarget.Tag(ctx, d, tag)
	o.tagged.Do(o.other.tagged)
	return err
}

func TestSignaturesWrittenAtOnceAllStay(t *testing.T) {
	mine, public := key(t)
	one, publicOne := key(t)
	two, publicTwo := key(t)
	target := memory.New()
	s := store(t, target, "x")
	signed := func(by string, at Subject) ocispec.Descriptor {
		t.Helper()
		made, err := Sign(t.Context(), at, SignOptions{Signer: signer(by)})
		check(t, err)
		return made[0].Manifest
	}
	o := &overtaken{GraphTarget: target}
	o.other.pushed = func() { signed(one, s) } // after the tag was read
	o.other.tagged = func() {                  // by who has not seen that it moved
		signed(two, s)
		m, _, _, err := legacyManifest(t.Context(), s, "sig")
		check(t, err)
		replaceLayers(t, s, "sig", m.Layers[0], m.Layers[2])
	}
	again := s
	again.Target = o
	signed(mine, again)
	for _, p := range []string{public, publicOne, publicTwo} {
		if got, err := Verify(t.Context(), s, VerifyOptions{Verifier: offline(p)}); err != nil || len(got) != 1 {
			t.Errorf("%d signatures: %v", len(got), err)
		}
	}
}

// replaceLayers makes another manifest of the tag.
func replaceLayers(t *testing.T, s Subject, suffix string, layers ...ocispec.Descriptor) {
	t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON, Layers: layers}
	check(t, push(t.Context(), s.Target, m.Config, []byte("{}")))
	raw, err := json.Marshal(m)
	check(t, err)
	d := content.NewDescriptorFromBytes(m.MediaType, raw)
	check(t, push(t.Context(), s.Target, d, raw))
	check(t, s.Target.Tag(t.Context(), d, s.attachedTag(suffix)))
}

func TestDamagedSignature(t *testing.T) {
	_, public := key(t)
	good := []byte(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"sha256:00"},"type":"cosign container image signature"},"optional":null}`)
	for name, test := range map[string]struct {
		payload     []byte
		annotations map[string]string
		missing     bool
	}{
		"no JSON":            {payload: []byte("x")},
		"no base64":          {payload: good, annotations: map[string]string{"dev.cosignproject.cosign/signature": "-"}},
		"no signature":       {payload: good},
		"bundle of numbers":  {payload: good, annotations: map[string]string{"dev.sigstore.cosign/bundle": `{"Payload":{"body":1}}`}},
		"bundle of nothing":  {payload: good, annotations: map[string]string{"dev.sigstore.cosign/bundle": `{"Payload":{"body":"e30="}}`}},
		"timestamp of air":   {payload: good, annotations: map[string]string{"dev.cosignproject.cosign/signature": "AA==", "dev.sigstore.cosign/rfc3161timestamp": `{"SignedRFC3161Timestamp":"AA=="}`}},
		"certificate of air": {payload: good, annotations: map[string]string{"dev.sigstore.cosign/certificate": "air"}},
		"no blob":            {payload: good, missing: true},
	} {
		t.Run(name, func(t *testing.T) {
			target := repository(t, ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
			s := store(t, target, name)
			layer := content.NewDescriptorFromBytes(simpleSigningType, test.payload)
			layer.Annotations = test.annotations
			if !test.missing {
				check(t, push(t.Context(), target, layer, test.payload))
			}
			replaceLayers(t, s, "sig", layer)
			for _, v := range []Verifier{
				offline(public),
				{Key: public, TrustedRoot: newSigstore(t).trustedRoot},
				{Key: public, TrustedRoot: newSigstore(t).trustedRoot, UseSignedTimestamps: true},
				{CertificateChain: ownAuthority(t).chain, InsecureIgnoreSCT: true, InsecureIgnoreTlog: true, Identities: []Identity{{SubjectRegExp: ".", IssuerRegExp: "."}}},
			} {
				_, err := Verify(t.Context(), s, VerifyOptions{Verifier: v})
				if !errors.Is(err, ErrNotVerified) {
					t.Errorf("got %v, want ErrNotVerified", err)
				}
			}
		})
	}
}

func TestSignIndexRecursively(t *testing.T) {
	private, public := key(t)
	ctx := t.Context()
	target := memory.New()
	a, b := store(t, target, "a"), store(t, target, "b")
	inner := storeIndex(t, target, b)
	outer := storeIndex(t, target, a, inner, a)
	made, err := Sign(ctx, outer, SignOptions{Signer: signer(private), Format: Both, Recursive: true})
	check(t, err)
	if len(made) != 8 {
		t.Errorf("%d signatures, want two for each of four", len(made))
	}
	for _, s := range []Subject{a, b, inner, outer} {
		got, err := Verify(ctx, s, VerifyOptions{Verifier: offline(public)})
		check(t, err)
		if len(got) != 2 {
			t.Errorf("%d signatures verify, want 2", len(got))
		}
	}
}

func storeIndex(t *testing.T, target oras.GraphTarget, of ...Subject) Subject {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, s := range of {
		index.Manifests = append(index.Manifests, s.Descriptor)
	}
	raw, err := json.Marshal(index)
	check(t, err)
	d := content.NewDescriptorFromBytes(index.MediaType, raw)
	check(t, push(t.Context(), target, d, raw))
	return Subject{of[0].Repository, d, target}
}

func TestFailingRegistryIsNoVerdict(t *testing.T) {
	private, public := key(t)
	reg := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	var fail func(*http.Request) bool
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail != nil && fail(r) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		reg.ServeHTTP(w, r)
	})
	s := store(t, repository(t, handler), "x")
	_, err := Sign(t.Context(), s, SignOptions{Signer: signer(private), Format: Both})
	check(t, err)
	// one that does not know yet whether there is a referrers API
	s.Target = repository(t, handler)
	m, _, _, err := legacyManifest(t.Context(), s, "sig")
	check(t, err)
	for _, part := range []string{".sig", "/referrers/"} {
		fail = func(r *http.Request) bool { return strings.Contains(r.URL.Path, part) }
		_, err = Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
		if err == nil || errors.Is(err, ErrNotVerified) {
			t.Errorf("%s fails: got %v, want another error than ErrNotVerified", part, err)
		}
	}
	fail = func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }
	_, err = Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
	if err == nil || errors.Is(err, ErrNotVerified) {
		t.Errorf("blobs fail: got %v, want another error than ErrNotVerified", err)
	}
	// the one that can be read is enough
	fail = func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, string(m.Layers[0].Digest)) }
	_, err = Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
	check(t, err)
}

func TestVerifierMustSayWho(t *testing.T) {
	_, public := key(t)
	s := store(t, memory.New(), "x")
	for _, v := range []Verifier{
		{},
		{Key: public, Identities: []Identity{{Subject: "a", Issuer: "b"}}},
		{Identities: []Identity{{}}},
		{Identities: []Identity{{Subject: "a"}}},
		{Identities: []Identity{{Issuer: "a"}}},
		{Identities: []Identity{{SubjectRegExp: "(", Issuer: "a"}}},
		{Key: filepath.Join(t.TempDir(), "none"), InsecureIgnoreTlog: true},
		{Key: public, TrustedRoot: public},
	} {
		_, err := Verify(t.Context(), s, VerifyOptions{Verifier: v})
		if err == nil || errors.Is(err, ErrNotVerified) {
			t.Errorf("%+v: got %v, want a usage error", v, err)
		}
	}
}

func TestMissingTrustRootIsNoVerdict(t *testing.T) {
	t.Setenv("TUF_ROOT", t.TempDir())
	t.Setenv("TUF_MIRROR", "http://127.0.0.1:1")
	private, public := key(t)
	s := store(t, memory.New(), "x")
	_, err := Sign(t.Context(), s, SignOptions{Signer: signer(private)})
	check(t, err)
	for _, v := range []Verifier{{Key: public}, {Identities: []Identity{{Subject: "a", Issuer: "b"}}}} {
		_, err := Verify(t.Context(), s, VerifyOptions{Verifier: v})
		if err == nil || errors.Is(err, ErrNotVerified) {
			t.Errorf("got %v, want another error than ErrNotVerified", err)
		}
	}
	// nothing of the kind is needed here
	_, err = Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
	check(t, err)
}

func TestKeysAreNotOverwritten(t *testing.T) {
	private, public := key(t)
	info, err := os.Stat(private)
	check(t, err)
	if info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("private key has mode %v", info.Mode())
	}
	_, _, err = GenerateKey(strings.TrimSuffix(private, ".key"), nil)
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v, want os.ErrExist", err)
	}
	if _, err := os.Stat(public); err != nil {
		t.Error(err)
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	private, _ := key(t)
	secret := "hunter2hunter2"
	s := store(t, memory.New(), "x")
	t.Setenv("SIGNING_TEST_KEY", "not a key: "+secret)
	for _, by := range []Signer{
		{Key: private, Password: func(bool) ([]byte, error) { return []byte(secret), nil }},
		{Key: "env://SIGNING_TEST_KEY"},
		{Key: "pkcs11:token=t;object=k?pin-value=" + secret},
		{FulcioURL: "http://127.0.0.1:1", RekorURL: "http://127.0.0.1:1", IdentityToken: secret},
		{FulcioURL: "http://127.0.0.1:1", RekorURL: "http://127.0.0.1:1", IdentityToken: "a." + secret + ".c"},
	} {
		_, err := Sign(t.Context(), s, SignOptions{Signer: by})
		if err == nil {
			t.Errorf("%s: signed", by.Key)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("error holds the secret: %v", err)
		}
	}
}

func TestTooManySignatures(t *testing.T) {
	_, public := key(t)
	s := store(t, memory.New(), "x")
	payload := []byte("{}")
	layer := content.NewDescriptorFromBytes(simpleSigningType, payload)
	check(t, push(t.Context(), s.Target, layer, payload))
	replaceLayers(t, s, "sig", slices.Repeat([]ocispec.Descriptor{layer}, maxSignatures+1)...)
	_, err := Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
	refused(t, err, Malformed)
}

func TestOversizedPayload(t *testing.T) {
	_, public := key(t)
	s := store(t, memory.New(), "x")
	payload := []byte("{}")
	layer := content.NewDescriptorFromBytes(simpleSigningType, payload)
	layer.Size = maxPayload + 1
	replaceLayers(t, s, "sig", layer)
	_, err := Verify(t.Context(), s, VerifyOptions{Verifier: offline(public)})
	refused(t, err, Malformed)
}

func signerOf(private string) *Signer { s := signer(private); return &s }

// signStatement makes a bundle's JSON.
func signStatement(t testing.TB, by *session, st statement) []byte {
	t.Helper()
	defer by.close()
	b, _, err := by.statement(context.Background(), st)
	check(t, err)
	raw, err := protojson.Marshal(b)
	check(t, err)
	return raw
}
