//go:build !amd64

package sums

import (
	"crypto/sha256"
	"math"
)

// Lanes is how many chunks go side by side on this machine.
const Lanes = 1

const enough = math.MaxInt

func sumLanes([][sha256.Size]byte, [][]byte) {}

func (c *Checker) lanes([]byte, []int) (bool, error) { return false, nil }
