package signing

import (
	"encoding/json"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

// FuzzLegacy reads and checks a layer that anyone wrote.
func FuzzLegacy(f *testing.F) {
	private, public := key(f)
	s := store(f, memory.New(), "x")
	_, err := Sign(f.Context(), s, SignOptions{Signer: signer(private)})
	check(f, err)
	m, _, _, err := legacyManifest(f.Context(), s, "sig")
	check(f, err)
	payload, err := content.FetchAll(f.Context(), s.Target, m.Layers[0])
	check(f, err)
	annotations, err := json.Marshal(m.Layers[0].Annotations)
	check(f, err)
	f.Add(payload, annotations)
	for _, a := range []string{
		`{}`,
		`{"dev.sigstore.cosign/bundle":"{\"Payload\":{\"body\":\"e30=\"}}"}`,
		`{"dev.sigstore.cosign/certificate":"x","dev.sigstore.cosign/chain":"y"}`,
		`{"dev.sigstore.cosign/rfc3161timestamp":"{\"SignedRFC3161Timestamp\":\"AA==\"}"}`,
	} {
		f.Add(payload, []byte(a))
	}
	v := offline(public)
	c, err := v.open(f.Context())
	check(f, err)
	f.Fuzz(func(t *testing.T, payload, raw []byte) {
		var l ocispec.Descriptor
		if json.Unmarshal(raw, &l.Annotations) != nil {
			return
		}
		sig, err := parseLegacy(l, payload)
		if err != nil {
			return
		}
		// the log entry too
		strict := *c
		strict.legacy.IgnoreTlog = false
		e := legacyEntry{sig: sig}
		if _, err := strict.signature(t.Context(), s, e, nil); err == nil {
			t.Error("holds without a log entry")
		}
		c.signature(t.Context(), s, e, nil)
		envelopePayload(e)
	})
}

// FuzzBundle reads and checks a bundle that anyone wrote.
func FuzzBundle(f *testing.F) {
	private, public := key(f)
	s := store(f, memory.New(), "x")
	by, err := signerOf(private).open(f.Context())
	check(f, err)
	raw := signStatement(f, by, newStatement(s, "https://sigstore.dev/cosign/sign/v1", json.RawMessage("{}"), nil))
	f.Add(raw)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"tlogEntries":[{}]},"dsseEnvelope":{"signatures":[{}]}}`))
	v := offline(public)
	c, err := v.open(f.Context())
	check(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseBundle(raw)
		if err != nil {
			return
		}
		strict := *c
		strict.v = &Verifier{Key: public}
		if _, _, err := strict.bundle(b, s.Descriptor.Digest); err == nil {
			t.Error("holds without a log entry")
		}
		c.signatureBundle(s, bundleEntry{bundle: b}, nil)
	})
}

func FuzzStatement(f *testing.F) {
	s := store(f, memory.New(), "x")
	raw, err := json.Marshal(newStatement(s, "https://example.com/p", json.RawMessage("{}"), map[string]string{"a": "b"}))
	check(f, err)
	f.Add(raw)
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":null,"annotations":{"a":[]}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		st, err := parseStatement(raw)
		if err != nil {
			return
		}
		if r, ok := st.about(s); ok && r.Digest["sha256"] != s.Descriptor.Digest.Encoded() {
			t.Error("speaks of another")
		}
		speaksOf(&st, s)
		for _, r := range st.Subject {
			annotated(map[string]string{"a": "b"}, r.Annotations)
			texts(r.Annotations)
		}
	})
}
