//go:build linux

package bed

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Wire stands before a registry and counts what passes. Set its fields before
// the first request.
type Wire struct {
	Addr string // host:port to talk to instead of the registry's

	// Refuse is asked before a request is passed on; it returns true when it
	// has answered by itself.
	Refuse func(w http.ResponseWriter, r *http.Request) bool
	// Cut is asked after each write of a response, with the bytes passed of it;
	// true cuts the connection there.
	Cut func(r *http.Request, passed int64) bool
	// Rate limits each direction of each request, in bytes a second; 0: no limit.
	Rate int64

	up, down atomic.Int64
	mu       sync.Mutex
	calls    map[string]int // "PUT /v2/…/manifests" and the like
	at       int64
	reached  func()
	server   *http.Server
}

// NewWire listens in front of a registry, with TLS if a configuration is given.
func NewWire(registry string, conf *tls.Config) (*Wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &Wire{Addr: l.Addr().String(), calls: map[string]int{}}
	scheme := "http"
	if conf != nil {
		l, scheme = tls.NewListener(l, conf), "https"
	}
	to := &url.URL{Scheme: "http", Host: registry}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 16},
		ErrorLog:      log.New(io.Discard, "", 0),
		// A registry that is gone is a broken connection, not a page about it.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // so that the registry's Location comes back here
			r.Out.Header.Set("X-Forwarded-Proto", scheme)
			r.Out.Header.Set("X-Forwarded-Host", r.In.Host)
		},
	}
	w.server = &http.Server{ErrorLog: proxy.ErrorLog, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.calls[r.Method]++
		w.mu.Unlock()
		if w.Refuse != nil && w.Refuse(rw, r) {
			return
		}
		r.Body = &countedBody{r.Body, w}
		proxy.ServeHTTP(&countedWriter{ResponseWriter: rw, wire: w, request: r}, r)
	})}
	go func() { _ = w.server.Serve(l) }() // ends with Close
	return w, nil
}

// Close cuts every connection and stops listening.
func (w *Wire) Close() { _ = w.server.Close() }

// Up returns the bytes of request bodies passed so far.
func (w *Wire) Up() int64 { return w.up.Load() }

// Down returns the bytes of response bodies passed so far.
func (w *Wire) Down() int64 { return w.down.Load() }

// Calls returns how many requests there were with a method.
func (w *Wire) Calls(method string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[method]
}

// At has f called once when further n bytes have passed, up and down together.
func (w *Wire) At(n int64, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.reached = w.up.Load()+w.down.Load()+n, f
}

func (w *Wire) passed(n int) {
	w.mu.Lock()
	f := w.reached
	if f != nil && w.up.Load()+w.down.Load() >= w.at {
		w.reached = nil
	} else {
		f = nil
	}
	w.mu.Unlock()
	if f != nil {
		go f()
	}
	if w.Rate > 0 {
		time.Sleep(time.Duration(int64(n) * int64(time.Second) / w.Rate))
	}
}

type countedBody struct {
	io.ReadCloser
	wire *Wire
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.wire.up.Add(int64(n))
	b.wire.passed(n)
	return n, err
}

type countedWriter struct {
	http.ResponseWriter
	wire    *Wire
	request *http.Request
	written int64
}

func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.written += int64(n)
	w.wire.down.Add(int64(n))
	w.wire.passed(n)
	if w.wire.Cut != nil && w.wire.Cut(w.request, w.written) {
		panic(http.ErrAbortHandler)
	}
	return n, err
}
