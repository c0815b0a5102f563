//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mpack/e2e/bed"
)

// keyless starts sigstore's services; they end with the test.
func keyless(t *testing.T) *bed.Sigstore {
	t.Helper()
	s, err := bed.StartSigstore(t.TempDir(), peersBin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Logf("keyless against real services, no virtual ones: Fulcio %s, Rekor v1 on Trillian %s, timestamp authority %s, issuer %s (zitadel/oidc)", s.Fulcio, s.Rekor, s.Timestamp, s.Issuer)
	return s
}

// The services themselves: what cosign signs with them, cosign takes.
func TestSigstoreServices(t *testing.T) {
	full(t)
	s := keyless(t)
	reg := registry(t, bed.Distribution, bed.RegistryOptions{})
	token, err := s.Token("alice@e2e.test")
	check(t, err)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("content\n"), 0o644))
	identity := []string{"--allow-http-registry", "--certificate-identity", "alice@e2e.test", "--certificate-oidc-issuer", s.Issuer}
	cosign := func(environ []string, name string, args ...string) *exec.Cmd {
		cmd := peer(t, name, args...)
		cmd.Env = append(cmd.Env, environ...)
		return cmd
	}

	legacy := reg.Addr + "/e2e/legacy:v1"
	ref := reg.Addr + "/e2e/legacy@" + push(t, legacy, dir).Digest
	ok(t, cosign(s.Env(), "cosign", "sign", "--yes", "--allow-http-registry", "--fulcio-url", s.Fulcio, "--rekor-url", s.Rekor,
		"--timestamp-server-url", s.Timestamp, "--identity-token", token, ref))
	for _, how := range [][]string{
		{"--offline"},
		{"--offline", "--insecure-ignore-tlog", "--use-signed-timestamps", "--timestamp-certificate-chain", s.File("tsa.pem")},
		{"--offline", "--trusted-root", s.File("trusted_root.json")},
	} {
		ok(t, cosign(s.Env(), "cosign", append(append([]string{"verify"}, append(identity, how...)...), ref)...))
	}
	ok(t, cosign(nil, "cosign3", append(append([]string{"verify"}, identity...), "--new-bundle-format=false", "--trusted-root", s.File("trusted_root.json"), ref)...))

	bundle := reg.Addr + "/e2e/bundle:v1"
	ref = reg.Addr + "/e2e/bundle@" + push(t, bundle, dir).Digest
	ok(t, cosign(nil, "cosign3", "sign", "--yes", "--allow-http-registry", "--signing-config", s.File("signing_config.json"),
		"--trusted-root", s.File("trusted_root.json"), "--identity-token", token, ref))
	for _, name := range []string{"cosign", "cosign3"} {
		ok(t, cosign(nil, name, append(append([]string{"verify"}, identity...), "--new-bundle-format", "--trusted-root", s.File("trusted_root.json"), ref)...))
	}
	r := run(t, cosign(nil, "cosign3", "verify", "--allow-http-registry", "--certificate-identity", "mallory@e2e.test", "--certificate-oidc-issuer", s.Issuer,
		"--trusted-root", s.File("trusted_root.json"), ref))
	if r.Code == 0 || !strings.Contains(r.Stderr, "alice@e2e.test") {
		t.Errorf("cosign takes another's signature: %+v", r)
	}
}
