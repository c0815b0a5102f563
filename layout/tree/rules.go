package tree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// ignoreFile holds rules of exclusion, in the directory that is walked.
const ignoreFile = ".mpackignore"

// maxIgnore is the most bytes that it has.
const maxIgnore = 1 << 20

// ignored is what nobody means to pack and what can be many times the size of
// the rest: the history of a cloned repository, and the bookkeeping of a
// download from the Hugging Face hub. "!.git" in the ignore file brings the
// first one back.
var ignored = []string{"**/.git", ".cache/huggingface"}

// Matcher returns a function that reports whether a path is wanted: it
// matches include (or include is empty) and does not match exclude. Patterns
// are those of a .dockerignore file: "*" stays within a component, "**" does
// not, "!" takes back what a pattern before it matched, and a pattern that
// matches a directory matches all below it. The function may be called from
// several goroutines at once.
func Matcher(include, exclude []string) (func(path string) bool, error) {
	r, err := newRules(include, exclude)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	dir, of := ".", verdict{}
	var verdictOf func(p string) verdict
	verdictOf = func(p string) verdict {
		if p == "." || p == "/" {
			return verdict{}
		}
		return r.judge(p, verdictOf(path.Dir(p)))
	}
	return func(p string) bool {
		mu.Lock()
		defer mu.Unlock()
		if d := path.Dir(p); d != dir { // paths mostly come sorted
			dir, of = d, verdictOf(d)
		}
		return r.judge(p, of).in
	}, nil
}

// rules are what to pack. The two sides are nil when they have no pattern.
type rules struct {
	include, exclude *patternmatcher.PatternMatcher
}

// verdict is what the rules say of a path.
type verdict struct {
	in                 bool // to be packed
	included, excluded bool
	include, exclude   patternmatcher.MatchInfo // for what lies below
}

func newRules(include, exclude []string) (*rules, error) {
	var r rules
	var err error
	if r.include, err = compile(include); err != nil {
		return nil, err
	}
	if r.exclude, err = compile(exclude); err != nil {
		return nil, err
	}
	return &r, nil
}

// readIgnore returns the patterns of an ignore file, none if there is no such
// file.
func readIgnore(name string) ([]string, error) {
	fi, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxIgnore { // who cloned the directory did not write it
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", name, maxIgnore)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ps, err := parseIgnore(io.LimitReader(f, maxIgnore))
	if err == nil {
		_, err = compile(ps)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return ps, nil
}

func parseIgnore(r io.Reader) ([]string, error) { return ignorefile.ReadAll(r) }

// compile makes a matcher of patterns, or nil of none. All that may be wrong
// with a pattern comes out here, not when a path first meets it.
func compile(patterns []string) (*patternmatcher.PatternMatcher, error) {
	var clean []string
	for _, p := range patterns {
		for _, r := range []string{"\x00", "\ufeff"} {
			if strings.Contains(p, r) {
				return nil, fmt.Errorf("pattern %q has the character %q", p, r)
			}
		}
		if !utf8.ValidString(p) {
			return nil, fmt.Errorf("pattern %q is not valid UTF-8", p)
		}
		// The space keeps "#" from being taken for a comment: these come from elsewhere too.
		ps, err := parseIgnore(strings.NewReader(" " + p))
		if err != nil {
			return nil, fmt.Errorf("pattern %.40q…: %w", p, err)
		}
		for _, p := range ps {
			// A matcher of the pattern alone compiles it as soon as it is asked.
			one, err := patternmatcher.New([]string{strings.TrimPrefix(p, "!")})
			if err == nil {
				_, err = one.MatchesOrParentMatches("a")
			}
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", p, err)
			}
		}
		clean = append(clean, ps...)
	}
	if len(clean) == 0 {
		return nil, nil
	}
	return patternmatcher.New(clean)
}

// judge says what the rules make of p, whose directory got the verdict parent.
func (r *rules) judge(p string, parent verdict) verdict {
	v := verdict{included: true}
	// The errors are those of bad patterns, which compile has refused.
	if r.include != nil {
		v.included, v.include, _ = r.include.MatchesUsingParentResults(p, parent.include)
	}
	if r.exclude != nil {
		v.excluded, v.exclude, _ = r.exclude.MatchesUsingParentResults(p, parent.exclude)
	}
	v.in = v.included && !v.excluded
	return v
}

// below reports whether something below the directory p, which got the
// verdict v, may be packed. It may err on the side of yes.
func (r *rules) below(p string, v verdict) bool {
	return (v.included || reaches(r.include, p, false)) && (!v.excluded || reaches(r.exclude, p, true))
}

// reaches reports whether one of the patterns, the negated ones or the
// others, may match a path below dir without matching dir.
func reaches(m *patternmatcher.PatternMatcher, dir string, negated bool) bool {
	dirs := strings.Split(dir, "/")
patterns:
	for _, p := range m.Patterns() {
		if p.Exclusion() != negated {
			continue
		}
		for i, part := range strings.Split(filepath.ToSlash(p.String()), "/") {
			if i == len(dirs) || strings.Contains(part, "**") {
				return true
			}
			if strings.ContainsAny(part, `[\`) {
				continue // patternmatcher and path.Match may differ
			}
			if ok, _ := path.Match(part, dirs[i]); !ok {
				continue patterns
			}
		}
		// No longer than dir: whether it matches is in dir's verdict already.
	}
	return false
}
