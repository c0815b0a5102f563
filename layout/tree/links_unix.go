//go:build unix

package tree

import (
	"io/fs"
	"syscall"
)

// links returns how many names a file has.
func links(fi fs.FileInfo) uint64 { return uint64(fi.Sys().(*syscall.Stat_t).Nlink) }
