package sums

import (
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"
)

// Window is how many bytes of a file lie between two of its states.
const Window = 4 << 20

// State is what the SHA-256 of a file is (FIPS 180-4, H(i)) after the bytes
// before a multiple of [Window]. From states on, the windows of a file are
// hashed side by side; that each ends with the state the next begins with, and
// the last with the SHA-256, proves that the file has that SHA-256.
type State [sha256.Size]byte

// MarshalText returns the state as hexadecimal digits.
func (s State) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText is the reverse of MarshalText.
func (s *State) UnmarshalText(b []byte) error {
	if len(b) != 2*len(s) {
		return fmt.Errorf("a state of %d characters", len(b))
	}
	_, err := hex.Decode(s[:], b)
	return err
}

// Windows returns how many windows a file of size bytes has. The states are
// one less: before the first window it is the same for all files.
func Windows(size int64) int64 { return size/Window + min(1, size%Window) }

// File hashes a file from its start and records its states.
type File struct {
	hash   hash.Hash
	n      int64
	states []State
}

// NewFile returns an empty file.
func NewFile() *File { return &File{hash: sha256.New()} }

// Write appends bytes. It never fails.
func (f *File) Write(p []byte) (int, error) {
	all := len(p)
	for len(p) > 0 {
		if f.n > 0 && f.n%Window == 0 {
			f.states = append(f.states, stateOf(f.hash))
		}
		k := min(int64(len(p)), Window-f.n%Window)
		f.hash.Write(p[:k])
		p, f.n = p[k:], f.n+k
	}
	return all, nil
}

// End returns the SHA-256 and the states, and makes the file empty.
func (f *File) End() (sum [sha256.Size]byte, states []State) {
	f.hash.Sum(sum[:0])
	states = f.states
	f.hash.Reset()
	f.n, f.states = 0, nil
	return sum, states
}

// Checker checks windows of a file of Size bytes.
type Checker struct {
	File   io.ReaderAt
	Size   int64
	SHA256 [sha256.Size]byte
	States []State // Windows(Size) - 1
}

// pieceSize is how many bytes of a window are read at a time.
const pieceSize = 64 << 10

var pieces = sync.Pool{New: func() any { return new([16 * pieceSize]byte) }}

// Check reports whether the windows of the given numbers, from 0 and best
// [Lanes] of them, are what their states say. Its errors are those of reading.
func (c *Checker) Check(windows []int) (bool, error) {
	buf := pieces.Get().(*[16 * pieceSize]byte)
	defer pieces.Put(buf)
	for len(windows) > 0 {
		var full []int // as only those go side by side
		for len(windows) > 0 && len(full) < Lanes {
			if w := windows[0]; int64(w+1)*Window <= c.Size {
				full = append(full, w)
			} else if ok, err := c.one(buf[:pieceSize], w); !ok || err != nil {
				return ok, err
			}
			windows = windows[1:]
		}
		if len(full) >= enough {
			if ok, err := c.lanes(buf[:], full); !ok || err != nil {
				return ok, err
			}
			continue
		}
		for _, w := range full {
			if ok, err := c.one(buf[:pieceSize], w); !ok || err != nil {
				return ok, err
			}
		}
	}
	return true, nil
}

// initial is the state before any byte (FIPS 180-4 5.3.3).
var initial = stateOf(sha256.New())

// start returns the state before window w.
func (c *Checker) start(w int) State {
	if w == 0 {
		return initial
	}
	return c.States[w-1]
}

// one checks one window.
func (c *Checker) one(buf []byte, w int) (bool, error) {
	h := sha256.New()
	at, end := int64(w)*Window, min(c.Size, int64(w+1)*Window)
	restore(h, new([savedSize]byte), c.start(w), at)
	for at < end {
		p := buf[:min(int64(len(buf)), end-at)]
		if _, err := c.File.ReadAt(p, at); err != nil {
			return false, err
		}
		h.Write(p)
		at += int64(len(p))
	}
	if end == c.Size {
		return [sha256.Size]byte(h.Sum(nil)) == c.SHA256, nil
	}
	return stateOf(h) == c.States[w], nil
}

// A hash of crypto/sha256 is saved as this text, a to h, the block begun and
// the length so far.
const (
	savedMagic = "sha\x03"
	savedSize  = len(savedMagic) + sha256.Size + sha256.BlockSize + 8
)

// stateOf returns the state of a hash that has whole blocks.
func stateOf(h hash.Hash) State {
	var buf [savedSize]byte
	b, err := h.(encoding.BinaryAppender).AppendBinary(buf[:0])
	if err != nil || len(b) != savedSize {
		panic("crypto/sha256 saves hashes in another way") // a test would have shown it
	}
	return State(b[len(savedMagic):])
}

// restore sets h to a state after n bytes, which are whole blocks. buf is for
// its use.
func restore(h hash.Hash, buf *[savedSize]byte, s State, n int64) {
	b := append(append(buf[:0], savedMagic...), s[:]...)[:savedSize]
	for i := range 8 {
		b[savedSize-1-i] = byte(n >> (8 * i))
	}
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(b); err != nil {
		panic(err) // as above
	}
}
