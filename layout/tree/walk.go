package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Options say which files of a directory make the tree. The zero value takes
// all but what is ignored.
//
// A path is packed if it matches Include (or Include is empty) and is not
// ignored. Ignored are, a later rule overruling an earlier one: ".git"
// anywhere and ".cache/huggingface", then what the directory's .mpackignore
// says, then Exclude. The rules are those of a .dockerignore file. The
// .mpackignore file itself is packed unless it names itself, so that a pulled
// directory can be pushed again with the same result.
type Options struct {
	Include, Exclude []string
	// Strangers tells that others may have put files there. A .mpackignore may
	// be theirs too: it hides nothing then, and only brings back.
	Strangers bool
}

// Tree is a directory as [Walk] found it.
type Tree struct {
	root    *os.Root
	dir     string // real path
	entries []Entry
	outside map[string]string // real paths of followed files, by path
}

// Walk finds the files of the directory dir.
//
// Symlinks are kept where they stay inside the tree; absolute ones, and ones
// that leave the tree on their way back into it, are made relative. A symlink
// that leads out is followed: a file becomes a file of the tree, a directory a
// directory with all in it, to which the same rules apply, except that a
// symlink inside it that stays inside it is kept. An empty directory is one
// that holds nothing at all, not one whose files are all ignored.
//
// What cannot be packed is an error that names it, all of it up to a number:
// broken symlinks, symlinks to ignored files (they would be broken), loops of
// directories, sockets, devices and pipes, what cannot be read, and names that
// [ValidPath] refuses. A collision of names on a file system that does not
// know upper from lower case is no error.
//
// The caller closes the tree.
func Walk(ctx context.Context, dir string, o Options) (*Tree, error) {
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return nil, err
	}
	fromFile, err := readIgnore(filepath.Join(real, ignoreFile))
	if err != nil {
		return nil, err
	}
	if o.Strangers {
		fromFile = slices.DeleteFunc(fromFile, func(p string) bool { return !strings.HasPrefix(p, "!") })
	}
	rules, err := newRules(o.Include, slices.Concat(ignored, fromFile, o.Exclude))
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, err
	}
	t := &Tree{root: root, dir: real, outside: map[string]string{}}
	w := &walker{ctx: ctx, rules: rules, tree: t, active: map[string]bool{}}
	err = w.walk(place{real: real, domain: real})
	if err == nil {
		slices.SortFunc(t.entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
		w.checkLinks()
		err = w.problems.err()
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return t, nil
}

// Entries returns the entries in byte order of their paths. The caller does
// not change them.
func (t *Tree) Entries() []Entry { return t.entries }

// Open opens the regular file behind an entry of kind [File], be it in the
// directory or where a symlink led. It fails with [ErrChanged] if the file has
// gone, or has another type or size than the walk found.
func (t *Tree) Open(e Entry) (*os.File, error) {
	if e.Kind != File {
		return nil, fmt.Errorf("%s is %s and cannot be opened", e.Path, e.Kind.noun())
	}
	lstat, open, name := t.root.Lstat, t.root.Open, filepath.FromSlash(e.Path)
	if real, ok := t.outside[e.Path]; ok {
		lstat, open, name = os.Lstat, os.Open, real
	}
	// Opening what has become a pipe would hang: look first.
	was, err := lstat(name)
	if err != nil {
		return nil, changed(e.Path, err)
	}
	if !was.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: no longer a regular file", e.Path, ErrChanged)
	}
	f, err := open(name)
	if err != nil {
		return nil, changed(e.Path, err)
	}
	now, err := f.Stat()
	switch {
	case err != nil:
	case !os.SameFile(was, now):
		err = fmt.Errorf("%s: %w: replaced", e.Path, ErrChanged)
	case now.Size() != e.Size:
		err = fmt.Errorf("%s: %w: %d bytes, not %d", e.Path, ErrChanged, now.Size(), e.Size)
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

// changed makes an ErrChanged of what says that a file has gone.
func changed(p string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%s: %w: removed", p, ErrChanged)
	}
	return err
}

// Close releases the directory. Files that Open returned stay open.
func (t *Tree) Close() error { return t.root.Close() }

type walker struct {
	ctx      context.Context
	rules    *rules
	tree     *Tree
	active   map[string]bool // real paths of the directories being walked
	problems problems
}

// place is a directory being walked.
type place struct {
	real    string // where it is
	path    string // where it goes in the tree; "" at the top
	domain  string // real path of the directory that its symlinks may not leave
	verdict verdict
}

func (w *walker) walk(d place) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if w.active[d.real] {
		w.problems.add(loop, d.path+" -> "+d.real)
		return nil
	}
	w.active[d.real] = true
	defer delete(w.active, d.real)

	f, err := os.Open(d.real)
	if err != nil {
		return w.failed(d.path+"/", err)
	}
	list, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return w.failed(d.path+"/", err)
	}
	if len(list) == 0 && d.verdict.in {
		w.add(Entry{Path: d.path, Kind: Dir})
	}
	for _, e := range list {
		if strings.EqualFold(e.Name(), workDir) {
			continue
		}
		if err := w.entry(d, e); err != nil {
			return err
		}
	}
	return nil
}

// entry takes up what a directory holds.
func (w *walker) entry(d place, e fs.DirEntry) error {
	sub := place{
		real:   d.real + string(filepath.Separator) + e.Name(),
		path:   e.Name(),
		domain: d.domain,
	}
	if d.path != "" {
		sub.path = d.path + "/" + e.Name()
	}
	sub.verdict = w.rules.judge(sub.path, d.verdict)
	switch typ := e.Type(); {
	case typ.IsDir():
		if !w.rules.below(sub.path, sub.verdict) {
			return nil
		}
		return w.walk(sub)
	case typ&fs.ModeSymlink != 0:
		if !sub.verdict.in && !w.rules.below(sub.path, sub.verdict) {
			return nil
		}
		return w.symlink(d, sub)
	case !sub.verdict.in:
	case typ.IsRegular():
		fi, err := e.Info()
		if err != nil {
			return w.failed(sub.path, err)
		}
		w.file(sub, fi)
	default:
		w.problems.add(special, sub.path)
	}
	return nil
}

func (w *walker) file(f place, fi fs.FileInfo) {
	perm := fi.Mode().Perm()
	if perm&0o444 != 0o444 && !readable(f.real) {
		w.problems.add(unreadable, f.path)
		return
	}
	if f.real != filepath.Join(w.tree.dir, filepath.FromSlash(f.path)) {
		w.tree.outside[f.path] = f.real // behind a symlink that was followed, to it or to a directory above
	}
	w.add(Entry{Path: f.path, Exec: perm&0o100 != 0, Size: fi.Size()})
}

// symlink keeps or follows the symlink s in the directory d.
func (w *walker) symlink(d, s place) error {
	raw, err := os.Readlink(s.real)
	if err != nil {
		return w.failed(s.path, err)
	}
	real, err := filepath.EvalSymlinks(s.real)
	if err != nil {
		switch {
		case !s.verdict.in:
		case errors.Is(err, fs.ErrPermission):
			w.problems.add(unreadable, s.path)
		default: // no such file, no such directory, a circle of links
			w.problems.add(broken, s.path+" -> "+raw)
		}
		return nil
	}
	to := real
	if goesStraight(raw) {
		if lexical := filepath.Join(d.real, raw); inside(d.domain, lexical) {
			to = lexical
		}
	}
	if inside(d.domain, to) {
		if !s.verdict.in {
			return nil
		}
		link, err := filepath.Rel(d.real, to)
		if err != nil {
			return err
		}
		link = filepath.ToSlash(link)
		w.add(Entry{Path: s.path, Kind: Symlink, Size: int64(len(link)), Link: link})
		return nil
	}
	fi, err := os.Stat(real)
	if err != nil {
		return w.failed(s.path, err)
	}
	s.real = real
	switch mode := fi.Mode(); {
	case mode.IsDir():
		if !w.rules.below(s.path, s.verdict) {
			return nil
		}
		s.domain = real
		return w.walk(s)
	case !s.verdict.in:
	case mode.IsRegular():
		w.file(s, fi)
	default:
		w.problems.add(special, s.path+" -> "+raw)
	}
	return nil
}

// goesStraight reports whether a link's target is relative and goes up at its
// beginning only. One that goes down and up again does not lead where its
// text says if a symlink lies on the way.
func goesStraight(target string) bool {
	if filepath.VolumeName(target) != "" || os.IsPathSeparator(target[0]) {
		return false
	}
	down := false
	for name := range strings.SplitSeq(filepath.ToSlash(target), "/") {
		switch name {
		case "", ".":
		case "..":
			if down {
				return false
			}
		default:
			down = true
		}
	}
	return true
}

// inside reports whether the clean path p is dir or lies below it.
func inside(dir, p string) bool {
	rest, ok := strings.CutPrefix(p, dir)
	return ok && (rest == "" || os.IsPathSeparator(rest[0]) || os.IsPathSeparator(dir[len(dir)-1]))
}

func (w *walker) add(e Entry) {
	err := ValidPath(e.Path)
	if err == nil && e.Kind == Symlink {
		err = ValidLink(e.Path, e.Link)
	}
	if err != nil {
		w.problems.add(misnamed, err.Error())
		return
	}
	w.tree.entries = append(w.tree.entries, e)
}

// failed sorts an error about p out: what cannot be read is collected with its
// like, anything else ends the walk.
func (w *walker) failed(p string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		w.problems.add(unreadable, p)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return changed(p, err)
	}
	return err
}

// checkLinks finds the symlinks whose target is not in the tree.
func (w *walker) checkLinks() {
	es := w.tree.entries
	for i := range es {
		if es[i].Kind == Symlink && !leads(es, &es[i]) {
			w.problems.add(dangling, es[i].Path+" -> "+es[i].Link)
		}
	}
}

// leads reports whether the symlink l leads to something among the sorted
// entries, if need be by way of other symlinks.
func leads(entries []Entry, l *Entry) bool {
	at, rest := path.Dir(l.Path), strings.Split(l.Link, "/")
	for hops := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := path.Join(at, name)
		if name == "." || name == ".." {
			at = next
			continue
		}
		switch e := find(entries, next); {
		case e != nil && e.Kind == Symlink:
			if hops++; hops > 40 { // as Linux does
				return false
			}
			rest = append(strings.Split(e.Link, "/"), rest...)
		case e != nil || holds(entries, next):
			at = next
		default:
			return false
		}
	}
	return true
}

// holds reports whether some of the sorted entries lie below dir.
func holds(entries []Entry, dir string) bool {
	dir += "/"
	i, _ := slices.BinarySearchFunc(entries, dir, func(e Entry, p string) int { return strings.Compare(e.Path, p) })
	return i < len(entries) && strings.HasPrefix(entries[i].Path, dir)
}

// problem is a reason why something cannot be packed.
type problem int

const (
	broken problem = iota
	dangling
	loop
	special
	unreadable
	misnamed
	nProblems
)

// problemNames head the lists of what has the problem.
var problemNames = [nProblems]string{
	broken:     "broken symlinks",
	dangling:   "symlinks to what is not packed",
	loop:       "symlinks to directories that they lie in",
	special:    "sockets, devices or pipes",
	unreadable: "not readable",
	misnamed:   "names that cannot be packed",
}

// named is how many names of each problem an error holds.
const named = 20

// problems are what cannot be packed, by reason.
type problems [nProblems][]string

func (ps *problems) add(p problem, what string) { ps[p] = append(ps[p], what) }

// err names all of them, or is nil if there are none.
func (ps *problems) err() error {
	var parts []string
	for p, list := range ps {
		if len(list) == 0 {
			continue
		}
		slices.Sort(list)
		more := ""
		if len(list) > named {
			more = fmt.Sprintf(" and %d more", len(list)-named)
			list = list[:named]
		}
		parts = append(parts, problemNames[p]+": "+strings.Join(list, ", ")+more)
	}
	if parts == nil {
		return nil
	}
	return errors.New(strings.Join(parts, "; ") + " (repair or remove them, or name them in " + ignoreFile + ")")
}
