package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"mpack/layout/chunk"
	"mpack/layout/sums"
	"mpack/layout/tree"
)

// Fetch opens length bytes of a layer from offset on. A source that cannot
// serve a part may return the whole layer from its start, and says so.
type Fetch func(ctx context.Context, layer int, offset, length int64) (body io.ReadCloser, whole bool, err error)

// Final is what an error of Fetch may be, to say whether asking again is in
// vain. Any other error is taken for one that passes, but for a few times only.
type Final interface {
	error
	Final() bool
}

// AssembleOptions are how a tree is put together. The zero value is good.
type AssembleOptions struct {
	Select   func(path string) bool // which files; nil: all
	Seeds    []*tree.Tree           // where chunks may lie already, beside the destination itself
	Workers  int                    // layers fetched and decoded at once; 0: one a CPU, 4 to 12
	Progress Progress

	// Store, if not nil, is where files are looked for first, and what gets
	// those that were not there. Stored are the indexes of artifacts whose files
	// may be in it: of them chunks of other versions are taken.
	Store  *FileStore
	Stored iter.Seq[*Index]
}

// Assembled is what Assemble did.
type Assembled struct {
	Files   int   // regular files written
	Kept    int   // regular files that were right already
	Fetched int64 // encoded bytes that chunks came from
	Local   int64 // raw bytes found in the destination, the seeds and the store
	Shared  int64 // raw bytes of files that are one with the store's, by reflink or hard link
	Damaged int   // files of the store that were not what their names say
	Unkept  error // why the store did not get every file; nil: it has them
}

// Assemble makes the directory of w hold the files of the index. Files that
// are right already stay untouched; the others come from the store, if it has
// them. Of the rest, chunks come from what was fetched before an interruption,
// then from the old files, the seeds and other files of the store, then
// through fetch. Every file is checked as a whole before it gets its name, and
// every chunk before it is written, by its SHA-256; but what is fetched for a
// file of 4 MiB or more whose states are known is checked there, by the file's
// SHA-256, and chunk by chunk only if that is wrong. Files in the directory
// that the index does not know are left alone.
//
// It holds at most 40 MiB and 5 MiB a worker, whatever the artifact's size.
func Assemble(ctx context.Context, ix *Index, layers []Layer, w *tree.Writer, fetch Fetch, o AssembleOptions) (*Assembled, error) {
	if o.Workers <= 0 {
		o.Workers = min(max(4, runtime.GOMAXPROCS(0)), 12)
	}
	a := &assembly{ix: ix, layers: layers, w: w, fetch: fetch, opts: o}
	a.commits.SetLimit(commits)
	a.plan()
	for _, step := range []func(context.Context) error{a.keep, a.take, a.resume, a.seed, a.fetchAll, a.mend, a.rest} {
		if err := step(ctx); err != nil {
			_ = a.commits.Wait() // err is the cause, or as good as what they met
			a.closeAll()
			return nil, err
		}
	}
	return &a.result, nil
}

type assembly struct {
	ix     *Index
	layers []Layer
	w      *tree.Writer
	fetch  Fetch
	opts   AssembleOptions
	result Assembled

	targets []*target // selected regular files, in stream order
	starts  []int64   // of each chunk in the stream
	mending bool      // what was wrong is fetched again, and every chunk verified at once

	commits errgroup.Group // of files that have all their bytes
	mu      sync.Mutex
	wrong   []*target // that have all their bytes, of which some are wrong
	fetched atomic.Int64
	local   atomic.Int64
}

// target is a regular file to be written.
type target struct {
	*File
	start       int64 // in the stream
	first, last int   // chunks it lies in, last exclusive
	right       bool  // is there already

	mu      sync.Mutex
	f       *os.File // of a large file, while it is being written
	inStore bool     // f is the store's work file, not the destination's
	have    []bool   // chunks whose bytes are in the part, from first
	absent  []int32  // chunks that are not, of each window; nil: windows are not checked
	ready   []int    // windows that are there and to be checked
	wrong   bool     // a window is not what it should be
	missing atomic.Int32
}

// plan lists the files and where they lie in the stream.
func (a *assembly) plan() {
	a.starts = make([]int64, len(a.ix.Chunks)+1)
	for i := range a.ix.Chunks {
		a.starts[i+1] = a.starts[i] + int64(a.ix.Chunks[i].Size)
	}
	var pos int64
	var files, bytes int64
	for i := range a.ix.Files {
		f := &a.ix.Files[i]
		if !f.Regular() {
			continue
		}
		start := pos
		pos += f.Size
		if a.opts.Select != nil && !a.opts.Select(f.Path) {
			continue
		}
		t := &target{File: f, start: start}
		if f.Size > 0 {
			t.first = sort.Search(len(a.ix.Chunks), func(i int) bool { return a.starts[i+1] > start })
			t.last = sort.Search(len(a.ix.Chunks), func(i int) bool { return a.starts[i] >= pos })
		}
		a.targets = append(a.targets, t)
		files++
		bytes += f.Size
	}
	a.opts.Progress.add(Delta{TotalFiles: files, TotalBytes: bytes})
}

// key names the work file: by path, so that two files with one content do not
// share it, and by content, so that another version does not. It is made when
// it is needed: there may be millions of files.
func (t *target) key() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s", t.Path, t.SHA256)
	return Hash(h.Sum(nil)).String()[:40]
}

// keep finds the files that are right already.
func (a *assembly) keep(ctx context.Context) error {
	return a.each(ctx, a.targets, func(ctx context.Context, t *target) error {
		f, fi, err := a.w.Existing(t.Path)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("%s: %w", t.Path, err)
		}
		defer f.Close()
		if fi.Size() != t.Size {
			return nil
		}
		same, err := t.isIn(ctx, f, a.opts.Workers)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil || !same {
			return nil // what cannot be read is replaced
		}
		if err := a.w.SetExec(t.Path, t.Mode == ModeExec); err != nil {
			return err
		}
		t.right = true
		a.mu.Lock()
		a.result.Kept++
		a.mu.Unlock()
		a.opts.Progress.add(Delta{Files: 1, Bytes: t.Size, Deduped: t.Size})
		a.put(ctx, t)
		return nil
	})
}

// take gets whole files out of the store.
func (a *assembly) take(ctx context.Context) error {
	if a.opts.Store == nil {
		return nil
	}
	var small, large []*target
	for _, t := range a.missing() {
		switch {
		case t.Size >= ownRun:
			large = append(large, t)
		case t.Size > 0:
			small = append(small, t)
		}
	}
	take := func(ctx context.Context, t *target) error {
		how, err := a.opts.Store.take(ctx, a.w, t.File, t.key(), false)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Path, err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		switch how {
		case missing:
			return nil
		case damaged:
			a.result.Damaged++
			return nil
		case shared:
			a.result.Shared += t.Size
		}
		t.right = true
		a.result.Files++
		a.local.Add(t.Size)
		a.opts.Progress.add(Delta{Files: 1, Bytes: t.Size, Deduped: t.Size})
		return nil
	}
	if err := a.each(ctx, large, take); err != nil {
		return err
	}
	return each(ctx, commits, small, take)
}

// put gives the store a file that has its name. A store that cannot take it,
// as its disk is full, is no reason to end a pull.
func (a *assembly) put(ctx context.Context, t *target) {
	if a.opts.Store == nil {
		return
	}
	shared, err := a.opts.Store.put(ctx, a.w, t.File)
	if err != nil {
		a.unkept(t, err)
	}
	if shared {
		a.mu.Lock()
		a.result.Shared += t.Size
		a.mu.Unlock()
	}
}

// onlyWriter and onlyReader keep io.Copy from finding a shortcut past the
// buffer; the reader also ends with its context.
type onlyWriter struct{ io.Writer }

type onlyReader struct {
	ctx context.Context
	r   io.Reader
}

func (r onlyReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// each calls do for every target from as many goroutines as there are workers.
func (a *assembly) each(ctx context.Context, ts []*target, do func(context.Context, *target) error) error {
	return each(ctx, a.opts.Workers, ts, do)
}

func each(ctx context.Context, workers int, ts []*target, do func(context.Context, *target) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, t := range ts {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(gctx, t) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// named is each, and waits until the files that do completes have their names.
func (a *assembly) named(ctx context.Context, ts []*target, do func(context.Context, *target) error) error {
	if err := a.each(ctx, ts, do); err != nil {
		return err
	}
	return a.commits.Wait()
}

// missing returns the targets that are not right yet.
func (a *assembly) missing() []*target {
	var ts []*target
	for _, t := range a.targets {
		if !t.right {
			ts = append(ts, t)
		}
	}
	return ts
}

// resume makes the work files and finds what an interrupted run left in them.
func (a *assembly) resume(ctx context.Context) error {
	ts := a.missing()
	for _, t := range ts {
		a.expect(t)
	}
	return a.named(ctx, ts, func(ctx context.Context, t *target) error {
		if t.Size < ownRun {
			return nil // small files are made when their bytes are there
		}
		f, resumed, err := a.part(t)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Path, err)
		}
		t.f = f
		if !resumed {
			return nil
		}
		there, err := a.scan(ctx, t)
		if err != nil {
			return err
		}
		a.local.Add(there)
		a.opts.Progress.add(Delta{Bytes: there, Deduped: there})
		if t.missing.Load() == 0 {
			return a.complete(ctx, t)
		}
		return nil
	})
}

// scan finds the chunks that are in the work file of t, and returns their raw
// bytes.
func (a *assembly) scan(ctx context.Context, t *target) (there int64, err error) {
	buf := make([]byte, chunk.Max)
	for i := t.first; i < t.last; i++ {
		if ctx.Err() != nil {
			return there, context.Cause(ctx)
		}
		c := &a.ix.Chunks[i]
		off := a.starts[i] - t.start
		if off < 0 || off+int64(c.Size) > t.Size {
			continue
		}
		if _, err := t.f.ReadAt(buf[:c.Size], off); err != nil {
			break
		}
		if sha256.Sum256(buf[:c.Size]) == c.SHA256 {
			if _, err := a.arrived(t, i); err != nil {
				return there, fmt.Errorf("%s: %w", t.Path, err)
			}
			there += int64(c.Size)
		}
	}
	return there, nil
}

// mend fetches again what is wrong in files that are.
func (a *assembly) mend(ctx context.Context) error {
	if len(a.wrong) == 0 {
		return nil
	}
	a.mending = true
	err := a.named(ctx, a.wrong, func(ctx context.Context, t *target) error {
		a.expect(t)
		there, err := a.scan(ctx, t)
		if err != nil {
			return err
		}
		a.opts.Progress.add(Delta{Bytes: there - t.Size, Retries: 1})
		if t.missing.Load() == 0 {
			return a.complete(ctx, t) // its chunks are right, so the index is not
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.fetchAll(ctx)
}

// verifiedLater reports whether a fetched chunk that belongs to the given
// places of the stream is verified with the files there, which saves its own
// hash.
func (a *assembly) verifiedLater(places []int32) bool {
	if a.mending {
		return false
	}
	for _, i := range places {
		for _, t := range a.targetsOf(int(i)) {
			if !t.right && t.absent == nil {
				return false
			}
		}
	}
	return true
}

// targetsOf returns the files that chunk number i has bytes of.
func (a *assembly) targetsOf(i int) []*target {
	start, end := a.starts[i], a.starts[i+1]
	first := sort.Search(len(a.targets), func(k int) bool { return a.targets[k].start+a.targets[k].Size > start })
	last := first
	for last < len(a.targets) && a.targets[last].start < end {
		last++
	}
	return a.targets[first:last]
}

// expect has all chunks of a file missing.
func (a *assembly) expect(t *target) {
	t.have = make([]bool, t.last-t.first)
	t.missing.Store(int32(t.last - t.first))
	t.ready, t.wrong = nil, false
	if t.Size < sums.Window || !t.hasStates() {
		return
	}
	t.absent = make([]int32, sums.Windows(t.Size))
	for i := t.first; i < t.last; i++ {
		for w, last := a.windows(t, i); w <= last; w++ {
			t.absent[w]++
		}
	}
}

// windows returns the first and the last window of a file that chunk number i
// has bytes of.
func (a *assembly) windows(t *target, i int) (first, last int) {
	from, to := max(a.starts[i], t.start), min(a.starts[i+1], t.start+t.Size)
	return int((from - t.start) / sums.Window), int((to - 1 - t.start) / sums.Window)
}

// arrived notes that chunk number i is in the work file of t, and reports
// whether it was the last. Windows are checked meanwhile, as many at once as
// the machine can, so that little is left to be done in the end.
func (a *assembly) arrived(t *target, i int) (all bool, err error) {
	t.mu.Lock()
	if t.have[i-t.first] {
		t.mu.Unlock()
		return false, nil
	}
	t.have[i-t.first] = true
	var ready []int
	if t.absent != nil {
		for w, last := a.windows(t, i); w <= last; w++ {
			if t.absent[w]--; t.absent[w] == 0 {
				t.ready = append(t.ready, w)
			}
		}
		if len(t.ready) >= sums.Lanes {
			ready, t.ready = t.ready, nil
		}
	}
	t.mu.Unlock()
	if ready != nil {
		if err := t.check(ready); err != nil {
			return false, err
		}
	}
	return t.missing.Add(-1) == 0, nil
}

// check checks windows of the work file.
func (t *target) check(windows []int) error {
	ok, err := t.checker(t.f).Check(windows)
	if !ok && err == nil {
		t.mu.Lock()
		t.wrong = true
		t.mu.Unlock()
	}
	return err
}

// part opens the work file of a large file: in the store, where it outlives a
// directory that is thrown away with a killed pod, else in the destination.
func (a *assembly) part(t *target) (f *os.File, resumed bool, err error) {
	if a.opts.Store != nil {
		f, resumed, err := a.opts.Store.part(t.File)
		if err == nil {
			t.inStore = true
			return f, resumed, a.w.Remove(t.key())
		}
		if !errors.Is(err, tree.ErrBusy) { // another pull has the file in its work, and may take longer
			a.unkept(t, err)
		}
	}
	return a.w.Part(t.key(), t.Size)
}

// unkept remembers why the store does not get a file.
func (a *assembly) unkept(t *target, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.result.Unkept == nil {
		a.result.Unkept = fmt.Errorf("%s: %w", t.Path, err)
	}
}

// write writes the bytes of chunk number i into every file that it belongs
// to, and returns those that have all their bytes now.
func (a *assembly) write(i int, b []byte) (full []*target, err error) {
	start, end := a.starts[i], a.starts[i+1]
	for _, t := range a.targetsOf(i) {
		if t.right || t.Size == 0 {
			continue
		}
		from, to := max(start, t.start), min(end, t.start+t.Size)
		if err := a.writePart(t, b[from-start:to-start], from-t.start); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path, err)
		}
		all, err := a.arrived(t, i)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path, err)
		}
		if all {
			full = append(full, t)
		}
	}
	return full, nil
}

func (a *assembly) writePart(t *target, b []byte, off int64) error {
	if t.f != nil {
		_, err := t.f.WriteAt(b, off)
		return err
	}
	f, _, err := a.w.Part(t.key(), t.Size)
	if err != nil {
		return err
	}
	if t.last-t.first == 1 {
		t.f = f // all its bytes are in this one chunk: complete takes it from here
	} else {
		defer f.Close()
	}
	_, err = f.WriteAt(b, off)
	return err
}

// complete checks a file whose bytes are all there and gives it its name.
func (a *assembly) complete(ctx context.Context, t *target) error {
	if t.f == nil {
		f, _, err := a.w.Part(t.key(), t.Size)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Path, err)
		}
		t.f = f
	}
	right := false
	var err error
	switch {
	case t.absent != nil:
		err = t.check(t.ready)
		right = !t.wrong
	case t.last-t.first == 1 && a.ix.Chunks[t.first].SHA256 == t.SHA256 && int64(a.ix.Chunks[t.first].Size) == t.Size:
		right = true
	default:
		right, err = t.isIn(ctx, t.f, 1)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path, err)
	}
	if !right && t.absent != nil && !a.mending {
		a.mu.Lock()
		a.wrong = append(a.wrong, t)
		a.mu.Unlock()
		return nil
	}
	if !right {
		name := t.f.Name()
		t.f.Close()
		t.f = nil
		if t.inStore {
			_ = os.Remove(name) // the next run finds out
		} else {
			_ = a.w.Remove(t.key())
		}
		return fmt.Errorf("%s: %w: its chunks do not make the SHA-256 that the index states", t.Path, ErrCorrupt)
	}
	f := t.f
	t.f = nil
	ctx = context.WithoutCancel(ctx) // the step that began it may end before it does
	a.commits.Go(func() error { return a.commit(ctx, t, f) })
	return nil
}

// commits is how many files are finished at once, beside what is fetched
// meanwhile. Where they are brought to the disk, file systems write their
// journal once for all who wait for it: of 20,000 small files, 4 at once took
// 9.8 s on ext4, 64 took 3.1 s.
const commits = 64

// commit gives the checked file f of t its name.
func (a *assembly) commit(ctx context.Context, t *target, f *os.File) error {
	how := missing
	var err error
	if t.inStore {
		var ours bool
		if ours, err = a.opts.Store.finish(f, t.File); err == nil {
			how, err = a.opts.Store.take(ctx, a.w, t.File, t.key(), ours)
		}
		if err == nil && how < copied {
			err = tree.ErrChanged
		}
	} else {
		err = a.w.Commit(f, t.key(), t.Path, t.Mode == ModeExec)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path, err)
	}
	t.right = true
	a.mu.Lock()
	a.result.Files++
	if how == shared {
		a.result.Shared += t.Size
	}
	a.mu.Unlock()
	a.opts.Progress.add(Delta{Files: 1})
	a.put(ctx, t)
	return nil
}

// closeAll lets the work files go; what is in them serves the next run.
func (a *assembly) closeAll() {
	for _, t := range a.targets {
		if t.f != nil {
			t.f.Close()
		}
	}
}

// rest makes what has no bytes: empty files, directories, symlinks.
func (a *assembly) rest(ctx context.Context) error {
	for _, t := range a.targets {
		if t.Size == 0 && !t.right {
			if err := a.complete(ctx, t); err != nil {
				return err
			}
		}
	}
	if err := a.commits.Wait(); err != nil {
		return err
	}
	for _, t := range a.targets {
		if !t.right {
			return fmt.Errorf("%s: %w: chunks are missing", t.Path, ErrCorrupt)
		}
	}
	for i := range a.ix.Files {
		f := &a.ix.Files[i]
		if a.opts.Select != nil && !a.opts.Select(f.Path) {
			continue
		}
		var err error
		switch f.Mode {
		case ModeDir:
			err = a.w.Mkdir(f.Path)
		case ModeSymlink:
			err = a.w.Symlink(f.Path, f.Link)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}
