//go:build linux

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mpack/e2e/bed"
)

const alice = "alice@e2e.test"

// keyless starts sigstore's services; they end with the test.
func keyless(t *testing.T) *bed.Sigstore {
	t.Helper()
	s, err := bed.StartSigstore(t.TempDir(), peersBin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Logf("keyless with real services, none of them virtual: Fulcio %s with a certificate transparency log (TesseraCT), Rekor v1 on Trillian %s, timestamp authority %s, OpenID provider %s (zitadel/oidc)",
		s.Fulcio, s.Rekor, s.Timestamp, s.Issuer)
	return s
}

// signFlags are what mpack and cosign 2 sign with.
func signFlags(t *testing.T, s *bed.Sigstore) []string {
	t.Helper()
	token, err := s.Token(alice)
	check(t, err)
	return []string{"--fulcio-url", s.Fulcio, "--rekor-url", s.Rekor, "--timestamp-server-url", s.Timestamp, "--identity-token", token}
}

// with is a command with further environment variables.
func with(cmd *exec.Cmd, environ ...string) *exec.Cmd {
	cmd.Env = append(cmd.Env, environ...)
	return cmd
}

// The services themselves: what cosign signs with them, cosign takes.
func TestSigstoreServices(t *testing.T) {
	full(t)
	s := keyless(t)
	reg := registry(t, bed.Distribution, bed.RegistryOptions{})
	tree := small(t)
	identity := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Issuer}
	root := []string{"--trusted-root", s.File("trusted_root.json")}

	legacy := reg.Addr + "/e2e/legacy@" + push(t, reg.Addr+"/e2e/legacy:v1", tree).Digest
	ok(t, with(cosign(t, 2, "sign", append(signFlags(t, s), legacy)...), s.Env()...))
	for _, how := range [][]string{
		{"--offline"},
		{"--offline", "--insecure-ignore-tlog", "--use-signed-timestamps", "--timestamp-certificate-chain", s.File("tsa.pem")},
		append([]string{"--offline"}, root...),
	} {
		ok(t, with(cosign(t, 2, "verify", append(append(how, identity...), legacy)...), s.Env()...))
	}
	ok(t, cosign(t, 3, "verify", append(append([]string{"--new-bundle-format=false", legacy}, root...), identity...)...))

	bundle := reg.Addr + "/e2e/bundle@" + push(t, reg.Addr+"/e2e/bundle:v1", tree).Digest
	ok(t, cosign3SignsKeyless(t, s, "sign", bundle))
	for _, version := range []int{2, 3} {
		ok(t, cosign(t, version, "verify", append(append([]string{bundle}, root...), identity...)...))
	}
	r := run(t, cosign(t, 3, "verify", append([]string{"--certificate-identity", "mallory@e2e.test", "--certificate-oidc-issuer", s.Issuer, bundle}, root...)...))
	if r.Code == 0 || !strings.Contains(r.Stderr, alice) {
		t.Errorf("cosign takes another's signature: %+v", r)
	}
}

// cosign3SignsKeyless is a command line that signs or attests as cosign 3 does
// by default, by a signing configuration.
func cosign3SignsKeyless(t *testing.T, s *bed.Sigstore, command, ref string, args ...string) *exec.Cmd {
	t.Helper()
	token, err := s.Token(alice)
	check(t, err)
	return cosign(t, 3, command, append([]string{"--signing-config", s.File("signing_config.json"), "--trusted-root", s.File("trusted_root.json"), "--identity-token", token, ref}, args...)...)
}

// Keyless from the login to the pull: what mpack signs, cosign and
// policy-controller take, and what cosign signs, mpack takes; with the log, or
// with a timestamp in its place; and when the services are gone.
func TestKeyless(t *testing.T) {
	full(t)
	s := keyless(t)
	tree := small(t)
	identity := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Issuer}
	root := []string{"--trusted-root", s.File("trusted_root.json")}
	const kind = "slsaprovenance1"
	type verified struct {
		name, ref string
		layout    string
	}
	var all []verified
	for _, k := range []string{bed.Distribution, bed.Olareg} {
		addr := registry(t, k, bed.RegistryOptions{}).Addr
		for _, w := range []struct {
			name         string
			sign, attest func(ref string) *exec.Cmd
		}{
			{"mpack-legacy", func(ref string) *exec.Cmd {
				return command(t, s.Env(), append([]string{"sign", ref}, signFlags(t, s)...)...)
			}, func(ref string) *exec.Cmd {
				return command(t, s.Env(), append([]string{"attest", "--type", kind, "--predicate", predicate(t), ref}, signFlags(t, s)...)...)
			}},
			{"mpack-bundle", func(ref string) *exec.Cmd {
				return command(t, s.Env(), append([]string{"sign", "--signature-format", "bundle", ref}, signFlags(t, s)...)...)
			}, func(ref string) *exec.Cmd {
				return command(t, s.Env(), append([]string{"attest", "--signature-format", "bundle", "--type", kind, "--predicate", predicate(t), ref}, signFlags(t, s)...)...)
			}},
			{"cosign2-legacy", func(ref string) *exec.Cmd {
				return with(cosign(t, 2, "sign", append(signFlags(t, s), ref)...), s.Env()...)
			}, func(ref string) *exec.Cmd {
				return with(cosign(t, 2, "attest", append(signFlags(t, s), "--type", kind, "--predicate", predicate(t), ref)...), s.Env()...)
			}},
			{"cosign2-bundle", func(ref string) *exec.Cmd {
				return with(cosign(t, 2, "sign", append(append(signFlags(t, s), root...), "--new-bundle-format", ref)...), s.Env()...)
			}, func(ref string) *exec.Cmd {
				return with(cosign(t, 2, "attest", append(append(signFlags(t, s), root...), "--new-bundle-format", "--type", kind, "--predicate", predicate(t), ref)...), s.Env()...)
			}},
			{"cosign3-bundle", func(ref string) *exec.Cmd { return cosign3SignsKeyless(t, s, "sign", ref) },
				func(ref string) *exec.Cmd {
					return cosign3SignsKeyless(t, s, "attest", ref, "--type", kind, "--predicate", predicate(t))
				}},
		} {
			t.Run(k+"/"+w.name, func(t *testing.T) {
				tag := addr + "/e2e/" + w.name + ":v1"
				ref := addr + "/e2e/" + w.name + "@" + push(t, tag, tree).Digest
				ok(t, w.sign(ref))
				ok(t, w.attest(ref))
				for _, what := range [][]string{{"verify"}, {"verify-attestation", "--type", kind}} {
					read := func(more ...string) []string { return append(append(append([]string{}, what...), more...), ref) }
					ok(t, cosign(t, 3, what[0], read(append(root, identity...)...)[1:]...))
					if strings.HasSuffix(w.name, "bundle") {
						ok(t, cosign(t, 2, what[0], read(append(root, identity...)...)[1:]...))
					} else { // its verify-attestation takes no trusted root for these
						ok(t, with(cosign(t, 2, what[0], read(append([]string{"--offline"}, identity...)...)[1:]...), s.Env()...))
					}
					mpack(t, read(append(root, identity...)...)...)
					ok(t, command(t, s.Env(), read(append([]string{"--offline"}, identity...)...)...))
					// a timestamp in place of the log
					ok(t, command(t, s.Env(), read(append([]string{"--insecure-ignore-tlog", "--use-signed-timestamps", "--timestamp-certificate-chain", s.File("tsa.pem")}, identity...)...)...))
					mpack(t, read(append(root, "--certificate-identity-regexp", `^.*@e2e\.test$`, "--certificate-oidc-issuer-regexp", `^http://127\.0\.0\.1:\d+$`)...)...)
					fails(t, 5, []string{alice}, read(append(root, "--certificate-identity", "mallory@e2e.test", "--certificate-oidc-issuer", s.Issuer)...)...)
					fails(t, 5, []string{s.Issuer}, read(append(root, "--certificate-identity", alice, "--certificate-oidc-issuer", "https://accounts.example")...)...)
				}
				all = append(all, verified{k + "/" + w.name, ref, "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"})
			})
		}
		// others' roots are no roots
		t.Run(k+"/another authority", func(t *testing.T) {
			fails(t, 5, nil, append([]string{"verify", "--trusted-root", noRoot(t), addr + "/e2e/mpack-legacy:v1"}, identity...)...)
		})
	}
	if t.Failed() || len(all) == 0 {
		return
	}

	addr, _, _ := strings.Cut(all[0].ref, "/")
	t.Run("policy", func(t *testing.T) {
		unsigned := addr + "/e2e/unsigned:v1"
		push(t, unsigned, tree)
		trust := trustRoot(t, s)
		for who, accepted := range map[string]bool{alice: true, "mallory@e2e.test": false} {
			authority := "  - name: signer\n    keyless:\n      url: " + s.Fulcio + "\n      trustRootRef: e2e\n      identities:\n      - issuer: " + s.Issuer + "\n        subject: " + who +
				"\n    ctlog:\n      url: " + s.Rekor + "\n      trustRootRef: e2e\n"
			attested := "    attestations:\n    - name: wanted\n      predicateType: https://slsa.dev/provenance/v1\n"
			// policy-controller 0.13 reads bundles as attestations of an identity alone (of no key, and not yet as
			// signatures), and not with a TrustRoot of sigstoreKeys: it takes the hexadecimal form of a log's ID for the ID.
			bundled := "    signatureFormat: bundle\n"
			for _, c := range []struct {
				repository, authority string
				tester                bool
			}{{"mpack-legacy", authority, true}, {"mpack-legacy", authority + attested, true}, {"mpack-bundle", authority + bundled, false}, {"mpack-bundle", authority + attested + bundled, false}} {
				policy := policyFile(t, "", addr+"/e2e/**", c.authority)
				for ref, signed := range map[string]bool{addr + "/e2e/" + c.repository + ":v1": true, unsigned: false} {
					want := accepted && signed
					if c.tester {
						if r := run(t, peer(t, "tester", "--log-level", "error", "--policy", policy, "--trustroot", trust, "--image", ref)); (r.Code == 0) != want {
							t.Errorf("policy-tester accepts %s of %s: %t\n%s%s", ref, who, r.Code == 0, c.authority, r.Stdout)
						}
					}
					code := map[bool]int{true: 0, false: 5}[want]
					if r := run(t, command(t, []string{"MPACK_POLICY=" + policy}, append([]string{"pull", ref, "-o", filepath.Join(t.TempDir(), "out")}, root...)...)); r.Code != code {
						t.Errorf("mpack pull of %s where %s must have signed: exit code %d, want %d\n%s%s", ref, who, r.Code, code, c.authority, r.Stderr)
					}
				}
			}
		}
	})

	t.Run("push", func(t *testing.T) {
		ref := addr + "/e2e/pushed:v1"
		token, err := s.Token(alice)
		check(t, err)
		file := filepath.Join(t.TempDir(), "token")
		check(t, os.WriteFile(file, []byte(token), 0o600))
		r := ok(t, command(t, s.Env(), "push", "--sign", "--provenance", "--debug", "--fulcio-url", s.Fulcio, "--rekor-url", s.Rekor, "--timestamp-server-url", s.Timestamp, "--identity-token", file, ref, tree))
		if strings.Contains(r.Stdout+r.Stderr, token) || strings.Contains(r.Stdout+r.Stderr, token[strings.LastIndex(token, ".")+1:]) {
			t.Error("the identity token is in the debug log")
		}
		mpack(t, append(append([]string{"verify-attestation", "--type", kind, ref}, root...), identity...)...)
		out := filepath.Join(t.TempDir(), "out")
		mpack(t, append(append([]string{"pull", "--verify", ref, "-o", out}, root...), identity...)...)
		same(t, tree, out)
		// the token from the environment, for a signature that no log knows
		unlogged := addr + "/e2e/unlogged:v1"
		push(t, unlogged, tree)
		ok(t, command(t, append(s.Env(), "SIGSTORE_ID_TOKEN="+token), "sign", "--fulcio-url", s.Fulcio, "--tlog-upload=false", "--timestamp-server-url", s.Timestamp, unlogged))
		fails(t, 5, []string{"log"}, append(append([]string{"verify", unlogged}, root...), identity...)...)
		mpack(t, append(append([]string{"verify", "--insecure-ignore-tlog", "--use-signed-timestamps", unlogged}, root...), identity...)...)
		ok(t, cosign(t, 2, "verify", append(append([]string{"--insecure-ignore-tlog", "--use-signed-timestamps", "--offline", unlogged}, root...), identity...)...))
	})

	for _, v := range all {
		mpack(t, "copy", v.ref, v.layout)
	}
	s.Stop()
	for _, v := range all {
		t.Run("offline/"+v.name, func(t *testing.T) {
			for _, ref := range []string{v.ref, v.layout} {
				mpack(t, append(append([]string{"verify", "--offline", ref}, root...), identity...)...)
				mpack(t, append(append([]string{"verify-attestation", "--offline", "--type", kind, ref}, root...), identity...)...)
			}
		})
	}
}

// trustRoot writes policy-controller's TrustRoot of the services.
func trustRoot(t *testing.T, s *bed.Sigstore) string {
	t.Helper()
	encoded := func(name string) string {
		data, err := os.ReadFile(s.File(name))
		check(t, err)
		return base64.StdEncoding.EncodeToString(data)
	}
	name := filepath.Join(t.TempDir(), "trustroot.yaml")
	check(t, os.WriteFile(name, []byte("apiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\nmetadata:\n  name: e2e\nspec:\n  sigstoreKeys:\n"+
		"    certificateAuthorities:\n    - subject: {organization: sigstore, commonName: e2e}\n      uri: "+s.Fulcio+"\n      certChain: "+encoded("fulcio.pem")+"\n"+
		"    tLogs:\n    - baseURL: "+s.Rekor+"\n      hashAlgorithm: sha-256\n      publicKey: "+encoded("rekor.pub")+"\n"+
		"    ctLogs:\n    - baseURL: http://ctlog.e2e\n      hashAlgorithm: sha-256\n      publicKey: "+encoded("ctlog.pub")+"\n"+
		"    timestampAuthorities:\n    - subject: {organization: local, commonName: e2e}\n      uri: "+s.Timestamp+"\n      certChain: "+encoded("tsa.pem")+"\n"), 0o644))
	return name
}

// A certificate of an authority of one's own goes with the signature.
func TestCertificatesOfAnAuthorityOfOnesOwn(t *testing.T) {
	private, public := keyPair(t)
	text, err := os.ReadFile(public)
	check(t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	check(t, err)
	now := time.Now()
	chain, leaf := certify(t, key, now.Add(time.Hour))
	anotherChain, _ := certify(t, key, now.Add(time.Hour))
	expiredChain, expired := certify(t, key, now.Add(-time.Minute))

	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	sign := func(ref, leaf, chain string) {
		t.Helper()
		push(t, ref, small(t))
		ok(t, withPassword(t, "sign", "--key", private, "--certificate", leaf, "--certificate-chain", chain, "--tlog-upload=false", ref))
	}
	verify := func(ref, chain string) []string {
		return []string{"verify", "--certificate-chain", chain, "--certificate-identity", alice, "--certificate-oidc-issuer", "https://ca.e2e.test", "--insecure-ignore-sct", "--insecure-ignore-tlog", ref}
	}
	good, old := addr+"/e2e/good:v1", addr+"/e2e/old:v1"
	sign(good, leaf, chain)
	sign(old, expired, expiredChain)
	mpack(t, verify(good, chain)...)
	fails(t, 5, nil, verify(good, anotherChain)...)
	fails(t, 5, []string{"valid"}, verify(old, expiredChain)...)
	if bed.Full() {
		ok(t, cosign(t, 2, "verify", verify(good, chain)[1:]...))
		if r := run(t, cosign(t, 2, "verify", verify(old, expiredChain)[1:]...)); r.Code == 0 {
			t.Error("cosign takes an expired certificate")
		}
	}
}

// certify makes an authority and has it certify a key for alice until then. It
// returns PEM files: the authority's chain, the certificate.
func certify(t *testing.T, key crypto.PublicKey, until time.Time) (chain, leaf string) {
	t.Helper()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	began := until.Add(-2 * time.Hour)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e authority"}, NotBefore: began, NotAfter: until.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	const issuerURL = "https://ca.e2e.test"
	issuer, err := asn1.Marshal(issuerURL)
	check(t, err)
	child := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: began, NotAfter: until, EmailAddresses: []string{alice},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		// Fulcio's OIDC issuer in its old form and its new one, which verifiers ask for
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuerURL)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: issuer},
		},
	}
	file := func(name string, child *x509.Certificate, key crypto.PublicKey) string {
		der, err := x509.CreateCertificate(rand.Reader, child, root, key, ca)
		check(t, err)
		path := filepath.Join(t.TempDir(), name)
		check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
		return path
	}
	return file("root.pem", root, ca.Public()), file("leaf.pem", child, key)
}
