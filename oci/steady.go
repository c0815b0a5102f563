package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// maxSilence is how long a registry may neither send nor take anything of a
// transfer that has begun; after that it is begun again. Tests shorten it.
var maxSilence = 2 * time.Minute

// maxThinking is how long a registry may take to answer when it has been sent
// everything: it hashes a whole upload first. Tests shorten it.
var maxThinking = 5 * time.Minute

var (
	errSilent = fmt.Errorf("the registry sends no more: %w", os.ErrDeadlineExceeded)
	errUnread = fmt.Errorf("the registry takes no more: %w", os.ErrDeadlineExceeded)
	errNoWord = fmt.Errorf("the registry does not answer: %w", os.ErrDeadlineExceeded)
)

// steadyBody is the body of a response that ends with an error when nothing of
// it comes for maxSilence.
type steadyBody struct {
	io.ReadCloser
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	timer  *time.Timer // runs during a Read
}

func newSteadyBody(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser) *steadyBody {
	t := time.AfterFunc(maxSilence, func() { cancel(errSilent) })
	t.Stop()
	return &steadyBody{body, ctx, cancel, t}
}

func (b *steadyBody) Read(p []byte) (int, error) {
	b.timer.Reset(maxSilence)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errSilent {
		err = errSilent
	}
	return n, err
}

func (b *steadyBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// steady is a transport that gives a request up when the registry neither
// takes its body nor sends that of the response.
type steady struct{ base http.RoundTripper }

func (s steady) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	taken := &takenBody{silence: maxSilence, timer: time.AfterFunc(maxSilence, func() { cancel(errUnread) })}
	taken.timer.Stop() // it may wait for its turn on a connection
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		taken.ReadCloser, r.Body = r.Body, taken
	}
	began := time.Now()
	resp, err := s.base.RoundTrip(r)
	taken.answered.Store(true)
	taken.timer.Stop()
	if err != nil {
		var timeout net.Error
		switch {
		case context.Cause(ctx) == errUnread:
			err = errUnread
		case ctx.Err() == nil && errors.As(err, &timeout) && timeout.Timeout() && time.Since(began) >= maxThinking:
			err = errNoWord // which oras-go does not try five times more, as it does timeouts
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = newSteadyBody(ctx, cancel, resp.Body)
	return resp, nil
}

// takenBody is the body of a request. The timer runs between its Reads, while
// what was read is being sent.
type takenBody struct {
	io.ReadCloser
	silence  time.Duration
	timer    *time.Timer
	answered atomic.Bool
	ended    atomic.Bool
}

func (b *takenBody) Read(p []byte) (int, error) {
	b.timer.Stop() // where it comes from has limits of its own
	n, err := b.ReadCloser.Read(p)
	b.ended.Store(err != nil)
	if err != nil {
		b.timer.Reset(b.silence + maxThinking) // the last of it is on its way
	} else {
		b.timer.Reset(b.silence)
	}
	if b.answered.Load() { // perhaps only just
		b.timer.Stop()
	}
	return n, err
}

// Close before the end means that net/http begins again, with another body.
func (b *takenBody) Close() error {
	if !b.ended.Load() {
		b.timer.Stop()
	}
	return b.ReadCloser.Close()
}
