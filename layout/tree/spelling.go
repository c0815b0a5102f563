package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Distinct reports which of the valid paths would overwrite one another in the
// directory, where the file system takes names for one that differ by case, as
// those of Windows and macOS do, or by how an accent is written (macOS). On
// any other it has nothing to say. Directories that become one are no loss.
func (w *Writer) Distinct(paths iter.Seq[string]) error {
	anyCase, anyForm, err := w.spellings()
	if err != nil {
		return fmt.Errorf("%s: %w", w.dir, err)
	}
	if !anyCase && !anyForm {
		return nil
	}
	if err := distinct(paths, anyCase, anyForm); err != nil {
		return fmt.Errorf("%w on the file system of %s, which takes such names for one: exclude one of them, or pull to another file system", err, w.dir)
	}
	return nil
}

// spellings asks the file system whether a name can be spelt in any case and
// in any of Unicode's normal forms.
func (w *Writer) spellings() (anyCase, anyForm bool, err error) {
	const probe = "probe-\u00e9" // no key is called so, nor what an earlier Writer left
	f, err := w.work.OpenFile(probe, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return false, false, err
	}
	mine, err := f.Stat()
	f.Close()
	same := func(name string) bool {
		there, e := w.work.Lstat(name)
		return e == nil && os.SameFile(mine, there)
	}
	if err == nil {
		anyCase = same("PROBE-\u00e9") || same("probe-\u00c9")
		anyForm = same("probe-e\u0301")
	}
	if e := w.work.Remove(probe); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return anyCase, anyForm, err
}

// distinct reports which paths have one name if case, or the normal form, is
// not told apart, or are then above others.
func distinct(paths iter.Seq[string], anyCase, anyForm bool) error {
	type spelt struct{ folded, path string }
	var all []spelt
	for p := range paths {
		s := spelt{p, p}
		if anyForm { // apart first: of what an accent is a letter of its own in the other case
			s.folded = norm.NFD.String(s.folded)
		}
		if anyCase { // both ways, as some letters have two of the other case
			s.folded = strings.ToLower(strings.ToUpper(s.folded))
		}
		if anyForm { // again, as case may have changed the form
			s.folded = norm.NFC.String(s.folded)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b spelt) int { return strings.Compare(a.folded, b.folded) })
	var above []spelt // as in ValidSet
	for _, s := range all {
		for len(above) > 0 && !strings.HasPrefix(s.folded, above[len(above)-1].folded) {
			above = above[:len(above)-1]
		}
		for _, a := range above {
			if len(a.folded) == len(s.folded) || s.folded[len(a.folded)] == '/' {
				return fmt.Errorf("%q and %q would overwrite one another", a.path, s.path)
			}
		}
		above = append(above, s)
	}
	return nil
}
