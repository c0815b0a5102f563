package tree

import (
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes the empty file dst hold what src holds, sharing its blocks
// until one of the two is written to (reflink, ioctl_ficlone(2)). It fails
// where the file system cannot, as ext4, or where there are two.
func Clone(dst, src *os.File) error {
	return os.NewSyscallError("ficlone", unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
}
