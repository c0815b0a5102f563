package tree

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestNamesThatDifferBySpellingAlone(t *testing.T) {
	for _, c := range []struct {
		paths            string
		anyCase, anyForm bool
		want             string // of the error
	}{
		{"README README.md a readme", true, true, `"README" and "readme"`},
		{"README readme caf\u00e9 cafe\u0301", false, false, ""},
		{"README readme cafe\u0301 caf\u00e9", false, true, `"cafe` + "\u0301" + `" and "caf` + "\u00e9" + `"`},
		{"caf\u00e9 cafe\u0301", true, false, ""},
		{"CAFE\u0301 caf\u00e9", true, true, `and`},
		{"\u1fb3 \u03b1\u0345", true, true, "and"}, // an accent that is a letter in the other case
		{"D/a d/b", true, true, ""},
		{"D/a d/A", true, true, `"D/a" and "d/A"`},
		{"Data data-x data/a", true, true, `"Data" and "data/a"`},
		{"k \u212a", true, false, "and"},      // Kelvin
		{"\u03c3 \u03c2", true, false, "and"}, // sigma, and at the end of a word
	} {
		err := distinct(strings.FieldsSeq(c.paths), c.anyCase, c.anyForm)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, case %t, form %t: %v", c.paths, c.anyCase, c.anyForm, err)
		}
	}
}

// What is asked of the file system agrees with what it does.
func TestDistinctGoesByTheFileSystem(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir)
	defer w.Close()
	err := w.Distinct(slices.Values([]string{"A", "a"}))
	if put(w, "A", "one", false) != nil || put(w, "a", "two", false) != nil {
		t.Fatal("cannot write")
	}
	list, e := os.ReadDir(dir)
	if e != nil {
		t.Fatal(e)
	}
	if both := len(list) == 3; both != (err == nil) { // the work directory too
		t.Errorf("there are %v, but: %v", list, err)
	}
}
