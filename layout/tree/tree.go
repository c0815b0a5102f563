// Package tree walks a directory that is to be packed, and writes one safely.
//
//	directory ──▶ Walk ──▶ []Entry (sorted by Path) + Open      (push)
//	directory ◀── Writer: Part ──▶ bytes ──▶ Commit             (pull)
//
// An [Entry] is a regular file, a symlink that stays inside the tree, or an
// empty directory; other directories follow from the paths below them. Of a
// file's mode only its owner's execute bit is kept, of times and owners
// nothing, so that one tree is the same tree on any machine.
//
// Paths are slash-separated, relative and clean. [ValidPath], [ValidLink] and
// [ValidSet] say which ones are taken from a stranger; [Writer] holds to them
// once more and does all its work through [os.Root], so that nothing it is
// told can leave its directory.
package tree

import "errors"

// Errors that a caller may decide on.
var (
	// ErrChanged says that a file is no longer what the walk found.
	ErrChanged = errors.New("changed while it was being read")
	// ErrBusy says that another process writes into the directory.
	ErrBusy = errors.New("another mpack is writing into this directory: wait until it has ended, or choose another directory")
)

// Kind is what an [Entry] is.
type Kind uint8

// The kinds of entries; there are no others.
const (
	File Kind = iota
	Dir       // an empty directory
	Symlink
)

// Entry is a file, an empty directory or a symlink of a tree.
type Entry struct {
	Path string // as [ValidPath] wants it
	Kind Kind
	Exec bool   // of a file: its owner may execute it
	Size int64  // bytes of a file, or of a symlink's Link; 0 of a directory
	Link string // target of a symlink, as [ValidLink] wants it
}

// workDir is where a [Writer] keeps unfinished files, below its directory. It
// is never packed and never written into by path.
const workDir = ".mpack-partial"
