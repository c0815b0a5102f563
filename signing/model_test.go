package signing

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"oras.land/oras-go/v2/registry/remote"
)

// digests are files with their paths for content.
func digests(paths ...string) []FileDigest {
	var all []FileDigest
	for _, p := range paths {
		all = append(all, FileDigest{p, sha256.Sum256([]byte(p))})
	}
	return all
}

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "model", name))
	check(t, err)
	return raw
}

// The files of the CLI's test models.
var signed1, signed2 = sha256.Sum256([]byte("signme-1")), sha256.Sum256([]byte("signme-2"))

func TestModelVectors(t *testing.T) {
	byKey := offline("testdata/model/key.pub")
	byCA := Verifier{CARoots: "testdata/model/ca.pem"}
	_, other := key(t)
	for _, c := range []struct {
		file   string
		v      Verifier
		name   string
		files  int
		reason Reason
	}{
		{"key.bundle.json", byKey, "model", 2, ""},
		{"key-1.0.1.bundle.json", byKey, "v1.0.1-elliptic-key", 2, ""},
		{"file-1.0.0.bundle.json", byKey, "signme-1", 1, ""},
		{"certificate.bundle.json", byCA, "model", 2, ""},
		{"key.bundle.json", offline(other), "", 0, WrongKey},
		{"key.bundle.json", byCA, "", 0, NoCertificate},
		{"certificate.bundle.json", byKey, "", 0, WrongKey},
		{"certificate.bundle.json", Verifier{CARoots: writeCertificates(t, ownAuthority(t).root)}, "", 0, UntrustedIssuer},
		{"wrong-predicate.bundle.json", byKey, "", 0, Unverifiable},
		{"missing-envelope.bundle.json", byKey, "", 0, Malformed},
		{"missing-verification-material.bundle.json", byKey, "", 0, Malformed},
	} {
		t.Run(c.file+"/"+string(c.reason), func(t *testing.T) {
			m, err := VerifyModel(t.Context(), readVector(t, c.file), c.v)
			if c.reason != "" {
				refused(t, err, c.reason)
				return
			}
			check(t, err)
			if m.Name != c.name || len(m.Files) != c.files || m.FollowedLinks {
				t.Errorf("read %+v", m)
			}
		})
	}
}

func TestModelOfVectorComparesWithItsFiles(t *testing.T) {
	m, err := VerifyModel(t.Context(), readVector(t, "key.bundle.json"), offline("testdata/model/key.pub"))
	check(t, err)
	check(t, m.Compare([]FileDigest{{"signme-1", m.Files[0].SHA256}, {"signme-2", m.Files[1].SHA256}, {"ignore-me", signed1}, {".git/HEAD", signed2}, {"model.sig", signed1}}))
	one, err := VerifyModel(t.Context(), readVector(t, "file-1.0.0.bundle.json"), offline("testdata/model/key.pub"))
	check(t, err)
	check(t, one.Compare([]FileDigest{{"signme-1", m.Files[0].SHA256}}))
	refused(t, one.Compare([]FileDigest{{"signme-1", signed2}}), ContentMismatch)
}

func TestSignModel(t *testing.T) {
	private, public := key(t)
	o := ModelOptions{Signer: signer(private), Ignore: []string{"cache"}}
	// a-b before a/b, as code points go
	files := digests("b.bin", "a/b", "a-b", ".gitattributes", ".git/config", "model.sig", "cache/x", "sub/.git/config")
	raw, err := SignModel(t.Context(), "m", files, o)
	check(t, err)
	m, err := VerifyModel(t.Context(), raw, offline(public))
	check(t, err)
	if want := digests("a-b", "a/b", "b.bin", "sub/.git/config"); m.Name != "m" || !reflect.DeepEqual(m.Files, want) {
		t.Errorf("signed %+v", m)
	}
	if want := []string{".git", ".gitattributes", ".github", ".gitignore", "cache", "model.sig"}; !reflect.DeepEqual(m.Ignored, want) {
		t.Errorf("ignored %q", m.Ignored)
	}
	check(t, m.Compare(files))

	_, other := key(t)
	_, err = VerifyModel(t.Context(), raw, offline(other))
	refused(t, err, WrongKey)
	for i := 0; i < len(raw); i += 7 {
		bad := append([]byte{}, raw...)
		bad[i] ^= 1
		got, err := VerifyModel(t.Context(), bad, offline(public))
		if err == nil && !reflect.DeepEqual(got.Files, m.Files) {
			t.Fatalf("byte %d: other files verify", i)
		}
		if err != nil && !errors.Is(err, ErrNotVerified) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

// What the CLI's own code demands of a bundle by a key: see sign_ec_key.py.
func TestSignedModelIsAsTheCLIWantsIt(t *testing.T) {
	private, public := key(t)
	raw, err := SignModel(t.Context(), "m", digests("a"), ModelOptions{Signer: signer(private)})
	check(t, err)
	var b struct {
		MediaType            string
		VerificationMaterial map[string]json.RawMessage
		DsseEnvelope         struct {
			Payload     []byte
			PayloadType string
			Signatures  []struct{ Sig []byte }
		}
	}
	check(t, json.Unmarshal(raw, &b))
	pem, err := os.ReadFile(public)
	check(t, err)
	var material struct{ Hint string }
	check(t, json.Unmarshal(b.VerificationMaterial["publicKey"], &material))
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	check(t, err)
	if b.MediaType != "application/vnd.dev.sigstore.bundle.v0.3+json" || material.Hint != modelHint(pub) || len(material.Hint) != 64 {
		t.Errorf("bundle %s of key %s", b.MediaType, material.Hint)
	}
	if b.DsseEnvelope.PayloadType != "application/vnd.in-toto+json" || len(b.DsseEnvelope.Signatures) != 1 {
		t.Errorf("envelope %+v", b.DsseEnvelope)
	}
	const want = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"bf5d3affb73efd2ec6c36ad3112dd933efed63c4e1cbffcfa88e2759c144f2d8"}}],` +
		`"predicateType":"https://model_signing/signature/v1.0","predicate":{"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,` +
		`"ignore_paths":[".git",".gitattributes",".github",".gitignore","model.sig"]},` +
		`"resources":[{"name":"a","algorithm":"sha256","digest":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}]}}`
	if got := string(b.DsseEnvelope.Payload); got != want {
		t.Errorf("signed\n%s\nwant\n%s", got, want)
	}
}

func TestSignModelRefuses(t *testing.T) {
	private, _ := key(t)
	o := ModelOptions{Signer: signer(private)}
	for name, c := range map[string]struct {
		name   string
		files  []FileDigest
		ignore []string
	}{
		"no name":           {"", digests("a"), nil},
		"no files":          {"m", nil, nil},
		"only ignored":      {"m", digests("model.sig", ".git/HEAD"), nil},
		"twice":             {"m", digests("a", "a"), nil},
		"above the root":    {"m", digests("../a"), nil},
		"absolute":          {"m", digests("/a"), nil},
		"not UTF-8":         {"m", digests("a\xff"), nil},
		"ignored above":     {"m", digests("a"), []string{"../x"}},
		"ignored wildcard":  {"m", digests("a"), []string{"*.tmp"}},
		"ignored is all":    {"m", digests("a"), []string{"."}},
		"name is not UTF-8": {"m\xff", digests("a"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Ignore = c.ignore
			if raw, err := SignModel(t.Context(), c.name, c.files, o); err == nil {
				t.Errorf("signed %s", raw)
			}
		})
	}
}

func TestSignModelByOwnAuthority(t *testing.T) {
	a := ownAuthority(t)
	private, public := key(t)
	raw, err := os.ReadFile(public)
	check(t, err)
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(raw)
	check(t, err)
	cert, err := ca.GenerateLeafCert("team@example.com", "", time.Now().Add(-time.Minute), publicOnly{pub}, a.intermediate, a.key)
	check(t, err)
	o := ModelOptions{Signer: signer(private)}
	o.Certificate, o.CertificateChain = writeCertificates(t, cert), a.chain
	bundle, err := SignModel(t.Context(), "m", digests("a"), o)
	check(t, err)
	if !strings.Contains(string(bundle), "x509CertificateChain") {
		t.Errorf("the CLI wants a chain: %s", bundle)
	}
	// the bundle brings the intermediate along
	v := Verifier{CARoots: writeCertificates(t, a.root)}
	m, err := VerifyModel(t.Context(), bundle, v)
	check(t, err)
	if m.Signature.Identity != "team@example.com" {
		t.Errorf("signed by %+v", m.Signature)
	}
	v.InsecureIgnoreSCT, v.InsecureIgnoreTlog = true, true
	v.Identities = []Identity{{Subject: "team@example.com", IssuerRegExp: ".*"}}
	_, err = VerifyModel(t.Context(), bundle, v)
	check(t, err)
	v.Identities[0].Subject = "other@example.com"
	_, err = VerifyModel(t.Context(), bundle, v)
	refused(t, err, IdentityMismatch)

	root, rootKey, err := ca.GenerateRootCa()
	check(t, err)
	old, err := ca.GenerateLeafCert("team@example.com", "", time.Now().Add(-time.Hour), publicOnly{pub}, root, rootKey)
	check(t, err)
	o.Certificate, o.CertificateChain = writeCertificates(t, old), ""
	bundle, err = SignModel(t.Context(), "m", digests("a"), o)
	check(t, err)
	_, err = VerifyModel(t.Context(), bundle, Verifier{CARoots: writeCertificates(t, root)})
	refused(t, err, Expired)
}

func TestSignModelKeyless(t *testing.T) {
	ss := newSigstore(t)
	raw, err := SignModel(t.Context(), "m", digests("a"), ModelOptions{Signer: ss.signer("me@example.com")})
	check(t, err)
	m, err := VerifyModel(t.Context(), raw, ss.verifier("me@example.com"))
	check(t, err)
	if m.Signature.Identity != "me@example.com" || m.Signature.LogIndex != 7 {
		t.Errorf("signed by %+v", m.Signature)
	}
	_, err = VerifyModel(t.Context(), raw, ss.verifier("you@example.com"))
	refused(t, err, IdentityMismatch)
}

func TestCompareNamesFiles(t *testing.T) {
	m := &Model{Name: "m", Files: digests("a", "b", "c"), Ignored: []string{".git", "logs"}}
	files := digests("a", "c", "d", "e/f", "logs/1", "logs.txt", ".git")
	files[0].SHA256[0] ^= 1
	err := m.Compare(files)
	refused(t, err, ContentMismatch)
	var d *ModelDifference
	if !errors.As(err, &d) || !reflect.DeepEqual(*d, ModelDifference{[]string{"a"}, []string{"b"}, []string{"d", "e/f", "logs.txt"}}) {
		t.Fatalf("differ in %+v", d)
	}
	if got, want := d.Error(), `1 changed: ["a"]; 1 missing: ["b"]; 3 not signed: ["d" "e/f" "logs.txt"]`; got != want {
		t.Errorf("says %s", got)
	}
	// a path that names everything names nothing
	m.Ignored = []string{".", "..", "/", ""}
	if err := m.Compare(digests("a", "b", "c", "d")); err == nil {
		t.Error("an extra file is let through")
	}
	m.Files = digests(".")
	if err := m.Compare(digests("a", "b")); err == nil {
		t.Error("two files are taken for one")
	}
}

func TestParseModelRefuses(t *testing.T) {
	const sum = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
	good := func() map[string]any {
		return map[string]any{
			"_type": statementV1, "predicateType": modelPredicateType,
			"subject": []any{map[string]any{"name": "m", "digest": map[string]any{"sha256": "bf5d3affb73efd2ec6c36ad3112dd933efed63c4e1cbffcfa88e2759c144f2d8"}}},
			"predicate": map[string]any{
				"serialization": map[string]any{"method": "files", "hash_type": "sha256", "allow_symlinks": false},
				"resources":     []any{map[string]any{"name": "a", "algorithm": "sha256", "digest": sum}},
			},
		}
	}
	raw, err := json.Marshal(good())
	check(t, err)
	_, err = parseModel(raw)
	check(t, err)
	at := func(v map[string]any, path ...any) map[string]any {
		var x any = v
		for _, p := range path {
			switch p := p.(type) {
			case string:
				x = x.(map[string]any)[p]
			case int:
				x = x.([]any)[p]
			}
		}
		return x.(map[string]any)
	}
	for name, break_ := range map[string]func(v map[string]any){
		"type":       func(v map[string]any) { v["_type"] = "x" },
		"predicate":  func(v map[string]any) { v["predicateType"] = "https://model_signing/Digests/v0.1" },
		"shards":     func(v map[string]any) { at(v, "predicate", "serialization")["method"] = "shards" },
		"hash":       func(v map[string]any) { at(v, "predicate", "serialization")["hash_type"] = "blake3" },
		"file hash":  func(v map[string]any) { at(v, "predicate", "resources", 0)["algorithm"] = "blake2b" },
		"root":       func(v map[string]any) { at(v, "subject", 0, "digest")["sha256"] = sum },
		"no subject": func(v map[string]any) { v["subject"] = []any{} },
		"no files":   func(v map[string]any) { at(v, "predicate")["resources"] = []any{} },
		"path":       func(v map[string]any) { at(v, "predicate", "resources", 0)["name"] = "../a" },
		"digest":     func(v map[string]any) { at(v, "predicate", "resources", 0)["digest"] = "00" },
		"twice": func(v map[string]any) {
			r := at(v, "predicate")["resources"].([]any)
			at(v, "predicate")["resources"] = append(r, r[0])
			at(v, "subject", 0, "digest")["sha256"] = "2d6db2d7882fa8b7d56e74b8e24036deb475de8c94004077a9fb1a7ab1f5e6c0"
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := good()
			break_(v)
			raw, err := json.Marshal(v)
			check(t, err)
			if m, err := parseModel(raw); err == nil {
				t.Errorf("read %+v", m)
			}
		})
	}
}

func TestAttachModel(t *testing.T) {
	private, public := key(t)
	for name, open := range targets {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			target := open(t)
			s, other := store(t, target, "x"), store(t, target, "y")
			bundle, err := SignModel(ctx, "m", digests("a", "b"), ModelOptions{Signer: signer(private)})
			check(t, err)
			if got, err := ModelBundles(ctx, s); err != nil || len(got) != 0 {
				t.Fatalf("%d bundles before, %v", len(got), err)
			}
			_, err = Sign(ctx, s, SignOptions{Signer: signer(private)})
			check(t, err)
			_, err = AttachModel(ctx, s, bundle)
			check(t, err)
			got, err := ModelBundles(ctx, s)
			check(t, err)
			if len(got) != 1 || string(got[0]) != string(bundle) {
				t.Fatalf("%d bundles", len(got))
			}
			m, err := VerifyModel(ctx, got[0], offline(public))
			check(t, err)
			check(t, m.Compare(digests("a", "b")))
			if got, err := ModelBundles(ctx, other); err != nil || len(got) != 0 {
				t.Errorf("the other has %d, %v", len(got), err)
			}

			// it is neither a signature nor an attestation of the subject
			signatures, err := Verify(ctx, s, VerifyOptions{Verifier: offline(public)})
			check(t, err)
			attestations, err := Attestations(ctx, s)
			check(t, err)
			if len(signatures) != 1 || len(attestations) != 0 {
				t.Errorf("%d signatures, %d attestations", len(signatures), len(attestations))
			}
			_, err = AttachModel(ctx, s, []byte("{}"))
			if err == nil {
				t.Error("anything can be attached")
			}
		})
	}
}

// cosign looks for bundles first, and if it finds one reads no legacy signature.
func TestModelReferrerIsNoSigstoreBundle(t *testing.T) {
	private, public := key(t)
	ctx := t.Context()
	s := store(t, targets["registry"](t), "x")
	bundle, err := SignModel(ctx, "m", digests("a"), ModelOptions{Signer: signer(private)})
	check(t, err)
	_, err = AttachModel(ctx, s, bundle)
	check(t, err)
	r := s.Target.(*remote.Repository).Reference
	ref, err := name.NewDigest(r.Registry + "/" + r.Repository + "@" + s.Descriptor.Digest.String())
	check(t, err)
	find := func() int {
		found, _, err := cosign.GetBundles(ctx, ref, &cosign.CheckOpts{})
		if err != nil && len(found) > 0 {
			t.Error(err)
		}
		return len(found)
	}
	if n := find(); n != 0 {
		t.Errorf("cosign finds %d bundles", n)
	}
	_, err = Verify(ctx, s, VerifyOptions{Verifier: offline(public)})
	refused(t, err, NoSignature)
	_, err = Sign(ctx, s, SignOptions{Signer: signer(private), Format: Bundle})
	check(t, err)
	if n := find(); n != 1 {
		t.Errorf("cosign finds %d bundles, want the signature", n)
	}
}

func FuzzModelBundle(f *testing.F) {
	for _, name := range []string{"key.bundle.json", "key-1.0.1.bundle.json", "file-1.0.0.bundle.json", "certificate.bundle.json", "wrong-predicate.bundle.json", "missing-envelope.bundle.json", "missing-verification-material.bundle.json"} {
		f.Add(readVector(f, name))
	}
	key, ca := offline("testdata/model/key.pub"), Verifier{CARoots: "testdata/model/ca.pem"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, v := range []Verifier{key, ca} {
			if _, err := VerifyModel(t.Context(), raw, v); err != nil && !errors.Is(err, ErrNotVerified) {
				t.Errorf("no verdict: %v", err)
			}
		}
		b, _, err := parseModelBundle(raw)
		if err != nil {
			return
		}
		// what is signed is not trusted to be sane
		m, err := parseModel(b.GetDsseEnvelope().GetPayload())
		if err != nil {
			return
		}
		if err := m.Compare(m.Files); err != nil {
			t.Errorf("differs from itself: %v", err)
		}
	})
}
