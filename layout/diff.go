package layout

import (
	"slices"
	"sort"

	"mpack/layout/tensor"
)

// Difference is what one index has that another has not. Bytes are counted in
// chunks: of a chunk in which one bit differs, all bytes do.
type Difference struct {
	Files   []FileChange   // by path
	Tensors []TensorChange // by file and offset; of files that both or only b have

	Bytes     int64 // of b's stream
	NewBytes  int64 // of those, in chunks that a has not
	NewChunks int   // distinct chunks of b that a has not
	Fetch     int64 // encoded bytes of those chunks: what a pull of b costs one who has a
}

// Change is what became of a file or tensor.
type Change string

// The changes there are.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
	Renamed Change = "renamed" // the same content under another path
)

// FileChange is a file that differs.
type FileChange struct {
	Path     string `json:"path"`
	Change   Change `json:"change"`
	From     string `json:"from,omitempty"` // of a renamed file
	OldSize  int64  `json:"oldSize"`
	Size     int64  `json:"size"`
	NewBytes int64  `json:"newBytes"` // in chunks that a has not
}

// TensorChange is a tensor that differs.
type TensorChange struct {
	File     string  `json:"file"`
	Name     string  `json:"name"`
	Change   Change  `json:"change"`
	DType    string  `json:"dtype"`
	Shape    []int64 `json:"shape"`
	Size     int64   `json:"size"`
	NewBytes int64   `json:"newBytes"`
}

// Compare says how b differs from a. It needs the indexes alone.
func Compare(a, b *Index) *Difference {
	known := make(map[Hash]bool, len(a.Chunks))
	for i := range a.Chunks {
		known[a.Chunks[i].SHA256] = true
	}
	d := &Difference{Bytes: b.Size()}
	counted := map[Hash]bool{}
	for i := range b.Chunks {
		c := &b.Chunks[i]
		if known[c.SHA256] {
			continue
		}
		d.NewBytes += int64(c.Size)
		if !counted[c.SHA256] {
			counted[c.SHA256] = true
			d.NewChunks++
			d.Fetch += int64(c.Length)
		}
	}

	was, is := positionsOf(a), positionsOf(b)
	// fresh counts the bytes of a run of b's stream that lie in chunks a has not.
	fresh := func(from, size int64) (n int64) {
		for _, p := range is.cuts(from, size) {
			if !known[p.sum] {
				n += p.to - p.from
			}
		}
		return n
	}
	old := make(map[string]int, len(a.Files))
	for i := range a.Files {
		old[a.Files[i].Path] = i
	}
	gone := map[Hash]*File{} // removed files by content, for renames
	there := make(map[string]bool, len(b.Files))
	for i := range b.Files {
		there[b.Files[i].Path] = true
	}
	for i := range a.Files {
		f := &a.Files[i]
		if !there[f.Path] && f.Regular() && f.Size > 0 {
			gone[f.SHA256] = f
		}
	}
	renamed := map[string]bool{}
	for i := range b.Files {
		f, start := &b.Files[i], is.files[i]
		var o *File
		var oldStart int64
		if at, ok := old[f.Path]; ok {
			o, oldStart = &a.Files[at], was.files[at]
		}
		if o != nil && o.SHA256 == f.SHA256 && o.Mode == f.Mode {
			continue
		}
		c := FileChange{Path: f.Path, Change: Changed, Size: f.Size}
		if f.Regular() {
			c.NewBytes = fresh(start, f.Size)
		}
		switch {
		case o != nil:
			c.OldSize = o.Size
		case gone[f.SHA256] != nil && f.Regular():
			from := gone[f.SHA256]
			delete(gone, f.SHA256)
			renamed[from.Path] = true
			c.Change, c.From, c.OldSize = Renamed, from.Path, from.Size
		default:
			c.Change = Added
		}
		d.Files = append(d.Files, c)
		if c.Change != Renamed {
			d.Tensors = append(d.Tensors, compareTensors(o, f, func(t *tensor.Tensor) int64 {
				return fresh(start+t.Offset, t.Size)
			}, func(t, before *tensor.Tensor) bool {
				return t.Size == before.Size && slices.Equal(is.cuts(start+t.Offset, t.Size), was.cuts(oldStart+before.Offset, t.Size))
			})...)
		}
	}
	for i := range a.Files {
		f := &a.Files[i]
		if !there[f.Path] && !renamed[f.Path] {
			d.Files = append(d.Files, FileChange{Path: f.Path, Change: Removed, OldSize: f.Size})
		}
	}
	sort.Slice(d.Files, func(i, j int) bool { return d.Files[i].Path < d.Files[j].Path })
	return d
}

// positions say where in the stream of an index things are.
type positions struct {
	*Index
	files  []int64 // where each file begins
	chunks []int64 // where each chunk begins, and the last one ends
}

func positionsOf(ix *Index) positions {
	p := positions{ix, make([]int64, len(ix.Files)), make([]int64, len(ix.Chunks)+1)}
	var pos int64
	for i := range ix.Files {
		p.files[i] = pos
		if ix.Files[i].Regular() {
			pos += ix.Files[i].Size
		}
	}
	for i := range ix.Chunks {
		p.chunks[i+1] = p.chunks[i] + int64(ix.Chunks[i].Size)
	}
	return p
}

// cut is a part of a chunk's bytes.
type cut struct {
	sum      Hash
	from, to int64
}

// cuts returns what a run of the stream is made of.
func (p positions) cuts(from, size int64) (out []cut) {
	to := from + size
	i := sort.Search(len(p.Chunks), func(i int) bool { return p.chunks[i+1] > from })
	for ; size > 0 && i < len(p.Chunks) && p.chunks[i] < to; i++ {
		start := p.chunks[i]
		out = append(out, cut{p.Chunks[i].SHA256, max(from, start) - start, min(to, p.chunks[i+1]) - start})
	}
	return out
}

// compareTensors lists the tensors of f that o, which may be nil, has not or
// has otherwise, and those that f has no more. Of a tensor of f, fresh counts
// the bytes in chunks that a has not, and same says whether it is made as one
// of o was, if of bytes that a has.
func compareTensors(o, f *File, fresh func(*tensor.Tensor) int64, same func(t, before *tensor.Tensor) bool) []TensorChange {
	had := map[string]*tensor.Tensor{}
	if o != nil {
		for i := range o.Tensors {
			had[o.Tensors[i].Name] = &o.Tensors[i]
		}
	}
	var out []TensorChange
	for i := range f.Tensors {
		t := &f.Tensors[i]
		c := TensorChange{f.Path, t.Name, Changed, t.DType, t.Shape, t.Size, fresh(t)}
		before := had[t.Name]
		delete(had, t.Name)
		switch {
		case before == nil:
			c.Change = Added
		case before.DType == t.DType && slices.Equal(before.Shape, t.Shape) && c.NewBytes == 0 && same(t, before):
			continue
		}
		out = append(out, c)
	}
	if o != nil {
		for i := range o.Tensors {
			if t := &o.Tensors[i]; had[t.Name] != nil {
				out = append(out, TensorChange{f.Path, t.Name, Removed, t.DType, t.Shape, t.Size, 0})
			}
		}
	}
	return out
}
