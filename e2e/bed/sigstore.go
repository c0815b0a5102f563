//go:build linux

package bed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Sigstore is what keyless signing stands on, running: an OpenID provider,
// Fulcio with a certificate transparency log, Rekor v1 and a timestamp
// authority (peers/sigstore). All of it is real; keys are new each start.
type Sigstore struct {
	Issuer    string // URL, as certificates name it
	Fulcio    string // URL
	Rekor     string // URL
	Timestamp string // URL to post RFC 3161 requests to

	dir   string
	procs []*service
}

type service struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan error
}

// StartSigstore starts all of it, with its files below dir. peers is the
// directory of the binaries.
func StartSigstore(dir, peers string) (*Sigstore, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	s := &Sigstore{dir: dir}
	fail := func(err error) (*Sigstore, error) {
		s.Stop()
		return nil, err
	}
	timestamp := "http://" + addr + "/api/v1/timestamp"
	if err := s.start(exec.Command(filepath.Join(peers, "timestamp"), addr), func() bool {
		resp, err := http.Get(timestamp + "/certchain")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}); err != nil {
		return fail(err)
	}
	if err := s.start(exec.Command(filepath.Join(peers, "sigstore"), dir, timestamp), func() bool {
		_, err := os.Stat(s.File("services.json"))
		return err == nil
	}); err != nil {
		return fail(err)
	}
	data, err := os.ReadFile(s.File("services.json"))
	if err == nil {
		err = json.Unmarshal(data, s) // the names differ in case only
	}
	if err != nil {
		return fail(err)
	}
	return s, nil
}

// start starts a service and waits until it is up.
func (s *Sigstore) start(cmd *exec.Cmd, up func() bool) error {
	p := &service{cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	go func() { p.done <- cmd.Wait() }()
	for range 600 {
		if up() {
			return nil
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("%s ended at once: %w\n%s", cmd.Path, err, p.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	_ = cmd.Process.Kill() // its output must be at rest to be shown
	p.done <- <-p.done
	return fmt.Errorf("%s is not up\n%s", cmd.Path, p.log.String())
}

// Stop ends all of it.
func (s *Sigstore) Stop() {
	for _, p := range s.procs {
		_ = p.cmd.Process.Kill() // it may have ended
		p.done <- <-p.done
	}
}

// File is the path of one of the files that peers/sigstore writes:
// trusted_root.json, signing_config.json, fulcio.pem, ctlog.pub, rekor.pub,
// tsa.pem.
func (s *Sigstore) File(name string) string { return filepath.Join(s.dir, name) }

// Env tells cosign (and what does as cosign does) whom to trust.
func (s *Sigstore) Env() []string {
	return []string{
		"SIGSTORE_ROOT_FILE=" + s.File("fulcio.pem"),
		"SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + s.File("ctlog.pub"),
		"SIGSTORE_REKOR_PUBLIC_KEY=" + s.File("rekor.pub"),
	}
}

// Token logs in with an email address and returns the identity token (OpenID
// Connect's implicit flow, form and all).
func (s *Sigstore) Token(email string) (string, error) {
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	leads := func(resp *http.Response, err error) (*url.URL, error) {
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		return resp.Location()
	}
	login, err := leads(client.Get(s.Issuer + "/auth?" + url.Values{
		"client_id": {"sigstore"}, "response_type": {"id_token"}, "scope": {"openid email"},
		"redirect_uri": {"http://localhost/"}, "nonce": {"e2e"}, "state": {"e2e"},
	}.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask for an identity token: %w", err)
	}
	back, err := leads(client.PostForm(s.Issuer+login.Path, url.Values{
		"id": {login.Query().Get("authRequestID")}, "username": {email}, "password": {"e2e"},
	}))
	if err != nil {
		return "", fmt.Errorf("log in as %s: %w", email, err)
	}
	answer, err := leads(client.Get(back.String()))
	if err != nil {
		return "", fmt.Errorf("take the identity token of %s: %w", email, err)
	}
	fragment, err := url.ParseQuery(answer.Fragment)
	if err != nil {
		return "", err
	}
	token := fragment.Get("id_token")
	if token == "" {
		return "", errors.New("no identity token in " + answer.String())
	}
	return token, nil
}
