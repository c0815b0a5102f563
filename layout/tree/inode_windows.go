package tree

import "io/fs"

// links returns 1: it is asked where a mode changes, and here none does.
func links(fs.FileInfo) uint64 { return 1 }

// Owned returns true: whose a file is says little here.
func Owned(fs.FileInfo) bool { return true }
