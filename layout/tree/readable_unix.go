//go:build unix

package tree

import "golang.org/x/sys/unix"

// readable reports whether the file can be opened for reading.
func readable(name string) bool { return unix.Access(name, unix.R_OK) == nil }
