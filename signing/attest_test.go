package signing

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

const slsa1 = `{"buildDefinition":{"buildType":"https://example.com/t","externalParameters":{},"unknown":12345678901234567890},"runDetails":{"builder":{"id":"https://example.com/b"}}}`

func TestAttestAndVerify(t *testing.T) {
	private, public := key(t)
	_, other := key(t)
	for name, open := range targets {
		for _, format := range []Format{Legacy, Bundle, Both} {
			t.Run(name+"/"+format.String(), func(t *testing.T) {
				ctx := t.Context()
				target := open(t)
				s := store(t, target, "x")
				made, err := Attest(ctx, s, AttestOptions{Signer: signer(private), Format: format, PredicateType: "slsaprovenance1", Predicate: []byte(slsa1)})
				check(t, err)
				_, err = Attest(ctx, s, AttestOptions{Signer: signer(private), Format: format, Predicate: []byte("any text")})
				check(t, err)

				got, err := VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(public), PredicateType: "slsaprovenance1"})
				check(t, err)
				if len(got) != len(made) {
					t.Fatalf("%d attestations verify, want %d", len(got), len(made))
				}
				for i, a := range got {
					if a.PredicateType != "https://slsa.dev/provenance/v1" || a.Manifest.Digest != made[i].Manifest.Digest && format != Legacy && a.Format != Legacy {
						t.Errorf("verified %+v", a)
					}
					var want, have bytes.Buffer
					check(t, json.Compact(&want, []byte(slsa1)))
					check(t, json.Compact(&have, a.Predicate))
					if want.String() != have.String() {
						t.Errorf("predicate is %s", have.String())
					}
				}
				got, err = VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(public)})
				check(t, err)
				if len(got) != 2*len(made) {
					t.Errorf("%d attestations verify, want %d", len(got), 2*len(made))
				}
				_, err = VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(public), PredicateType: "spdxjson"})
				refused(t, err, NoAttestation)
				_, err = VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(other), PredicateType: "custom"})
				refused(t, err, WrongKey)
				// an attestation is no signature
				_, err = Verify(ctx, s, VerifyOptions{Verifier: offline(public)})
				refused(t, err, NoSignature)

				listed, err := Attestations(ctx, s)
				check(t, err)
				if len(listed) != 2*len(made) {
					t.Errorf("%d attestations listed, want %d", len(listed), 2*len(made))
				}
				listed, err = Attestations(ctx, store(t, target, "other"))
				check(t, err)
				if len(listed) != 0 {
					t.Errorf("%d attestations of something else listed", len(listed))
				}
			})
		}
	}
}

func TestAttestKeyless(t *testing.T) {
	const me = "me@example.com"
	ss := newSigstore(t)
	s := store(t, memory.New(), "x")
	for _, stamped := range []bool{false, true} {
		by := ss.signer(me)
		v := ss.verifier(me)
		if stamped {
			by.TimestampURL, v.UseSignedTimestamps = ss.tsa, true
		}
		made, err := Attest(t.Context(), s, AttestOptions{Signer: by, Format: Both, PredicateType: "https://example.com/p", Predicate: []byte(`{"stamped":true}`)})
		check(t, err)
		if made[0].LogIndex != 7 || made[0].Identity != me {
			t.Errorf("made %+v", made[0])
		}
		got, err := VerifyAttestation(t.Context(), s, AttestationOptions{Verifier: v, PredicateType: "https://example.com/p"})
		check(t, err)
		found := map[Format]int{}
		for _, a := range got {
			found[a.Format]++
			if a.Identity != me || a.LogIndex != 7 {
				t.Errorf("verified %+v", a)
			}
		}
		if found[Legacy] == 0 || found[Bundle] == 0 {
			t.Errorf("verified %v", found)
		}
		_, err = VerifyAttestation(t.Context(), s, AttestationOptions{Verifier: ss.verifier("you@example.com"), PredicateType: "https://example.com/p"})
		refused(t, err, IdentityMismatch)
	}
	listed, err := Attestations(t.Context(), s)
	check(t, err)
	for _, a := range listed {
		if a.Identity != me {
			t.Errorf("listed %+v", a.Signature)
		}
	}
}

func TestMovedAttestation(t *testing.T) {
	private, public := key(t)
	ctx := t.Context()
	target := memory.New()
	good, evil := store(t, target, "good"), store(t, target, "evil")
	_, err := Attest(ctx, good, AttestOptions{Signer: signer(private), Format: Both, PredicateType: "https://example.com/p", Predicate: []byte("{}")})
	check(t, err)
	d, err := target.Resolve(ctx, good.attachedTag("att"))
	check(t, err)
	check(t, target.Tag(ctx, d, evil.attachedTag("att")))
	bundles, err := bundleEntries(ctx, good)
	check(t, err)
	raw, err := bundles[0].bundle.MarshalJSON()
	check(t, err)
	_, err = writeBundle(ctx, evil, raw, "https://example.com/p")
	check(t, err)
	_, err = VerifyAttestation(ctx, evil, AttestationOptions{Verifier: offline(public)})
	refused(t, err, DigestMismatch)
}

func TestTamperedAttestation(t *testing.T) {
	private, public := key(t)
	ctx := t.Context()
	s := store(t, memory.New(), "x")
	_, err := Attest(ctx, s, AttestOptions{Signer: signer(private), PredicateType: "https://example.com/p", Predicate: []byte(`{"safe":false}`)})
	check(t, err)
	m, _, _, err := legacyManifest(ctx, s, "att")
	check(t, err)
	raw, err := content.FetchAll(ctx, s.Target, m.Layers[0])
	check(t, err)
	var env map[string]any
	check(t, json.Unmarshal(raw, &env))
	env["payload"] = []byte(`{"_type":"` + statementV01 + `","predicateType":"https://example.com/p","subject":[{"digest":{"sha256":"` + s.Descriptor.Digest.Encoded() + `"}}],"predicate":{"safe":true}}`)
	raw, err = json.Marshal(env)
	check(t, err)
	layer := content.NewDescriptorFromBytes(dsseType, raw)
	layer.Annotations = m.Layers[0].Annotations
	check(t, push(ctx, s.Target, layer, raw))
	replaceLayers(t, s, "att", layer)
	_, err = VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(public), PredicateType: "https://example.com/p"})
	refused(t, err, WrongKey)
	listed, err := Attestations(ctx, s)
	check(t, err)
	if len(listed) != 1 {
		t.Errorf("%d listed, want 1: a list does not decide", len(listed))
	}
}

func TestPredicates(t *testing.T) {
	s := store(t, memory.New(), "x")
	for _, test := range []struct {
		kind, predicate string
		format          Format
		uri, want       string // want "": refused
	}{
		{"", "text", Both, "https://cosign.sigstore.dev/attestation/v1", `"Data":"text"`},
		{"custom", "{}", Legacy, "https://cosign.sigstore.dev/attestation/v1", `"Data":"{}"`},
		{"spdx", "SPDXVersion: SPDX-2.3", Legacy, "https://spdx.dev/Document", `"SPDXVersion: SPDX-2.3"`},
		{"spdx", "SPDXVersion: SPDX-2.3", Bundle, "", ""},
		{"spdxjson", `{"spdxVersion":"SPDX-2.3"}`, Bundle, "https://spdx.dev/Document", `{"spdxVersion":"SPDX-2.3"}`},
		{"cyclonedx", `{"bomFormat":"CycloneDX"}`, Bundle, "https://cyclonedx.org/bom", `{"bomFormat":"CycloneDX"}`},
		{"slsaprovenance1", slsa1, Bundle, "https://slsa.dev/provenance/v1", "12345678901234567890"},
		{"slsaprovenance1", "{}", Bundle, "", ""},
		{"slsaprovenance", "{}", Bundle, "", ""},
		{"link", "{}", Bundle, "", ""},
		{"vuln", "{}", Bundle, "https://cosign.sigstore.dev/attestation/vuln/v1", "{}"},
		{"openvex", "{}", Bundle, "https://openvex.dev/ns", "{}"},
		{"https://example.com/x", "[]", Bundle, "", ""},
		{"https://example.com/x", "null", Bundle, "", ""},
		{"https://example.com/x", "text", Bundle, "", ""},
		{"nonsense", "{}", Bundle, "", ""},
		{"https://sigstore.dev/cosign/sign/v1", "{}", Bundle, "", ""},
	} {
		o := AttestOptions{Format: test.format, PredicateType: test.kind, Predicate: []byte(test.predicate)}
		st, err := o.statement(s)
		switch {
		case test.want == "" && err == nil:
			t.Errorf("%s of %s is taken", test.kind, test.predicate)
		case test.want != "" && err != nil:
			t.Errorf("%s of %s: %v", test.kind, test.predicate, err)
		case test.want != "" && (st.PredicateType != test.uri || !strings.Contains(string(st.Predicate), test.want)):
			t.Errorf("%s: %s %s", test.kind, st.PredicateType, st.Predicate)
		}
	}
}

func TestAttestationTypesAreChecked(t *testing.T) {
	_, public := key(t)
	_, err := VerifyAttestation(t.Context(), store(t, memory.New(), "x"), AttestationOptions{Verifier: offline(public), PredicateType: "nonsense"})
	if err == nil || errors.Is(err, ErrNotVerified) {
		t.Errorf("got %v, want a usage error", err)
	}
}
