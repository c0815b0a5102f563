//go:build !linux

package tree

import "os"

// Allocate gives a file its size.
func Allocate(f *os.File, size int64) error { return f.Truncate(size) }
