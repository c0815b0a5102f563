// Command sigstore runs what keyless signing needs, all of it real, none of it
// beyond this machine: an OpenID provider (zitadel/oidc), Fulcio, a
// certificate transparency log (TesseraCT), Rekor v1 on Trillian and a
// timestamp authority. It exists because the projects' own commands open
// metrics on every interface and need a database each; the services
// themselves are the projects' packages, at the versions in go.mod.
//
//	timestamp 127.0.0.1:PORT &
//	sigstore DIR http://127.0.0.1:PORT/api/v1/timestamp
//
// (Rekor and the timestamp authority cannot be in one program: both define
// the same global flags.) New keys each start. Writes to DIR, services.json last, when all answer:
//
//	trusted_root.json, signing_config.json    what verifiers and cosign 3 sign with
//	fulcio.pem, ctlog.pub, rekor.pub, tsa.pem the same for SIGSTORE_* variables
//	services.json                             the addresses
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/viper"
)

// services are the addresses, as services.json has them.
type services struct {
	Issuer    string `json:"issuer"`
	Fulcio    string `json:"fulcio"`
	Rekor     string `json:"rekor"`
	Timestamp string `json:"timestamp"` // the URL to post requests to
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sigstore DIR TIMESTAMP-URL")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sigstore:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, timestamp string) error {
	s := services{Timestamp: timestamp}
	var t trust
	var listener net.Listener
	var err error

	if listener, s.Issuer, err = listen(); err != nil {
		return err
	}
	serve(listener, newIssuer(s.Issuer))

	if t.ca, err = newCA(ctx); err != nil {
		return err
	}
	if err := write(dir, "fulcio.pem", t.ca.chain); err != nil {
		return err
	}
	if listener, t.ctLogURL, err = listen(); err != nil {
		return err
	}
	ctLog, err := newCTLog(ctx, dir, &t)
	if err != nil {
		return err
	}
	serve(listener, ctLog)
	if listener, s.Fulcio, err = listen(); err != nil {
		return err
	}
	fulcio, err := t.ca.handler(ctx, s.Issuer, t.ctLogURL)
	if err != nil {
		return err
	}
	serve(listener, fulcio)

	trillian, err := startTrillian(ctx)
	if err != nil {
		return err
	}
	viper.Set("trillian_log_server.address", trillian.IP.String())
	viper.Set("trillian_log_server.port", trillian.Port)
	if listener, s.Rekor, err = listen(); err != nil {
		return err
	}
	serve(listener, newRekor())

	if t.rekorKey, err = get(s.Rekor + "/api/v1/log/publicKey"); err != nil {
		return err
	}
	if t.tsaChain, err = get(s.Timestamp + "/certchain"); err != nil {
		return err
	}
	files, err := t.files(s)
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := write(dir, name, data); err != nil {
			return err
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := write(dir, "services.json.part", data); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "services.json.part"), filepath.Join(dir, "services.json")); err != nil {
		return err
	}
	select {} // until killed
}

func listen() (net.Listener, string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	return l, "http://" + l.Addr().String(), nil
}

func serve(l net.Listener, h http.Handler) {
	go func() {
		err := (&http.Server{Handler: h, ReadHeaderTimeout: time.Minute}).Serve(l)
		fmt.Fprintln(os.Stderr, "sigstore:", err)
		os.Exit(1)
	}()
}

func write(dir, name string, data []byte) error {
	return os.WriteFile(filepath.Join(dir, name), data, 0o644)
}

// get fetches what a service of ours answers once it is up.
func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status + ": " + string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	return data, nil
}
