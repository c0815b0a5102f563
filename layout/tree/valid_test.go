package tree

import (
	"path"
	"slices"
	"strings"
	"testing"
)

func TestValidPath(t *testing.T) {
	long := strings.Repeat("n", maxName)
	for _, p := range []string{
		"a", "a/b/c", "-dash", "ü/日本語", "a b", "with\"quote", "...", "..a/b..", ".hidden", "C:", "aux", "a:b",
		long, long + "/" + long, ".mpack-partially",
	} {
		if err := ValidPath(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/../b", "../a", "a/..", `a\b`, `..\a`, "a\x00b", "a\nb", "a\x7f", "a\u0085b",
		"a\xffb", long + "n", strings.Repeat("a/", maxPath/2) + "a", ".mpack-partial", "a/.mpack-partial/b", ".MPACK-Partial",
	} {
		if err := ValidPath(p); err == nil {
			t.Errorf("%q is taken for a valid path", p)
		}
	}
}

func TestValidLink(t *testing.T) {
	for _, l := range [][2]string{
		{"a", "b"}, {"a", "."}, {"d/a", "../b"}, {"d/a", ".."}, {"d/e/a", "../../b/c"}, {"a", "d/e"}, {"a", "..b"},
	} {
		if err := ValidLink(l[0], l[1]); err != nil {
			t.Error(err)
		}
	}
	for _, l := range [][2]string{
		{"a", ""}, {"a", "/"}, {"a", "/etc/passwd"}, {"a", ".."}, {"a", "../b"}, {"d/a", "../../b"}, {"d/a", "../.."}, {"a", "b/../../c"},
		{"a", "./b"}, {"a", "b/"}, {"a", "b//c"}, {"a", `..\b`}, {"a", "b\x00"}, {"a", "\xff"}, {"a", strings.Repeat("n", maxName+1)},
		{"a", strings.Repeat("n/", maxPath/2) + "n"},
	} {
		if err := ValidLink(l[0], l[1]); err == nil {
			t.Errorf("%q -> %q is taken for a valid link", l[0], l[1])
		}
	}
}

func TestValidSet(t *testing.T) {
	set := func(paths ...string) (es []Entry) {
		for _, p := range paths {
			e := Entry{Path: p}
			if rest, ok := strings.CutSuffix(p, "@"); ok {
				e.Path, e.Kind = rest, Symlink
			} else if rest, ok := strings.CutSuffix(p, "/"); ok {
				e.Path, e.Kind = rest, Dir
			}
			es = append(es, e)
		}
		return es
	}
	for _, es := range [][]Entry{nil, set("a"), set("a", "b/c", "b/d", "b/e/f"), set("a-b", "a/b"), set("a@", "b/"), set("A", "a"), set("a", "aa", "aa-", "ab", "b/a", "b/aa")} {
		if err := ValidSet(es); err != nil {
			t.Error(err)
		}
	}
	for _, es := range [][]Entry{
		set("a", "a"), set("b", "a"), set("a", "a/b"), set("a@", "a/b"), set("a/", "a/b"), set("a", "a-b", "a/b"),
		set("a@", "a/b/c/d"), set("d/a", "d/a/b/c"), set("a", "a-", "a-/b", "a-/c", "a/b"), set("a", "a b", "a b!", "a b/c"),
	} {
		if err := ValidSet(es); err == nil {
			t.Errorf("%v is taken for a valid set", es)
		}
	}
}

func FuzzValidPath(f *testing.F) {
	for _, p := range []string{"a/b", "../a", "a//b", "/a", `a\b`, "a/../b", "a\x00", ".mpack-partial/x", "ü"} {
		f.Add(p, p)
	}
	f.Fuzz(func(t *testing.T, p, target string) {
		if ValidPath(p) != nil {
			return
		}
		if path.Clean(p) != p || path.IsAbs(p) || p == "." || strings.HasPrefix(p, "../") || p == ".." || strings.ContainsAny(p, "\\\x00") {
			t.Errorf("%q is taken for a valid path", p)
		}
		if name, err := local(p); err == nil && slices.Contains(parents(name), "..") {
			t.Errorf("%q is written below ..", p)
		}
		if ValidLink(p, target) != nil {
			return
		}
		if to := path.Join(path.Dir("/root/"+p), target); path.IsAbs(target) || (to != "/root" && !strings.HasPrefix(to, "/root/")) {
			t.Errorf("%q -> %q leads to %s", p, target, to)
		}
	})
}
