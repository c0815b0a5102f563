//go:build linux

package bed

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// SameTree reports the first difference between two trees: names, kinds,
// permissions of files, link targets, content, empty directories.
func SameTree(want, got string) error {
	a, err := list(want)
	if err != nil {
		return err
	}
	b, err := list(got)
	if err != nil {
		return err
	}
	for _, name := range a {
		if _, found := slices.BinarySearch(b, name); !found {
			return fmt.Errorf("%q is missing", name)
		}
	}
	for _, name := range b {
		if _, found := slices.BinarySearch(a, name); !found {
			return fmt.Errorf("%q is too much", name)
		}
	}
	for _, name := range a {
		if err := sameEntry(filepath.Join(want, name), filepath.Join(got, name)); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return nil
}

func list(root string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		names = append(names, name)
		return err
	})
	slices.Sort(names)
	return names, err
}

func sameEntry(a, b string) error {
	ai, err := os.Lstat(a)
	if err != nil {
		return err
	}
	bi, err := os.Lstat(b)
	if err != nil {
		return err
	}
	switch {
	case ai.Mode().Type() != bi.Mode().Type():
		return fmt.Errorf("is %s, want %s", bi.Mode(), ai.Mode())
	case ai.Mode().Type() == fs.ModeSymlink:
		at, _ := os.Readlink(a)
		bt, _ := os.Readlink(b)
		if at != bt {
			return fmt.Errorf("leads to %q, want %q", bt, at)
		}
		return nil
	case !ai.Mode().IsRegular():
		return nil
	case ai.Mode() != bi.Mode():
		return fmt.Errorf("mode %s, want %s", bi.Mode(), ai.Mode())
	case ai.Size() != bi.Size():
		return fmt.Errorf("%d bytes, want %d", bi.Size(), ai.Size())
	}
	af, err := os.Open(a)
	if err != nil {
		return err
	}
	defer af.Close()
	bf, err := os.Open(b)
	if err != nil {
		return err
	}
	defer bf.Close()
	ab, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := io.ReadFull(af, ab)
		m, _ := io.ReadFull(bf, bb)
		if !bytes.Equal(ab[:n], bb[:m]) {
			return fmt.Errorf("differs after byte %d", at)
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
