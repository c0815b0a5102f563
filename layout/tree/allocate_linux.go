package tree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Allocate gives a file its size and, where the file system can, the space
// for it.
func Allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return f.Truncate(size)
		}
		return err
	}
}

// StartWriting has the system begin to bring n bytes at off to the disk, so
// that little is left to do when the file is complete and must be there.
func StartWriting(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // no more than a hint
}
