package sums

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/cpu"
)

const width = 16 // 32-bit lanes of a register

// Lanes is how many chunks go side by side on this machine.
var Lanes = 1

// enough is from how many chunks on the lanes, all of them paid for, beat the
// SHA extensions: 1024 cycles a step against 141 a block.
var enough = math.MaxInt

// most is how many blocks are hashed at a time, in some 0.3 ms: nothing stops
// blocks meanwhile, and a garbage collection waits for it.
const most = pieceSize / sha256.BlockSize

func init() {
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW {
		Lanes, enough = width, 8
	}
}

// k256 are the constants of FIPS 180-4 4.2.2.
//
//lint:ignore U1000 blocks reads it
var k256 = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// flip turns the bytes of each of four words round.
//
//lint:ignore U1000 blocks reads it
var flip = [16]byte{3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12}

// blocks hashes n blocks of 64 bytes, n > 0, of every lane into state, which
// holds a to h of every lane. schedule is 1 KiB on a boundary of 64 bytes.
//
//go:noescape
func blocks(state *[8][width]uint32, lanes *[width]*byte, n int, schedule *byte)

// lanes is what sumLanes works with.
type lanes struct {
	state    [8][width]uint32
	at       [width]*byte
	rest     [width][]byte // of each lane's chunk; nil: the lane is free
	chunk    [width]int    // number of the chunk
	schedule [1024 + 63]byte
	order    []int
	one      hash.Hash // finishes a lane
	saved    [savedSize]byte
	sum      [sha256.Size]byte
}

var pool = sync.Pool{New: func() any { return &lanes{one: sha256.New()} }}

// sumLanes is Sum256 on lanes, as long as enough of them are in use.
func sumLanes(sums [][sha256.Size]byte, bufs [][]byte) {
	l := pool.Get().(*lanes)
	defer pool.Put(l)
	l.order = l.order[:0]
	for i := range bufs {
		l.order = append(l.order, i)
	}
	// The longest first, so that the lanes end together.
	slices.SortFunc(l.order, func(i, j int) int { return cmp.Compare(len(bufs[j]), len(bufs[i])) })
	next, busy := 0, 0
	for {
		n := most // blocks that every lane in use has
		for i := range l.rest {
			if l.rest[i] == nil && next < len(l.order) {
				l.begin(i, l.order[next], bufs[l.order[next]])
				next++
				busy++
			}
			if l.rest[i] != nil {
				n = min(n, len(l.rest[i])/sha256.BlockSize)
			}
		}
		if busy < enough {
			break
		}
		if n > 0 {
			l.step(n)
		}
		for i, rest := range l.rest {
			if rest != nil && len(rest) < sha256.BlockSize {
				sums[l.chunk[i]] = l.finish(i, bufs)
				busy--
			}
		}
	}
	for i := range l.rest {
		if l.rest[i] != nil {
			sums[l.chunk[i]] = l.finish(i, bufs)
		}
	}
	clear(l.at[:])
}

// aligned returns the schedule on a boundary of 64 bytes.
func (l *lanes) aligned() *byte {
	return &l.schedule[-uintptr(unsafe.Pointer(&l.schedule[0]))&63]
}

// begin gives lane i a chunk.
func (l *lanes) begin(i, chunk int, b []byte) {
	l.set(i, initial)
	l.chunk[i], l.rest[i] = chunk, b
	if b == nil {
		l.rest[i] = []byte{}
	}
}

// step hashes n blocks of every lane; free lanes repeat another's.
func (l *lanes) step(n int) {
	var some *byte
	for i, rest := range l.rest {
		if rest != nil {
			l.at[i] = &rest[0]
			some = l.at[i]
		}
	}
	for i, rest := range l.rest {
		if rest == nil {
			l.at[i] = some
		}
	}
	blocks(&l.state, &l.at, n, l.aligned())
	for i, rest := range l.rest {
		if rest != nil {
			l.rest[i] = rest[n*sha256.BlockSize:]
		}
	}
}

// finish hashes what is left of the chunk in lane i and frees the lane.
func (l *lanes) finish(i int, bufs [][]byte) [sha256.Size]byte {
	rest := l.rest[i]
	restore(l.one, &l.saved, l.get(i), int64(len(bufs[l.chunk[i]])-len(rest)))
	l.one.Write(rest)
	l.one.Sum(l.sum[:0])
	l.rest[i] = nil
	return l.sum
}

// set sets the state of lane i.
func (l *lanes) set(i int, s State) {
	for k := range l.state {
		l.state[k][i] = binary.BigEndian.Uint32(s[4*k:])
	}
}

// get returns the state of lane i.
func (l *lanes) get(i int) (s State) {
	for k := range l.state {
		binary.BigEndian.PutUint32(s[4*k:], l.state[k][i])
	}
	return s
}

// lanes checks windows, width at most, none of them the last unless it is full.
func (c *Checker) lanes(buf []byte, windows []int) (bool, error) {
	l := pool.Get().(*lanes)
	defer pool.Put(l)
	for i := range l.at {
		w := windows[min(i, len(windows)-1)] // free lanes repeat the last
		l.set(i, c.start(w))
		l.at[i] = &buf[min(i, len(windows)-1)*pieceSize]
	}
	for off := int64(0); off < Window; off += pieceSize {
		for i, w := range windows {
			if _, err := c.File.ReadAt(buf[i*pieceSize:][:pieceSize], int64(w)*Window+off); err != nil {
				return false, err
			}
		}
		blocks(&l.state, &l.at, pieceSize/sha256.BlockSize, l.aligned())
	}
	clear(l.at[:])
	for i, w := range windows {
		if end := int64(w+1) * Window; end == c.Size {
			restore(l.one, &l.saved, l.get(i), end)
			if l.one.Sum(l.sum[:0]); l.sum != c.SHA256 {
				return false, nil
			}
		} else if l.get(i) != c.States[w] {
			return false, nil
		}
	}
	return true, nil
}
