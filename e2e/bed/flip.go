//go:build linux

package bed

import (
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Flipper stands between a client and a server and flips bits of what the
// server answers: bodies, headers and all.
type Flipper struct {
	Addr string

	listener net.Listener
	mu       sync.Mutex
	passed   int64   // bytes answered since Arm
	at       []int64 // bits to flip, counted in bits from there, sorted
	flipped  int
}

// patience is how long a server may be silent while the client waits. A length
// that was made larger would have both wait for ever; a network does not.
const patience = 2 * time.Second

// NewFlipper listens in front of an address.
func NewFlipper(to string) (*Flipper, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &Flipper{Addr: l.Addr().String(), listener: l}
	go relay(l, to, func(front, back net.Conn) {
		go func() {
			_, _ = io.Copy(back, front) // a connection that breaks is the client's to report
			back.Close()
		}()
		go f.answer(front, back)
	})
	return f, nil
}

func (f *Flipper) answer(front, back net.Conn) {
	defer front.Close()
	defer back.Close()
	buf := make([]byte, 32<<10)
	for {
		_ = back.SetReadDeadline(time.Now().Add(patience)) // fails on a closed connection, as Read does then
		n, err := back.Read(buf)
		f.flip(buf[:n])
		if _, werr := front.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (f *Flipper) flip(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := f.passed + int64(len(p))
	for len(f.at) > 0 && f.at[0] < end*8 {
		if i := f.at[0] - f.passed*8; i >= 0 {
			p[i/8] ^= 1 << (i % 8)
			f.flipped++
		}
		f.at = f.at[1:]
	}
	f.passed = end
}

// Arm has these bits flipped, counted from the next byte that the server
// answers, and returns how many bytes were answered and how many bits flipped
// since the last call.
func (f *Flipper) Arm(bits ...int64) (passed int64, flipped int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	passed, flipped = f.passed, f.flipped
	f.passed, f.flipped, f.at = 0, 0, slices.Sorted(slices.Values(bits))
	return passed, flipped
}

// Close stops listening.
func (f *Flipper) Close() { f.listener.Close() }
