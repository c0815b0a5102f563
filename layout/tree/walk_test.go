package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// populate makes files (their content is their name), symlinks ("a -> b") and
// directories ("d/") in a new directory.
func populate(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		link, target, isLink := strings.Cut(n, " -> ")
		name := filepath.Join(dir, filepath.FromSlash(link))
		var err error
		switch {
		case isLink:
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				err = os.Symlink(strings.ReplaceAll(target, "DIR", dir), name)
			}
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(name, 0o755)
		default:
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				err = os.WriteFile(name, []byte(n), 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func ignoring(t *testing.T, dir, rules string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, ignoreFile), []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listing walks a directory and writes its entries as populate takes them.
func listing(t *testing.T, dir string, o Options) string {
	t.Helper()
	tr, err := Walk(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if err := ValidSet(tr.Entries()); err != nil {
		t.Error(err)
	}
	var names []string
	for _, e := range tr.Entries() {
		switch e.Kind {
		case Symlink:
			names = append(names, e.Path+" -> "+e.Link)
		case Dir:
			names = append(names, e.Path+"/")
		default:
			names = append(names, e.Path)
			f, err := tr.Open(e)
			if err != nil {
				t.Error(err)
				continue
			}
			b, err := io.ReadAll(f)
			f.Close()
			if err != nil || int64(len(b)) != e.Size {
				t.Errorf("%s: %d bytes of %d: %v", e.Path, len(b), e.Size, err)
			}
		}
	}
	return strings.Join(names, ", ")
}

func needsSymlinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symlinks need a privilege on Windows")
	}
}

func TestWalkKeeps(t *testing.T) {
	needsSymlinks(t)
	for _, c := range []struct {
		name, want string
		files      []string
		o          Options
		ignore     string
	}{
		{name: "files in byte order", files: []string{"b", "a/b", "a-b", "B", "ü", "a b"}, want: "B, a b, a-b, a/b, b, ü"},
		{name: "empty directories", files: []string{"a/b/", "c/", "d/e"}, want: "a/b/, c/, d/e"},
		{name: "links inside", files: []string{"f", "d/g", "l -> f", "d/l -> ../f", "m -> d", "n -> l"}, want: "d/g, d/l -> ../f, f, l -> f, m -> d, n -> l"},
		{name: "absolute links inside", files: []string{"f", "d/l -> DIR/f"}, want: "d/l -> ../f, f"},
		{name: "links out and in again", files: []string{"f", "d/l -> ../../REAL/f"}, want: "d/l -> ../f, f"},
		{name: "not git, not the hub's bookkeeping", files: []string{".git/HEAD", "sub/.git/HEAD", ".cache/huggingface/x", ".cache/y", "a"}, want: ".cache/y, a"},
		{name: "not unfinished files", files: []string{".mpack-partial/x", "d/.mpack-partial/x", "a"}, want: "a"},
		{name: "exclude", files: []string{"a.tmp", "b", "d/c.tmp", "d/e"}, o: Options{Exclude: []string{"*.tmp", "d/c.*"}}, want: "b, d/e"},
		{name: "include", files: []string{"a.json", "b", "d/c.json", "d/e"}, o: Options{Include: []string{"**/*.json"}}, want: "a.json, d/c.json"},
		{name: "include less exclude", files: []string{"a.json", "b.json"}, o: Options{Include: []string{"*.json"}, Exclude: []string{"b*"}}, want: "a.json"},
		{name: "ignore file", files: []string{"a", "b", "c/d", "c/e"}, ignore: "# comment\nb\nc\n!c/e\n", want: ".mpackignore, a, c/e"},
		{name: "ignore file that names itself", files: []string{"a"}, ignore: ".mpackignore\n", want: "a"},
		{name: "git brought back", files: []string{".git/HEAD", "a"}, ignore: "!.git\n", want: ".git/HEAD, .mpackignore, a"},
		{name: "ignore file of a stranger", files: []string{".git/HEAD", "a", "b/c"}, ignore: ".mpackignore\n**\n", o: Options{Strangers: true}, want: ".mpackignore, a, b/c"},
		{name: "git brought back, by a stranger or not", files: []string{".git/HEAD", "a"}, ignore: "a\n!.git\n", o: Options{Strangers: true}, want: ".git/HEAD, .mpackignore, a"},
		{name: "exclude over the ignore file", files: []string{"a", "b"}, ignore: "a\n!b\n", o: Options{Exclude: []string{"b"}}, want: ".mpackignore"},
		{name: "ignored broken link", files: []string{"a", "l -> gone"}, ignore: "l\n", want: ".mpackignore, a"},
		{name: "a directory whose files are all ignored is not empty", files: []string{"d/a", "b"}, o: Options{Exclude: []string{"d/a"}}, want: "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := populate(t, c.files...)
			real, err := filepath.EvalSymlinks(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range c.files { // links that name the directory by its own name
				if l, target, ok := strings.Cut(f, " -> "); ok && strings.Contains(target, "REAL") {
					name := filepath.Join(dir, l)
					if err := errors.Join(os.Remove(name), os.Symlink(strings.ReplaceAll(target, "REAL", filepath.Base(real)), name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if c.ignore != "" {
				ignoring(t, dir, c.ignore)
			}
			if got := listing(t, dir, c.o); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWalkFollowsLinksOut(t *testing.T) {
	needsSymlinks(t)
	out := populate(t, "file", "d/a", "d/l -> a", "d/up -> ../file", "d/sub/b")
	dir := populate(t, "own", "f -> "+out+"/file", "d -> "+out+"/d")
	// d/up leads out of the directory that was followed: it is a file.
	if got, want := listing(t, dir, Options{}), "d/a, d/l -> a, d/sub/b, d/up, f, own"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := listing(t, dir, Options{Exclude: []string{"d/sub", "f"}}), "d/a, d/l -> a, d/up, own"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A snapshot in the Hugging Face cache is a directory of links to blobs.
func TestWalkOfAHuggingFaceSnapshot(t *testing.T) {
	needsSymlinks(t)
	cache := populate(t, "blobs/6b86b273", "blobs/d4735e3a", "refs/main",
		"snapshots/abc/model.safetensors -> ../../blobs/6b86b273", "snapshots/abc/sub/config.json -> ../../../blobs/d4735e3a")
	if got, want := listing(t, filepath.Join(cache, "snapshots", "abc"), Options{}), "model.safetensors, sub/config.json"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWalkNamesWhatCannotBePacked(t *testing.T) {
	needsSymlinks(t)
	for _, c := range []struct {
		name  string
		files []string
		o     Options
		words []string
	}{
		{name: "broken", files: []string{"a", "l -> gone"}, words: []string{"broken symlinks", "l -> gone"}},
		{name: "circle", files: []string{"a -> b", "b -> a"}, words: []string{"broken symlinks", "a -> b", "b -> a"}},
		{name: "link to an ignored file", files: []string{"a", "l -> b", "b"}, o: Options{Exclude: []string{"b"}}, words: []string{"not packed", "l -> b"}},
		{name: "control character", files: []string{"a\nb"}, words: []string{"names", `a\nb`}},
		{name: "backslash", files: []string{`a\b`}, words: []string{"names", "a"}},
		{name: "many", files: many(30), words: []string{"broken", "and 10 more"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, populate(t, c.files...), c.o, c.words...)
		})
	}
	t.Run("not UTF-8", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a\xff"), nil, 0o644); err != nil {
			t.Skipf("the file system does not have such names: %v", err)
		}
		refused(t, dir, Options{}, "names", "UTF-8")
	})
	t.Run("a directory that a link in it leads to", func(t *testing.T) {
		out := populate(t, "d/a")
		if err := os.Symlink("..", filepath.Join(out, "d", "up")); err != nil {
			t.Fatal(err)
		}
		refused(t, populate(t, "in -> "+out+"/d"), Options{}, "directories that they lie in")
	})
	t.Run("socket", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "s") // a socket's path is short
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		refused(t, dir, Options{}, "sockets", "s")
		if got := listing(t, dir, Options{Exclude: []string{"s"}}); got != "" {
			t.Errorf("got %s", got)
		}
	})
}

func many(n int) (files []string) {
	for i := range n {
		files = append(files, fmt.Sprintf("l%02d -> gone", i))
	}
	return files
}

func refused(t *testing.T, dir string, o Options, words ...string) {
	t.Helper()
	tr, err := Walk(t.Context(), dir, o)
	if err == nil {
		tr.Close()
		t.Fatalf("packed: %v", tr.Entries())
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v: does not say %q", err, w)
		}
	}
}

func TestWalkTakesTheExecuteBit(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such bit")
	}
	dir := populate(t, "a", "b", "c")
	for n, mode := range map[string]os.FileMode{"a": 0o755, "b": 0o654, "c": 0o744} {
		if err := os.Chmod(filepath.Join(dir, n), mode); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := Walk(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for i, want := range []bool{true, false, true} {
		if e := tr.Entries()[i]; e.Exec != want {
			t.Errorf("%s: executable is %v", e.Path, e.Exec)
		}
	}
}

func TestOpenNoticesWhatHasChanged(t *testing.T) {
	needsSymlinks(t)
	for name, change := range map[string]func(p string) error{
		"longer":  func(p string) error { return os.WriteFile(p, []byte("longer than it was"), 0o644) },
		"shorter": func(p string) error { return os.Truncate(p, 0) },
		"removed": os.Remove,
		"a link":  func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
		"a directory": func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := populate(t, "file")
			tr, err := Walk(t.Context(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			if err := change(filepath.Join(dir, "file")); err != nil {
				t.Fatal(err)
			}
			if f, err := tr.Open(tr.Entries()[0]); !errors.Is(err, ErrChanged) {
				t.Errorf("opened (%v), %v", f, err)
			}
		})
	}
	dir := populate(t, "d/", "l -> d")
	tr, err := Walk(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for _, e := range tr.Entries() {
		if _, err := tr.Open(e); err == nil {
			t.Errorf("%s can be opened", e.Path)
		}
	}
}

func TestWalkRefusesBadPatternsAndEndsWithItsContext(t *testing.T) {
	dir := populate(t, "a")
	for _, o := range []Options{{Include: []string{"[a"}}, {Exclude: []string{"a\x00"}}, {Exclude: []string{"\xff"}}} {
		if _, err := Walk(t.Context(), dir, o); err == nil {
			t.Errorf("%+v is taken for a pattern", o)
		}
	}
	if _, err := Walk(t.Context(), ignoring(t, dir, "[a\n"), Options{}); err == nil || !strings.Contains(err.Error(), ignoreFile) {
		t.Errorf("bad ignore file: %v", err)
	}
	if _, err := Walk(t.Context(), filepath.Join(dir, "gone"), Options{}); err == nil {
		t.Error("walked what is not there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Walk(ctx, populate(t, "a"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		include, exclude []string
		in, out          string
	}{
		{in: "a b/c"},
		{include: []string{"*.json"}, in: "a.json", out: "b d/a.json"},
		{include: []string{"**/*.json"}, in: "a.json d/e/a.json", out: "b"},
		{include: []string{"d"}, in: "d/a d/e/f", out: "a e/d"},
		{exclude: []string{"d", "!d/keep"}, in: "a d/keep", out: "d/a"},
		{include: []string{"*"}, exclude: []string{"b*"}, in: "a", out: "b bc"},
	} {
		match, err := Matcher(c.include, c.exclude)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range strings.Fields(c.in) {
			if !match(p) {
				t.Errorf("include %q exclude %q: not %s", c.include, c.exclude, p)
			}
		}
		for _, p := range strings.Fields(c.out) {
			if match(p) {
				t.Errorf("include %q exclude %q: %s", c.include, c.exclude, p)
			}
		}
	}
}

func FuzzIgnore(f *testing.F) {
	for _, s := range []string{"a\n!a/b\n", "# c\n**/x\n", "[a-", "\ufeffa", "a\x00", "!", "!!a", " /a/ ", "\\", "a/**/b", "..", "*\n!*.json"} {
		f.Add(s, "a/b.json")
	}
	f.Fuzz(func(t *testing.T, text, p string) {
		patterns, err := parseIgnore(strings.NewReader(text))
		if err != nil {
			return
		}
		rules, err := newRules(nil, patterns)
		if err != nil || ValidPath(p) != nil {
			return
		}
		// What is to be packed is never in a directory that is not looked into.
		v := verdict{}
		looked := true
		dirs := strings.Split(p, "/")
		for i := range dirs {
			at := strings.Join(dirs[:i+1], "/")
			v = rules.judge(at, v)
			if i < len(dirs)-1 {
				looked = looked && rules.below(at, v)
			}
		}
		if v.in && !looked {
			t.Errorf("%q has %q packed, but not its directory looked into", text, p)
		}
	})
}

func TestIgnoreFilesAreSmallFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(name string) error
	}{
		{"large", func(name string) error { return os.WriteFile(name, make([]byte, maxIgnore+1), 0o644) }},
		{"directory", func(name string) error { return os.Mkdir(name, 0o755) }},
		{"device", func(name string) error { return os.Symlink(os.DevNull, name) }},
	} {
		dir := populate(t, "a")
		if err := c.make(filepath.Join(dir, ignoreFile)); err != nil {
			t.Logf("%s: %v", c.name, err)
			continue // Windows wants a privilege for symlinks
		}
		if _, err := Walk(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), ignoreFile) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
