// Package sums computes the SHA-256 of many chunks at once.
//
// One SHA-256 is a chain in which each step waits for the one before, and its
// speed is that of the chain. The chunks of a file are chains that do not wait
// for each other: where the processor has AVX-512, sixteen of them go side by
// side, in twice the speed of the SHA extensions one after the other. Elsewhere
// this is crypto/sha256.
package sums

import "crypto/sha256"

// Sum256 sets sums[i] to the SHA-256 of bufs[i], of whatever length and number:
// best [Lanes] at once. sums must be at least as long as bufs.
func Sum256(sums [][sha256.Size]byte, bufs [][]byte) {
	if len(bufs) >= enough {
		sumLanes(sums, bufs)
		return
	}
	for i, b := range bufs {
		sums[i] = sha256.Sum256(b)
	}
}
