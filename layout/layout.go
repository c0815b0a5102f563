// Package layout lays a tree of files out in layers of compressed chunks, and
// puts it together again. It knows nothing of registries.
//
//	tree ──▶ stream ──▶ chunks ──▶ frames ──▶ layers + Index      (Pack)
//	tree ◀── files  ◀── chunks ◀── ranges of layers ◀── plan      (Assemble)
//
// The stream is the bytes of the tree's regular files one after the other, in
// byte order of their paths; it is an address space and never materialised. A
// chunk is a run of the stream and the unit of deduplication; a layer is a
// blob of encoded chunks; the [Index] says which files there are and where
// each chunk lies. The format is specified in SPEC.md.
//
// What a registry hands out is hostile until verified: an Index is checked as
// a whole by [ReadIndex], and every chunk by its SHA-256 before a byte of it
// is written.
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrCorrupt says that bytes are not what the index, and so whoever published
// or signed it, says they are.
var ErrCorrupt = errors.New("content does not match the index")

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// String returns the hash in lower-case hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (h Hash) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, h[:]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]; only 64 lower-case
// hexadecimal digits are a Hash.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("SHA-256 of %d digits", len(b))
	}
	for _, c := range b {
		if c >= 'A' && c <= 'F' {
			return errors.New("SHA-256 in upper case")
		}
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Layer is a blob of encoded chunks.
type Layer struct {
	Digest Hash
	Size   int64 // bytes of the blob
}
