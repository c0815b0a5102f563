package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// Options are how registries are reached. The zero value is good.
type Options struct {
	PlainHTTP   bool   // HTTP where the registry is not on this machine
	Insecure    bool   // TLS certificates are not checked
	CAFile      string // PEM certificates to trust beside the system's
	Username    string // overrides what Docker's config says of CredentialHost
	Password    string
	Concurrency int    // transfers at once; 0: 4
	UserAgent   string // "" is "mpack"
	// CredentialHost is the registry that Username and Password are for; no
	// other is told them.
	CredentialHost string
	Debug          func(format string, args ...any)
	// Waits is called before others are waited for that push to a layout, or
	// remove from it.
	Waits func(dir string)
}

// Client reaches registries, layouts and archives. It is safe for concurrent use.
type Client struct {
	opts  Options
	http  *http.Client
	auth  *auth.Client
	creds credentials.Store

	mu    sync.Mutex
	plain map[string]bool // whether a loopback registry speaks plain HTTP
}

// NewClient returns a client. It reads CAFile and Docker's config, and
// connects to nothing.
func NewClient(o Options) (*Client, error) {
	if o.Concurrency <= 0 {
		o.Concurrency = 4
	}
	if o.UserAgent == "" {
		o.UserAgent = "mpack"
	}
	if o.Debug == nil {
		o.Debug = func(string, ...any) {}
	}
	if o.Waits == nil {
		o.Waits = func(string) {}
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxIdleConnsPerHost = o.Concurrency + 4
	tr.ResponseHeaderTimeout = maxThinking
	tr.WriteBufferSize, tr.ReadBufferSize = 256<<10, 256<<10
	tr.DisableCompression = true
	tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure} //nolint:gosec // --insecure says so
	if o.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", o.CAFile)
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	// Docker's own config and helpers, as docker, oras and crane use them.
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true, DetectDefaultNativeStore: true})
	if err != nil {
		return nil, fmt.Errorf("read Docker's config: %w", err)
	}
	rt := &retry.Transport{Base: &logged{steady{tr}, o.Debug}, Policy: func() retry.Policy { return patience }}
	c := &Client{opts: o, http: &http.Client{Transport: rt}, creds: store, plain: map[string]bool{}}
	c.auth = &auth.Client{Client: c.http, Cache: auth.NewCache(), Credential: c.credential}
	c.auth.SetUserAgent(o.UserAgent)
	return c, nil
}

// patience is oras-go's default, but waits for as long as a registry's
// Retry-After says, up to a minute.
var patience = &retry.GenericPolicy{
	Retryable: retry.DefaultPredicate,
	Backoff:   retry.DefaultBackoff,
	MinWait:   200 * time.Millisecond,
	MaxWait:   time.Minute,
	MaxRetry:  5,
}

func (c *Client) credential(ctx context.Context, host string) (auth.Credential, error) {
	// A hostile registry that an artifact is copied from must not be told the password of the one it goes to.
	given := registry.Reference{Registry: c.opts.CredentialHost}
	if (c.opts.Username != "" || c.opts.Password != "") && host == given.Host() {
		return auth.Credential{Username: c.opts.Username, Password: c.opts.Password}, nil
	}
	return credentials.Credential(c.creds)(ctx, host)
}

// HTTP returns the client that talks to registries, with retries but without
// credentials.
func (c *Client) HTTP() *http.Client { return c.http }

// logged tells Debug of every request, without credentials and query values.
type logged struct {
	base  http.RoundTripper
	debug func(format string, args ...any)
}

func (l *logged) RoundTrip(r *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := l.base.RoundTrip(r)
	took := time.Since(start).Round(time.Millisecond)
	where := r.URL.Scheme + "://" + r.URL.Host + r.URL.Path
	if rng := r.Header.Get("Range"); rng != "" {
		where += " " + rng
	}
	if err != nil {
		l.debug("%s %s: %v (%s)", r.Method, where, err, took)
		return nil, err
	}
	l.debug("%s %s: %s (%s)", r.Method, where, resp.Status, took)
	return resp, nil
}

// usePlain decides whether a registry is spoken to without TLS: when told so,
// and on this machine, unless something there speaks only TLS.
func (c *Client) usePlain(ctx context.Context, r Reference) bool {
	if c.opts.PlainHTTP || !r.Loopback() {
		return c.opts.PlainHTTP
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if plain, ok := c.plain[r.Host]; ok {
		return plain
	}
	plain := true
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Host+"/v2/", nil)
	if err == nil {
		resp, err := c.http.Transport.(*retry.Transport).Base.RoundTrip(req)
		if err != nil {
			var op *net.OpError
			plain = errors.As(err, &op) && op.Op == "dial" // nothing listens: say so of HTTP, the default
		} else {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
			resp.Body.Close()
			// What Go's and other servers answer to HTTP on a TLS port.
			plain = resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "HTTPS")
		}
	}
	c.plain[r.Host] = plain
	return plain
}

func (c *Client) remote(ctx context.Context, ref Reference) (*remote.Repository, error) {
	repo, err := remote.NewRepository(ref.Name())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReference, err)
	}
	repo.Client = c.auth
	repo.PlainHTTP = c.usePlain(ctx, ref)
	repo.SkipReferrersGC = true
	repo.ReferrerListMaxPages = maxReferrerPages
	repo.TagListMaxPages = maxTagPages
	repo.MaxMetadataBytes = maxManifest
	return repo, nil
}

// Login checks a user name and password against a registry and keeps them as
// Docker's config says: in its credential helper, or in the file.
func (c *Client) Login(ctx context.Context, host, user, password string) error {
	reg, err := remote.NewRegistry(host)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReference, err)
	}
	reg.PlainHTTP = c.usePlain(ctx, Reference{Host: host})
	reg.Client = c.auth
	cred := auth.Credential{Username: user, Password: password}
	if user == "" {
		cred = auth.Credential{RefreshToken: password}
	}
	return credentials.Login(ctx, c.creds, reg, cred)
}

// Logout forgets what Login kept.
func (c *Client) Logout(ctx context.Context, host string) error {
	return credentials.Logout(ctx, c.creds, host)
}
