package oci

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"mpack/layout"
)

// A registry may answer before it has read an upload, and net/http goes on
// reading; whose the body is has given its memory back by then.
func TestNoBodyIsReadAfterItsTransferHasEnded(t *testing.T) {
	body := strings.NewReader("layer")
	u := &unseekable{r: body}
	if n, err := u.Read(make([]byte, 2)); n != 2 || err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	u.end()
	if n, err := u.Read(make([]byte, 2)); n != 0 || err == nil || err == io.EOF || body.Len() != 3 {
		t.Errorf("read %d bytes after the end: %v", n, err)
	}
}

// brokenTags serves a repository whose tags v1 and v2 are one manifest. It
// removes no tag alone, and fails when asked for v2.
func brokenTags(t *testing.T, deleted *[]string) string {
	digest := descriptor("", []byte("{}")).Digest.String()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case strings.HasSuffix(r.URL.Path, "/tags/list"):
			_, _ = io.WriteString(w, `{"tags":["v1","v2"]}`)
		case r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "sha256:"):
			*deleted = append(*deleted, r.URL.Path)
			w.WriteHeader(http.StatusAccepted)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case strings.HasSuffix(r.URL.Path, "/v2"):
			w.WriteHeader(http.StatusForbidden)
		default:
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", digest)
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "{}")
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// proxyOf passes requests on to a registry.
func proxyOf(t *testing.T, host string) *httputil.ReverseProxy {
	t.Helper()
	to, err := url.Parse("http://" + host)
	if err != nil {
		t.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(to)
	p.ErrorLog = log.New(io.Discard, "", 0) // of transfers that a test breaks off
	return p
}

func TestATagThatGoesWhileVersionsAreListedIsPassedOver(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	parts(t, dir, 1)
	host, _ := registryFor(t)
	if _, err := c.Push(t.Context(), reference(t, host+"/team/model:v1"), dir, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	registry := proxyOf(t, host)
	heads := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/tags/list"):
			_, _ = io.WriteString(w, `{"tags":["v0","v1","v2"]}`) // v0 is gone already
		case strings.HasSuffix(r.URL.Path, "/v2") && heads == 0: // v2 goes now
			heads++
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", descriptor("", []byte("{}")).Digest.String())
			w.Header().Set("Content-Length", "2")
		default:
			registry.ServeHTTP(w, r)
		}
	}))
	defer s.Close()
	r, err := c.Open(t.Context(), reference(t, strings.TrimPrefix(s.URL, "http://")+"/team/model"))
	if err != nil {
		t.Fatal(err)
	}
	vs, err := r.Versions(t.Context())
	if err != nil || len(vs) != 1 || vs[0].Tags[0] != "v1" || heads != 1 {
		t.Errorf("%d versions: %v", len(vs), err)
	}
}

func TestNothingIsRemovedThatAnotherTagMayName(t *testing.T) {
	var deleted []string
	host := brokenTags(t, &deleted)
	if _, err := testClient(t).Remove(t.Context(), reference(t, host+"/team/model:v1")); err == nil || len(deleted) > 0 {
		t.Errorf("removed %v: %v", deleted, err)
	}
}

func TestARepackDoesNotUndoAPush(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	for _, name := range []string{host + "/team/model:v1", "oci:" + t.TempDir() + ":v1"} {
		aRepackDoesNotUndoAPush(t, c, reference(t, name))
	}
}

func aRepackDoesNotUndoAPush(t *testing.T, c *Client, ref Reference) {
	t.Helper()
	push := func(dir string, o PushOptions) *Pushed {
		t.Helper()
		p, err := c.Push(t.Context(), ref, dir, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first, second, other := t.TempDir(), t.TempDir(), t.TempDir()
	parts(t, first, numbered(1, 12)...)
	parts(t, second, numbered(1, 8)...)
	parts(t, other, 100)
	push(first, PushOptions{})
	push(second, PushOptions{}) // uses but a part of the layer of the first
	var moved *Pushed
	_, err := c.Repack(t.Context(), ref, 1, func(layout.Delta) {
		if moved == nil {
			moved = push(other, PushOptions{Base: BaseNone})
		}
	})
	if moved == nil {
		t.Fatal("nothing was repacked")
	}
	r, errOpen := c.Open(t.Context(), ref)
	if errOpen != nil {
		t.Fatal(errOpen)
	}
	if d, errResolve := r.Resolve(t.Context()); err == nil || errResolve != nil || d.Digest != moved.Descriptor.Digest {
		t.Errorf("the tag is %s, not the %s that was pushed meanwhile; repack: %v", d.Digest, moved.Descriptor.Digest, err)
	}
}

func TestABlobThatStopsComingIsAnError(t *testing.T) {
	silence := maxSilence
	maxSilence = 50 * time.Millisecond
	defer func() { maxSilence = silence }()
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-done:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(done)
	r, err := testClient(t).Open(t.Context(), reference(t, strings.TrimPrefix(s.URL, "http://")+"/team/model:v1"))
	if err != nil {
		t.Fatal(err)
	}
	d := descriptor(TypeLayer, make([]byte, 100))
	rc, _, err := r.openRange(t.Context(), d, 0, d.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); string(b) != "begun" || !errors.Is(err, errSilent) || !transient(err) {
		t.Errorf("read %q: %v", b, err)
	}
}

// What net/http makes of a server that cannot be talked to is a *url.Error,
// which is a net.Error whatever is in it.
func TestOnlyWhatMayPassIsRetried(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	babbling, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer babbling.Close()
	go func() {
		for {
			c, err := babbling.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1\r\n")
			c.Close()
		}
	}()
	fails := func(url string, c *http.Client) error {
		t.Helper()
		resp, err := c.Get(url)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s answers", url)
		}
		return err
	}
	other := secure.Client()
	other.Transport.(*http.Transport).TLSClientConfig.ServerName = "elsewhere.invalid"
	for _, c := range []struct {
		what string
		err  error
		want bool
	}{
		{"unknown authority", fails(secure.URL, http.DefaultClient), false},
		{"another's certificate", fails(secure.URL, other), false},
		{"no TLS", fails(strings.Replace(plain.URL, "http", "https", 1), http.DefaultClient), false},
		{"no HTTP either", fails("https://"+babbling.Addr().String(), http.DefaultClient), false},
		{"no such host", &url.Error{Err: &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}}, false},
		{"a name server that does not answer", &url.Error{Err: &net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}}, true},
		{"a lost connection", fails("http://"+silent.Addr().String(), http.DefaultClient), true},
		{"a refused one", &url.Error{Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, true},
		{"silence", &url.Error{Err: errUnread}, true},
		{"an overloaded registry", &errcode.ErrorResponse{StatusCode: http.StatusServiceUnavailable}, true},
		{"a refusal", &errcode.ErrorResponse{StatusCode: http.StatusForbidden}, false},
		{"a reset one", &url.Error{Err: &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}}, true},
		{"a full disk when a file is renamed", &os.LinkError{Op: "rename", Err: syscall.ENOSPC}, false},
		{"a lock that is not given", syscall.EACCES, false},
		{"a full disk", &os.PathError{Op: "write", Err: syscall.ENOSPC}, false},
		{"something else", errors.New("no"), false},
	} {
		if got := transient(fmt.Errorf("push: %w", c.err)); got != c.want {
			t.Errorf("%s: %v: %v", c.what, got, c.err)
		}
	}
}

func TestARegistryThatDoesNotAnswerIsGivenUp(t *testing.T) {
	thinking := maxThinking
	maxThinking = 100 * time.Millisecond
	defer func() { maxThinking = thinking }()
	c := testClient(t)
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			asked.Add(1)
			<-r.Context().Done()
		}
	}))
	defer s.Close()
	r, err := c.Open(t.Context(), reference(t, strings.TrimPrefix(s.URL, "http://")+"/team/model:v1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context()); !errors.Is(err, errNoWord) || asked.Load() != 1 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

func TestAnUploadThatIsNotTakenIsBegunAgain(t *testing.T) {
	silence := maxSilence
	defer func() { maxSilence = silence }()
	body := bytes.Repeat([]byte("0123456789abcdef"), 4<<20) // more than sockets take unread
	done := make(chan struct{})
	for _, tls := range []bool{false, true} { // HTTP/1.1 and HTTP/2
		var puts atomic.Int32
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.Method {
			case http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			case http.MethodPost:
				w.Header().Set("Location", "/upload")
				w.WriteHeader(http.StatusAccepted)
			case http.MethodPut:
				if puts.Add(1) == 1 {
					select { // without reading
					case <-done:
					case <-r.Context().Done():
					}
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
			}
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		c := testClient(t)
		if tls {
			s.EnableHTTP2 = true
			s.StartTLS()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			var err error
			if c, err = NewClient(Options{CAFile: ca}); err != nil {
				t.Fatal(err)
			}
		} else {
			s.Start()
		}
		defer s.Close()
		_, host, _ := strings.Cut(s.URL, "://")
		r, err := c.open(t.Context(), reference(t, host+"/team/model:v1"), forWrite)
		if err != nil {
			t.Fatal(err)
		}
		maxSilence = 200 * time.Millisecond
		again := 0
		sent, err := r.pushBlob(t.Context(), descriptor(TypeLayer, body), bytes.NewReader(body), func() {
			again++
			maxSilence = silence // however slow this machine is
		})
		if err != nil || !sent || again != 1 || puts.Load() != 2 {
			t.Errorf("TLS %v: sent %v, again %d times of %d: %v", tls, sent, again, puts.Load(), err)
		}
	}
	close(done)
}

// fallsSilent writes ten bytes of a response and then nothing, until done.
type fallsSilent struct {
	http.ResponseWriter
	done <-chan struct{}
}

func (w fallsSilent) Write(p []byte) (int, error) {
	_, _ = w.ResponseWriter.Write(p[:min(len(p), 10)])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	<-w.done
	return 0, io.ErrClosedPipe
}

func TestACopyFromWhatFallsSilentGoesOn(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	parts(t, dir, 1)
	host, _ := registryFor(t)
	p, err := c.Push(t.Context(), reference(t, host+"/team/model:v1"), dir, PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	silence := maxSilence
	maxSilence = 200 * time.Millisecond
	defer func() { maxSilence = silence }()
	registry := proxyOf(t, host)
	var silent atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && silent.Add(1) == 1 {
			w = fallsSilent{w, r.Context().Done()}
		}
		registry.ServeHTTP(w, r)
	}))
	defer s.Close()
	from := reference(t, strings.TrimPrefix(s.URL, "http://")+"/team/model:v1")
	for _, to := range []string{"oci:" + t.TempDir(), "oci-archive:" + filepath.Join(t.TempDir(), "a.tar")} {
		silent.Store(0)
		copied, err := c.Copy(t.Context(), from, reference(t, to+":v1"), CopyOptions{})
		if err != nil || copied.Descriptor.Digest != p.Descriptor.Digest || silent.Load() < 2 {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestAnIndexThatBreaksOffIsReadAgain(t *testing.T) {
	c := testClient(t)
	dir := t.TempDir()
	parts(t, dir, 1)
	host, _ := registryFor(t)
	if _, err := c.Push(t.Context(), reference(t, host+"/team/model:v1"), dir, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	registry := proxyOf(t, host)
	var cut sync.Map
	done := make(chan struct{})
	close(done)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, again := cut.LoadOrStore(r.URL.Path, true); r.Method == http.MethodGet && !again && r.URL.Path != "/v2/" {
			w = fallsSilent{w, done} // and ends
		}
		registry.ServeHTTP(w, r)
	}))
	defer s.Close()
	r, err := c.Open(t.Context(), reference(t, strings.TrimPrefix(s.URL, "http://")+"/team/model:v1"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.Artifact(t.Context())
	if err == nil {
		_, err = a.Index(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
}

func TestAnArchiveOfWhatFailedIsNotKept(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.tar")
	r, err := testClient(t).open(t.Context(), reference(t, "oci-archive:"+name+":v1"), forWrite)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("{}")
	if err := r.pushManifest(t.Context(), descriptor("application/vnd.oci.image.manifest.v1+json", b), b); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the source has gone")
	if err := r.end(cause); !errors.Is(err, cause) {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestADocumentOfTwoMeaningsIsRefused(t *testing.T) {
	const manifest, index = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	for _, c := range []struct {
		raw, mediaType string
		ok             bool
	}{
		{`{"mediaType":"` + manifest + `","config":{},"layers":[]}`, manifest, true},
		{`{"mediaType":"` + manifest + `","config":{},"layers":[]}`, index, false},
		{`{"manifests":[]}`, index, true},
		{`{"manifests":[],"layers":[]}`, index, false},
		{`{"manifests":[],"config":{}}`, manifest, false},
	} {
		if err := oneMeaning([]byte(c.raw), c.mediaType); (err == nil) != c.ok {
			t.Errorf("%s as %s: %v", c.raw, c.mediaType, err)
		}
	}
}
