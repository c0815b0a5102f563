//go:build unix

package tree

import (
	"io/fs"
	"os"
	"syscall"
)

// links returns how many names a file has.
func links(fi fs.FileInfo) uint64 { return uint64(fi.Sys().(*syscall.Stat_t).Nlink) }

// Owned reports whether a file is this user's or the system's. Another one may
// change its own whatever their modes are.
func Owned(fi fs.FileInfo) bool {
	uid := fi.Sys().(*syscall.Stat_t).Uid
	return uid == 0 || int(uid) == os.Geteuid()
}
