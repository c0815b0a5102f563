package oci

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// store is what a registry's repository, a layout and an archive have in
// common. An archive that is read has no Push and Tag.
type store interface {
	content.ReadOnlyGraphStorage
	content.Resolver
	registry.TagLister
}

// Repo is where artifacts lie: a repository of a registry, a layout or an
// archive. Close it; what was written to an archive is complete only then.
type Repo struct {
	Ref    Reference
	client *Client
	store  store
	remote *remote.Repository // of a registry
	layout *imageLayout       // of a layout
	write  *archiveWriter     // of an archive that is written
	cache  *Store             // asked before store for manifests and small blobs; may be nil
}

// mode says what a Repo is opened for.
type mode int

const (
	forRead mode = iota
	forWrite
	forRemove
)

// Open opens what ref names for reading.
func (c *Client) Open(ctx context.Context, ref Reference) (*Repo, error) {
	return c.open(ctx, ref, forRead)
}

func (c *Client) open(ctx context.Context, ref Reference, m mode) (*Repo, error) {
	r := &Repo{Ref: ref, client: c}
	switch ref.Scheme {
	case Registry:
		repo, err := c.remote(ctx, ref)
		if err != nil {
			return nil, err
		}
		r.remote, r.store = repo, repo
	case Layout:
		if m != forWrite {
			if _, err := os.Stat(filepath.Join(ref.Path, ocispec.ImageLayoutFile)); err != nil {
				return nil, fmt.Errorf("%s: %w: no OCI layout there", ref.Name(), ErrNotFound)
			}
		}
		s, err := openLayout(ctx, ref.Path, m, c.opts.Waits)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", ref.Name(), damaged(err))
		}
		r.layout, r.store = s, s
	case Archive:
		if m == forWrite {
			w, err := newArchiveWriter(ctx, ref.Path)
			if err != nil {
				return nil, fmt.Errorf("write %s: %w", ref.Name(), err)
			}
			r.write, r.store = w, w
			break
		}
		s, err := oci.NewFromTar(ctx, ref.Path)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				err = fmt.Errorf("%w: no such file", ErrNotFound)
			}
			return nil, fmt.Errorf("open %s: %w", ref.Name(), damaged(err))
		}
		r.store = s
	default:
		return nil, fmt.Errorf("%w: scheme %q", ErrReference, ref.Scheme)
	}
	return r, nil
}

// damaged makes an [ErrCorrupt] of what says that a layout's manifests are not
// what its index.json lists: oras-go reads them all when it opens one.
func damaged(err error) error {
	if errors.Is(err, content.ErrMismatchedDigest) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, content.ErrTrailingData) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// Close ends the use of the repo.
func (r *Repo) Close() error {
	switch {
	case r.write != nil:
		return r.write.Close()
	case r.layout != nil:
		return r.layout.Close()
	}
	return nil
}

// end closes the repo after an operation that ended with err. An archive of
// what failed halfway is not kept.
func (r *Repo) end(err error) error {
	if err != nil && r.write != nil {
		r.write.fail(err)
	}
	return errors.Join(err, r.Close())
}

// writer returns the store for writing.
func (r *Repo) writer() (interface {
	content.Pusher
	content.Tagger
}, error) {
	if w, ok := r.store.(interface {
		content.Pusher
		content.Tagger
	}); ok {
		return w, nil
	}
	return nil, r.Ref.readOnly()
}

// Resolve returns the descriptor of what the reference names: of the digest if
// it has one, else of the tag. Where it has both, they must agree.
func (r *Repo) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	name := string(r.Ref.Digest)
	if name == "" {
		name = r.Ref.Tag
	}
	d, err := r.store.Resolve(ctx, name)
	if errors.Is(err, ErrNotFound) {
		err = ErrNotFound // oras-go's repeats the reference
	}
	if err != nil {
		return d, fmt.Errorf("resolve %s: %w", r.Ref, err)
	}
	if r.Ref.Digest != "" && d.Digest != r.Ref.Digest {
		return d, fmt.Errorf("resolve %s: %w: the registry answered %s", r.Ref, ErrCorrupt, d.Digest)
	}
	if r.Ref.Tag != "" && r.Ref.Digest != "" && r.Ref.Scheme != Registry {
		if t, err := r.store.Resolve(ctx, r.Ref.Tag); err != nil || t.Digest != d.Digest {
			return d, fmt.Errorf("resolve %s: %w: the tag is another digest", r.Ref, ErrNotFound)
		}
	}
	return d, nil
}

// bytes fetches a small blob or manifest and checks it against its descriptor.
func (r *Repo) bytes(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d that are read", d.Digest, d.Size, limit)
	}
	if b, ok := r.cache.blob(d); ok {
		return b, nil
	}
	var b []byte
	err := r.retried(ctx, nil, func() error {
		rc, err := r.store.Fetch(ctx, d)
		if err != nil && strings.Contains(err.Error(), "mismatch Content-Length") { // oras-go has no type for it
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if err != nil {
			return err
		}
		defer rc.Close()
		b, err = io.ReadAll(io.LimitReader(rc, d.Size+1))
		return err
	})
	if err == nil && (int64(len(b)) != d.Size || digest.FromBytes(b) != d.Digest) {
		err = ErrCorrupt
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	return b, r.cache.keep(d, b)
}

// retried does something that a registry may fail at for a while, until it
// succeeds, fails for good, or has failed four times. The transport retries
// requests without a body already, but not what is lost behind the header.
func (r *Repo) retried(ctx context.Context, again func(), do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil || try == 4 || !transient(err) {
			return err
		}
		r.client.opts.Debug("try %d failed: %v", try, err)
		if again != nil {
			again()
		}
		select {
		case <-time.After(time.Duration(try*try) * 500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// transient reports whether an error may pass by itself.
func transient(err error) bool {
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) {
		return passing(resp.StatusCode)
	}
	if hopeless(err) {
		return false
	}
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// hopeless reports whether an error, though Go calls it one of the network,
// will be the same next time: no such host, or one that does not speak TLS, or
// whose certificate is not taken; what the system says, such as that a disk is
// full, but not of a connection.
func hopeless(err error) bool {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var system syscall.Errno
	var connection *net.OpError
	return errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &cert) || errors.As(err, &record) ||
		errors.As(err, &system) && !errors.As(err, &connection) || errors.Is(err, http.ErrSchemeMismatch)
}

// unseekable hides everything of a body but Read, so that it is retried in
// one place, and with a new upload session. A registry may answer before it
// has read everything, and net/http goes on reading for a while: end keeps it
// from a body that is sent again, or whose memory is another's by now.
type unseekable struct {
	r     io.Reader
	mu    sync.Mutex
	ended bool
}

func (u *unseekable) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return 0, errors.New("the transfer has ended")
	}
	return u.r.Read(p)
}

func (u *unseekable) end() {
	u.mu.Lock()
	u.ended = true
	u.mu.Unlock()
}

// pushBlob stores a blob unless it is there; sent is false if it was. A
// registry that lost the connection is asked again before anything is sent again.
func (r *Repo) pushBlob(ctx context.Context, d ocispec.Descriptor, body io.ReadSeeker, again func()) (sent bool, err error) {
	w, err := r.writer()
	if err != nil {
		return false, err
	}
	err = r.retried(ctx, again, func() error {
		ok, err := r.store.Exists(ctx, d)
		if err != nil {
			return err
		}
		if ok {
			sent = false
			return nil
		}
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		sent = true
		u := &unseekable{r: body}
		defer u.end()
		return w.Push(ctx, d, u)
	})
	if err != nil {
		return false, fmt.Errorf("push blob %s: %w", d.Digest, err)
	}
	return sent, nil
}

// pushManifest stores a manifest by its digest.
func (r *Repo) pushManifest(ctx context.Context, d ocispec.Descriptor, b []byte) error {
	w, err := r.writer()
	if err != nil {
		return err
	}
	return r.retried(ctx, nil, func() error {
		if ok, err := r.store.Exists(ctx, d); err != nil || ok {
			return err
		}
		return w.Push(ctx, d, bytes.NewReader(b))
	})
}

// tag makes tag name a manifest that is stored already.
func (r *Repo) tag(ctx context.Context, d ocispec.Descriptor, b []byte, tag string) error {
	w, err := r.writer()
	if err != nil {
		return err
	}
	return r.retried(ctx, nil, func() error {
		if r.remote != nil {
			return r.remote.PushReference(ctx, d, bytes.NewReader(b), tag)
		}
		return w.Tag(ctx, d, tag)
	})
}

// openRange opens length bytes of a blob from offset on. A registry that does
// not serve ranges sends the whole blob; whole says so.
func (r *Repo) openRange(ctx context.Context, d ocispec.Descriptor, offset, length int64) (rc io.ReadCloser, whole bool, err error) {
	if r.remote == nil {
		rc, err := r.store.Fetch(ctx, d)
		if err != nil {
			return nil, false, err
		}
		if s, ok := rc.(io.Seeker); ok && offset > 0 {
			if _, err := s.Seek(offset, io.SeekStart); err != nil {
				rc.Close()
				return nil, false, err
			}
			return &sizedBlob{rc, d.Size - offset}, false, nil
		}
		return &sizedBlob{rc, d.Size}, offset > 0, nil
	}
	ref := r.remote.Reference
	ref.Reference = d.Digest.String()
	ctx = auth.AppendRepositoryScope(ctx, ref, auth.ActionPull)
	scheme := "https"
	if r.remote.PlainHTTP {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, ref.Host(), ref.Repository, d.Digest), nil)
	if err != nil {
		return nil, false, err
	}
	part := offset > 0 || length < d.Size
	if part {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-"+strconv.FormatInt(offset+length-1, 10))
	}
	resp, err := r.remote.Client.Do(req)
	if err != nil {
		return nil, false, err
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && part:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != offset {
			resp.Body.Close()
			return nil, false, fmt.Errorf("asked for bytes from %d, was sent %q", offset, resp.Header.Get("Content-Range"))
		}
		return resp.Body, false, nil
	case resp.StatusCode == http.StatusOK:
		return resp.Body, true, nil
	}
	defer resp.Body.Close()
	return nil, false, responseError(resp)
}

// sizedBlob is a blob of a layout or archive with left bytes to come. That it
// ends before is damage; of a registry it would be a broken connection.
type sizedBlob struct {
	io.ReadCloser
	left int64
}

func (b *sizedBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = fmt.Errorf("%w: the blob is %d bytes short", ErrCorrupt, b.left)
	}
	return n, err
}

// statusError is a registry's answer that is not what was asked for.
type statusError struct {
	method, where string
	code          int
	message       string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%s %s: %d %s", e.method, e.where, e.code, http.StatusText(e.code))
	if e.message != "" {
		s += ": " + e.message
	}
	return s
}

// Final implements [layout.Final].
func (e *statusError) Final() bool { return !passing(e.code) }

// passing reports whether a registry that answers so may answer otherwise
// when asked again.
func passing(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500
}

func (e *statusError) Is(target error) bool {
	return target == ErrNotFound && e.code == http.StatusNotFound
}

func responseError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	e := &statusError{resp.Request.Method, resp.Request.URL.Path, resp.StatusCode, ""}
	if json.Unmarshal(b, &body) == nil && len(body.Errors) > 0 {
		e.message = body.Errors.Error()
	}
	return e
}

// IsAuth reports whether an error is a registry's refusal of the credentials.
func IsAuth(err error) bool {
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) {
		return resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
	}
	var st *statusError
	if errors.As(err, &st) {
		return st.code == http.StatusUnauthorized || st.code == http.StatusForbidden
	}
	return errors.Is(err, auth.ErrBasicCredentialNotFound)
}
