package frame

import (
	"bytes"
	"testing"
)

// sameWithoutAssembly checks that a machine that has not what the functions in
// assembly need makes the same frame of p.
func sameWithoutAssembly(t *testing.T, frame, p []byte) {
	t.Helper()
	defer func(has bool) { hasVBMI = has }(hasVBMI)
	hasVBMI = false
	if !bytes.Equal(appendHuffman(nil, p, new(huffEncoder)), frame) {
		t.Error("another frame without assembly")
	}
}

func TestAssemblyCodesAlike(t *testing.T) {
	for _, el := range elements {
		for _, kind := range kinds {
			for _, n := range []int{1024, 5003, 200_001} {
				if p := kind.data(el.el, n); !constant(p) {
					sameWithoutAssembly(t, appendHuffman(nil, p, new(huffEncoder)), p)
				}
			}
		}
	}
}
