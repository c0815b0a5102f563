//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// signsAndVerifies signs with a key that does not lie in a file, and verifies
// with it and with its public key.
func signsAndVerifies(t *testing.T, binary string, environ []string, key, public string) {
	t.Helper()
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	push(t, ref, small(t))
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(binary, args...)
		cmd.Env = env(t, environ...)
		ok(t, cmd)
	}
	run("sign", "--tlog-upload=false", "--key", key, ref)
	run("verify", "--insecure-ignore-tlog", "--key", key, ref)
	run("verify", "--insecure-ignore-tlog", "--key", public, ref)
	_, other := keyPair(t)
	fails(t, 5, []string{"not signed with this key"}, "verify", "--insecure-ignore-tlog", "--key", other, ref)
}

func writePublic(t *testing.T, der []byte) string {
	name := filepath.Join(t.TempDir(), "k.pub")
	check(t, os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644))
	return name
}

// TestKeyOfAKeyManagementService signs through sigstore's provider for Vault.
// The service is the test's: what Vault's transit engine answers, no more.
func TestKeyOfAKeyManagementService(t *testing.T) {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "let-me-in" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		answer := func(data any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
		switch path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/release"); path {
		case "keys":
			text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
			answer(map[string]any{"type": "ecdsa-p256", "latest_version": 1, "keys": map[string]any{"1": map[string]string{"public_key": string(text)}}})
		case "sign":
			var in struct{ Input []byte }
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			sig, err := ecdsa.SignASN1(rand.Reader, key, in.Input)
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			answer(map[string]string{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(sig)})
		case "verify":
			var in struct {
				Input     []byte
				Signature string
			}
			err := json.NewDecoder(r.Body).Decode(&in)
			sig, err2 := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Signature, "vault:v1:"))
			answer(map[string]bool{"valid": err == nil && err2 == nil && ecdsa.VerifyASN1(&key.PublicKey, in.Input, sig)})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer vault.Close()
	environ := []string{"VAULT_ADDR=" + vault.URL, "VAULT_TOKEN=let-me-in"}
	signsAndVerifies(t, mpackBin, environ, "hashivault://release", writePublic(t, der))
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":v1"
	push(t, ref, small(t))
	environ[1] = "VAULT_TOKEN=a-wrong-token"
	r := failing(t, 1, []string{"hashivault://release"}, command(t, environ, "sign", "--tlog-upload=false", "--key", "hashivault://release", ref))
	if strings.Contains(r.Stderr, "a-wrong-token") {
		t.Errorf("the message holds the token: %s", r.Stderr)
	}
}

// TestKeyOfAToken signs with SoftHSM by a binary with cosign's build tag.
func TestKeyOfAToken(t *testing.T) {
	full(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "mpack")
	build := exec.Command("go", "build", "-tags", "pkcs11key", "-o", binary, "./cmd/mpack")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	ok(t, build)
	check(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	conf := filepath.Join(dir, "softhsm2.conf")
	check(t, os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\n"), 0o600))
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	tool := func(name string, args ...string) {
		t.Helper()
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("%v; .ci/run tools installs it", err)
		}
		cmd := exec.Command(path, args...)
		cmd.Env = env(t, "SOFTHSM2_CONF="+conf)
		ok(t, cmd)
	}
	tool("softhsm2-util", "--init-token", "--free", "--label", "mpack", "--pin", "1234", "--so-pin", "4321")
	session := []string{"--module", module, "--login", "--pin", "1234", "--token-label", "mpack"}
	tool("pkcs11-tool", append(session, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "release")...)
	der := filepath.Join(dir, "public.der")
	tool("pkcs11-tool", append(session, "--read-object", "--type", "pubkey", "--id", "01", "--output-file", der)...)
	key := fmt.Sprintf("pkcs11:token=mpack;id=%%01;object=release?module-path=%s&pin-value=1234", module)
	signsAndVerifies(t, binary, []string{"SOFTHSM2_CONF=" + conf}, key, writePublic(t, must[[]byte](t)(os.ReadFile(der))))
}
