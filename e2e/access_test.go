//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mpack/e2e/bed"
)

// small makes a tree that is quick to push.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("a"), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "b.txt"), []byte(strings.Repeat("b", 100_000)), 0o644))
	return dir
}

// private are registries that want bed.User and bed.Password, by how they ask.
func private(t *testing.T) map[string]string {
	t.Helper()
	basic := wired(t, bed.Mpack)
	basic.Refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == bed.User && password == bed.Password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="e2e"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	token := wired(t, bed.Mpack)
	token.Refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			_ = r.ParseForm() // of a token request by POST
			user, password, _ := r.BasicAuth()
			if r.Form.Get("grant_type") == "password" {
				user, password = r.Form.Get("username"), r.Form.Get("password")
			}
			if user != bed.User || password != bed.Password {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			fmt.Fprint(w, `{"token":"let-me-in","access_token":"let-me-in","expires_in":300}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer let-me-in" {
			return false
		}
		scope := ""
		if parts := strings.Split(r.URL.Path, "/"); len(parts) > 4 {
			scope = fmt.Sprintf(`,scope="repository:%s/%s:pull,push"`, parts[2], parts[3])
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="e2e"%s`, r.Host, scope))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	at := map[string]string{"basic": basic.Addr, "token": token.Addr}
	if bed.Full() {
		at["distribution"] = registry(t, bed.Distribution, bed.RegistryOptions{Auth: true}).Addr
		at["debian"] = registry(t, bed.Debian, bed.RegistryOptions{Auth: true}).Addr
	}
	return at
}

func TestPasswords(t *testing.T) {
	tree := small(t)
	for name, addr := range private(t) {
		t.Run(name, func(t *testing.T) {
			ref := addr + "/team/m:v1"
			docker := "DOCKER_CONFIG=" + t.TempDir()
			with := func(stdin string, args ...string) bed.Result {
				t.Helper()
				cmd := command(t, []string{docker}, args...)
				cmd.Stdin = strings.NewReader(stdin)
				return run(t, cmd)
			}
			failing(t, 4, []string{"mpack login"}, command(t, []string{docker}, "push", ref, tree))
			failing(t, 4, nil, command(t, []string{docker}, "push", "-u", bed.User, "-p", "wrong", ref, tree))
			failing(t, 4, nil, command(t, []string{docker}, "pull", "-u", bed.User, "-p", "wrong", ref, "-o", t.TempDir()))
			failing(t, 4, nil, command(t, []string{docker}, "login", addr, "-u", bed.User, "-p", "wrong"))
			ok(t, command(t, []string{docker}, "push", "-u", bed.User, "-p", bed.Password, ref, tree))
			ok(t, command(t, []string{docker, "MPACK_USERNAME=" + bed.User, "MPACK_PASSWORD=" + bed.Password}, "inspect", ref))
			if r := with(bed.Password+"\n", "push", "-u", bed.User, "--password-stdin", ref, tree); r.Code != 0 {
				t.Errorf("--password-stdin: %d %s", r.Code, r.Stderr)
			}

			config := filepath.Join(strings.TrimPrefix(docker, "DOCKER_CONFIG="), "config.json")
			check(t, os.WriteFile(config, []byte(`{"auths":{"other.example":{"auth":"Zm9vOmJhcg=="}},"HttpHeaders":{"X-Meta":"kept"}}`), 0o600))
			if r := with(bed.Password, "login", addr, "-u", bed.User, "--password-stdin"); r.Code != 0 {
				t.Fatalf("login: %d %s", r.Code, r.Stderr)
			}
			kept := string(must[[]byte](t)(os.ReadFile(config)))
			for _, w := range []string{addr, "other.example", "X-Meta"} {
				if !strings.Contains(kept, w) {
					t.Errorf("Docker's config has lost %s: %s", w, kept)
				}
			}
			if fi, err := os.Stat(config); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("Docker's config: %v, %v; want mode 600", fi.Mode(), err)
			}
			ok(t, command(t, []string{docker}, "push", ref, tree))
			out := filepath.Join(t.TempDir(), "out")
			ok(t, command(t, []string{docker}, "pull", ref, "-o", out))
			same(t, tree, out)
			if bed.Full() {
				cmd := peer(t, "oras", "manifest", "fetch", "--plain-http", ref)
				cmd.Env = append(cmd.Env, docker)
				ok(t, cmd) // what mpack login keeps, others find
			}
			ok(t, command(t, []string{docker}, "logout", addr))
			failing(t, 4, nil, command(t, []string{docker}, "pull", ref, "-o", out))
			if kept := string(must[[]byte](t)(os.ReadFile(config))); !strings.Contains(kept, "other.example") || strings.Contains(kept, addr) {
				t.Errorf("after logout: %s", kept)
			}
		})
	}
}

// helper is a credential helper, as Docker's config names them: it keeps what
// it is given in a file.
const helper = `#!/bin/sh
case "$1" in
store) cat >"$HELPER_FILE" ;;
get) cat "$HELPER_FILE" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$HELPER_FILE" ;;
esac
`

func TestCredentialHelpers(t *testing.T) {
	tree := small(t)
	addr := private(t)["basic"]
	dir := t.TempDir()
	kept, config := filepath.Join(dir, "kept"), filepath.Join(dir, "config.json")
	check(t, os.WriteFile(filepath.Join(dir, "docker-credential-e2e"), []byte(helper), 0o755))
	check(t, os.WriteFile(config, []byte(`{"credsStore":"e2e"}`), 0o600))
	environ := []string{"DOCKER_CONFIG=" + dir, "HELPER_FILE=" + kept, "PATH=" + dir + ":" + os.Getenv("PATH")}
	ref := addr + "/team/m:v1"
	failing(t, 4, nil, command(t, environ, "push", ref, tree))
	login := command(t, environ, "login", addr, "-u", bed.User, "--password-stdin")
	login.Stdin = strings.NewReader(bed.Password)
	ok(t, login)
	if b := string(must[[]byte](t)(os.ReadFile(kept))); !strings.Contains(b, bed.Password) {
		t.Errorf("the helper was not told: %s", b)
	}
	if b := string(must[[]byte](t)(os.ReadFile(config))); strings.Contains(b, `"auth"`) {
		t.Errorf("the password is in Docker's config too: %s", b)
	}
	ok(t, command(t, environ, "push", ref, tree))
	ok(t, command(t, environ, "logout", addr))
	failing(t, 4, nil, command(t, environ, "inspect", ref))
}

// The registry that an artifact comes from is not told the password of the one
// it goes to.
func TestPasswordsAreForOneRegistry(t *testing.T) {
	tree, to := small(t), private(t)["basic"]
	from := wired(t, bed.Mpack)
	push(t, from.Addr+"/team/m:v1", tree)
	var told atomic.Bool
	from.Refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			told.Store(true)
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="give it to me"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	copied := []string{"copy", "-u", bed.User, "-p", bed.Password, from.Addr + "/team/m:v1", to + "/team/m:v1"}
	fails(t, 4, nil, copied...)
	if told.Load() {
		t.Error("the source was told the password of the destination")
	}
	from.Refuse = nil
	mpack(t, copied...)
}

func TestPasswordsStayOutOfTheDebugLog(t *testing.T) {
	tree := small(t)
	for name, addr := range private(t) {
		r := ok(t, command(t, nil, "push", "--debug", "-u", bed.User, "-p", bed.Password, addr+"/team/m:v1", tree))
		if !strings.Contains(r.Stderr, "/v2/team/m/") {
			t.Errorf("%s: --debug does not show requests: %s", name, r.Stderr)
		}
		for _, secret := range []string{bed.Password, "YWxpY2U6Y29ycmVjdCBob3JzZQ", "let-me-in"} {
			if strings.Contains(r.Stderr, secret) {
				t.Errorf("%s: --debug shows %q", name, secret)
			}
		}
	}
}

// authority makes a certificate authority and a server's configuration for
// 127.0.0.1 and registry.test.
func authority(t *testing.T) (caFile string, conf *tls.Config) {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER := must[[]byte](t)(x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key))
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry.test"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"registry.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key))
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o644))
	return caFile, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestHTTPSWithAnAuthorityOfOnesOwn(t *testing.T) {
	tree := small(t)
	caFile, conf := authority(t)
	w, err := bed.NewWire(registry(t, kind(), bed.RegistryOptions{}).Addr, conf)
	check(t, err)
	defer w.Close()
	ref := w.Addr + "/team/m:v1"
	fails(t, 1, []string{"certificate", "--ca-file"}, "push", ref, tree)
	push(t, "--ca-file", caFile, ref, tree)
	push(t, "--insecure", ref, tree)
	ok(t, command(t, []string{"MPACK_CA_FILE=" + caFile}, "inspect", ref))
	out := filepath.Join(t.TempDir(), "out")
	pull(t, "--ca-file", caFile, ref, "-o", out)
	same(t, tree, out)
	fails(t, 1, []string{"no-such-file.pem"}, "inspect", "--ca-file", "no-such-file.pem", ref)
	_, port, _ := net.SplitHostPort(w.Addr)
	push(t, "--ca-file", caFile, "localhost:"+port+"/team/n:v1", tree, "--insecure") // the certificate is not localhost's
}

func TestProxies(t *testing.T) {
	tree := small(t)
	caFile, conf := authority(t)
	plain := registry(t, kind(), bed.RegistryOptions{})
	secure, err := bed.NewWire(plain.Addr, conf)
	check(t, err)
	defer secure.Close()
	var passed, tunnels atomic.Int32
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: plain.Addr})
		r.Out.Host = r.In.Host
	}}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			passed.Add(1)
			forward.ServeHTTP(w, r)
			return
		}
		tunnels.Add(1)
		back, err := net.Dial("tcp", secure.Addr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer back.Close()
		front, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer front.Close()
		_, _ = front.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
		go func() { _, _ = io.Copy(back, front); back.Close() }()
		_, _ = io.Copy(front, back)
	}))
	defer proxy.Close()

	environ := []string{"HTTP_PROXY=" + proxy.URL, "HTTPS_PROXY=" + proxy.URL}
	ok(t, command(t, environ, "push", "--plain-http", "registry.test/team/m:v1", tree))
	if passed.Load() == 0 {
		t.Error("HTTP_PROXY was not used")
	}
	out := filepath.Join(t.TempDir(), "out")
	ok(t, command(t, environ, "pull", "--ca-file", caFile, "registry.test/team/m:v1", "-o", out))
	same(t, tree, out)
	if tunnels.Load() == 0 {
		t.Error("HTTPS_PROXY was not used")
	}
	n := passed.Load() + tunnels.Load()
	ok(t, command(t, append(environ, "NO_PROXY=127.0.0.1"), "inspect", plain.Addr+"/team/m:v1"))
	if passed.Load()+tunnels.Load() != n {
		t.Error("NO_PROXY was not heeded")
	}
}
