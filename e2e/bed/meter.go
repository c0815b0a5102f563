//go:build linux

package bed

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Meter passes TCP connections on and counts their bytes, headers and all. The
// kernel moves them (splice), so it costs a benchmark next to nothing; for
// everything else there is Wire.
type Meter struct {
	Addr string

	listener net.Listener
	bytes    atomic.Int64
	open     sync.WaitGroup
}

// NewMeter listens on a free port of host in front of an address.
func NewMeter(host, to string) (*Meter, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	m := &Meter{Addr: l.Addr().String(), listener: l}
	go relay(l, to, m.begin)
	return m, nil
}

func (m *Meter) begin(front, back net.Conn) {
	m.open.Add(2)
	go m.pass(front.(*net.TCPConn), back.(*net.TCPConn))
	go m.pass(back.(*net.TCPConn), front.(*net.TCPConn))
}

// relay gives begin each connection that l accepts, with one to the address
// behind it, until l is closed.
func relay(l net.Listener, to string, begin func(front, back net.Conn)) {
	for {
		front, err := l.Accept()
		if err != nil {
			return // closed
		}
		back, err := net.Dial("tcp", to)
		if err != nil {
			front.Close()
			continue
		}
		begin(front, back)
	}
}

func (m *Meter) pass(dst, src *net.TCPConn) {
	defer m.open.Done()
	n, _ := io.Copy(dst, src) // a connection that breaks is the client's to report
	m.bytes.Add(n)
	if err := errors.Join(dst.CloseWrite(), src.CloseRead()); err != nil {
		dst.Close()
		src.Close()
	}
}

// Take returns the bytes passed since the last call, both ways. The clients
// must have ended.
func (m *Meter) Take() int64 {
	m.open.Wait()
	return m.bytes.Swap(0)
}

// Close stops listening.
func (m *Meter) Close() { m.listener.Close() }
