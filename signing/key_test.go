package signing

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
