package signing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"oras.land/oras-go/v2/content/memory"
)

func TestKeyFromEnvironment(t *testing.T) {
	private, public := key(t)
	for name, file := range map[string]string{"SIGNING_TEST_PRIVATE": private, "SIGNING_TEST_PUBLIC": public} {
		raw, err := os.ReadFile(file)
		check(t, err)
		t.Setenv(name, string(raw))
	}
	s := store(t, memory.New(), "x")
	_, err := Sign(t.Context(), s, SignOptions{Signer: signer("env://SIGNING_TEST_PRIVATE")})
	check(t, err)
	_, err = Verify(t.Context(), s, VerifyOptions{Verifier: offline("env://SIGNING_TEST_PUBLIC")})
	check(t, err)
	for _, ref := range []string{"env://SIGNING_TEST_UNSET", "https://example.com/cosign.pub", "nokms://key"} {
		if _, err := Verify(t.Context(), s, VerifyOptions{Verifier: offline(ref)}); err == nil || errors.Is(err, ErrNotVerified) {
			t.Errorf("%s: got %v, want a usage error", ref, err)
		}
	}
}

func TestKeyInKubernetes(t *testing.T) {
	private, public := key(t)
	var data = map[string][]byte{"cosign.password": []byte("pass")}
	for name, file := range map[string]string{"cosign.key": private, "cosign.pub": public} {
		raw, err := os.ReadFile(file)
		check(t, err)
		data[name] = raw
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path != "/api/v1/namespaces/team/secrets/cosign" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"kind": "Secret", "data": data})
	}))
	defer srv.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	check(t, os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "token"), []byte("t0ken\n"), 0o600))
	address := strings.TrimPrefix(srv.URL, "https://")

	raw, err := secretInPod(t.Context(), address, dir, "team", "cosign")
	check(t, err)
	got, err := parseSecret(raw)
	check(t, err)
	if string(got["cosign.pub"]) != string(data["cosign.pub"]) || string(got["cosign.password"]) != "pass" {
		t.Error("not what the secret holds")
	}
	if _, err := secretInPod(t.Context(), address, dir, "team", "other"); err == nil {
		t.Error("a secret that is not there is read")
	}
	check(t, os.WriteFile(filepath.Join(dir, "token"), []byte("wrong"), 0o600))
	if _, err := secretInPod(t.Context(), address, dir, "team", "cosign"); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
	for _, raw := range []string{"", "{}", `{"data":{"cosign.pub":""}}`, `{"data":{"cosign.pub":"-"}}`} {
		if _, err := parseSecret([]byte(raw)); err == nil {
			t.Errorf("%s is taken", raw)
		}
	}
	for _, ref := range []string{"k8s://", "k8s://team", "k8s://team/../x", "k8s://Team/x", "k8s://-n/x", "k8s://a/b/c"} {
		if _, err := kubernetesSecret(t.Context(), ref); err == nil {
			t.Errorf("%s is taken", ref)
		}
	}
}

// A key that never leaves a service: Vault's transit engine, as far as it is
// asked (developer.hashicorp.com/vault/api-docs/secret/transit). The other
// services are reached through the same interface.
func TestKeyInVault(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	check(t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "t0ken" {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
			return
		}
		var in struct {
			Input     []byte
			Signature string
		}
		_ = json.NewDecoder(r.Body).Decode(&in) // a request for the key has no body
		data := map[string]any{}
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/transit/keys/release"):
			data["latest_version"], data["keys"] = 1, map[string]any{"1": map[string]any{"name": "P-256", "public_key": string(public)}}
		case strings.HasPrefix(r.URL.Path, "/v1/transit/sign/release"):
			sig, err := ecdsa.SignASN1(rand.Reader, private, in.Input)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			data["signature"] = "vault:v1:" + base64.StdEncoding.EncodeToString(sig)
		case strings.HasPrefix(r.URL.Path, "/v1/transit/verify/release"):
			sig, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Signature, "vault:v1:"))
			data["valid"] = err == nil && ecdsa.VerifyASN1(&private.PublicKey, in.Input, sig)
		default:
			http.Error(w, `{"errors":[]}`, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data}) // a client that is gone needs no answer
	}))
	defer srv.Close()
	t.Setenv("VAULT_ADDR", srv.URL)
	t.Setenv("VAULT_TOKEN", "t0ken")
	file := filepath.Join(t.TempDir(), "release.pub")
	check(t, os.WriteFile(file, public, 0o644))
	_, another := key(t)
	for _, format := range []Format{Legacy, Bundle} {
		s := store(t, memory.New(), "x")
		_, err = Sign(t.Context(), s, SignOptions{Signer: Signer{Key: "hashivault://release"}, Format: format})
		check(t, err)
		for _, ref := range []string{file, "hashivault://release"} {
			if _, err := Verify(t.Context(), s, VerifyOptions{Verifier: offline(ref)}); err != nil {
				t.Errorf("%s, %s format: %v", ref, format, err)
			}
		}
		_, err = Verify(t.Context(), s, VerifyOptions{Verifier: offline(another)})
		refused(t, err, WrongKey)
	}
	t.Setenv("VAULT_TOKEN", "wrong-token")
	if _, err := Sign(t.Context(), store(t, memory.New(), "y"), SignOptions{Signer: Signer{Key: "hashivault://release"}}); err == nil || strings.Contains(err.Error(), "wrong-token") {
		t.Errorf("got %v", err)
	}
}
