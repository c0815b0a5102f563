package tree

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of paths and link targets, in bytes: what Linux, macOS and Windows
// (with long paths) can all hold.
const (
	maxPath = 4096
	maxName = 255
)

// ValidPath reports what is wrong with a path from a stranger: it must be
// relative, slash-separated and clean ("a/b", never "/a", "a//b", "./a",
// "../a" or "."), valid UTF-8 without control characters or backslashes, at
// most 4096 bytes long with at most 255 in each component, and must not touch
// the directory that unfinished files are kept in.
//
// Names that only Windows cannot hold (with a colon, or NUL and AUX) are
// valid; there the [Writer] refuses them.
func ValidPath(p string) error {
	if p == "" {
		return errors.New("empty path")
	}
	if err := validText(p); err != nil {
		return fmt.Errorf("path %s: %w", quote(p), err)
	}
	for name := range strings.SplitSeq(p, "/") {
		var why string
		switch {
		case name == "":
			why = "begins or ends with a slash, or has two together"
		case name == "." || name == "..":
			why = fmt.Sprintf("has a component %q", name)
		case len(name) > maxName:
			why = fmt.Sprintf("has a component of %d bytes, more than %d", len(name), maxName)
		case strings.EqualFold(name, workDir):
			why = fmt.Sprintf("has a component %s, which mpack keeps unfinished files in", workDir)
		default:
			continue
		}
		return fmt.Errorf("path %s %s", quote(p), why)
	}
	return nil
}

// ValidLink reports what is wrong with the target of the symlink at p, which
// must be a valid path: the target must be relative and clean, obey the rules
// of [ValidPath] for characters and lengths, and lead from p's directory to a
// place inside the tree.
//
// A clean target has ".." at its beginning only. So, in a tree that
// [ValidSet] has passed, no chain of links leads out either.
func ValidLink(p, target string) error {
	wrong := func(why string) error {
		return fmt.Errorf("symlink %s -> %s: %s", quote(p), quote(target), why)
	}
	if target == "" {
		return wrong("empty target")
	}
	if err := validText(target); err != nil {
		return wrong(err.Error())
	}
	if path.IsAbs(target) {
		return wrong("target is absolute")
	}
	if path.Clean(target) != target {
		return wrong("target is not clean")
	}
	for name := range strings.SplitSeq(target, "/") {
		if len(name) > maxName {
			return wrong(fmt.Sprintf("target has a component of %d bytes, more than %d", len(name), maxName))
		}
	}
	if to := path.Join(path.Dir(p), target); to == ".." || strings.HasPrefix(to, "../") {
		return wrong("target lies outside of the tree")
	}
	return nil
}

// ValidSet reports what is wrong with the entries as a whole, each of which
// is valid by itself: they must be in strict byte order of their paths, so
// that none is there twice, and none may lie below another, be that a file, a
// symlink or a directory said to be empty.
func ValidSet(entries []Entry) error {
	// Entries that begin as the one at hand does, the shortest first. In byte
	// order all that lie between two of them do so too, so none is missed.
	var above []*Entry
	for i := range entries {
		p := entries[i].Path
		if i > 0 && entries[i-1].Path >= p {
			if entries[i-1].Path == p {
				return fmt.Errorf("path %q is there twice", p)
			}
			return fmt.Errorf("path %q is out of order", p)
		}
		for len(above) > 0 && !strings.HasPrefix(p, above[len(above)-1].Path) {
			above = above[:len(above)-1]
		}
		for _, e := range above {
			if p[len(e.Path)] == '/' {
				return fmt.Errorf("path %q lies below %q, which is %s", p, e.Path, e.Kind.noun())
			}
		}
		above = append(above, &entries[i])
	}
	return nil
}

func (k Kind) noun() string {
	switch k {
	case Dir:
		return "an empty directory"
	case Symlink:
		return "a symlink"
	}
	return "a file"
}

// find returns the entry at p of sorted entries, or nil.
func find(entries []Entry, p string) *Entry {
	i, ok := slices.BinarySearchFunc(entries, p, func(e Entry, p string) int { return strings.Compare(e.Path, p) })
	if !ok {
		return nil
	}
	return &entries[i]
}

// validText holds for paths and link targets alike.
func validText(s string) error {
	if len(s) > maxPath {
		return fmt.Errorf("%d bytes, more than %d", len(s), maxPath)
	}
	if !utf8.ValidString(s) {
		return errors.New("not valid UTF-8")
	}
	for _, r := range s {
		// A backslash separates components on Windows.
		if r == '\\' || unicode.IsControl(r) {
			return fmt.Errorf("has the character %q", r)
		}
	}
	return nil
}

// quote keeps a stranger's text printable and short.
func quote(s string) string {
	if len(s) > maxName {
		return fmt.Sprintf("%q…", s[:maxName])
	}
	return fmt.Sprintf("%q", s)
}
