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
	starts := make([]int64, len(b.Chunks)+1)
	for i := range b.Chunks {
		c := &b.Chunks[i]
		starts[i+1] = starts[i] + int64(c.Size)
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
	// fresh counts the bytes of a run of b's stream that lie in chunks a has not.
	fresh := func(from, size int64) (n int64) {
		to := from + size
		i := sort.Search(len(b.Chunks), func(i int) bool { return starts[i+1] > from })
		for ; i < len(b.Chunks) && starts[i] < to; i++ {
			if !known[b.Chunks[i].SHA256] {
				n += min(to, starts[i+1]) - max(from, starts[i])
			}
		}
		return n
	}

	old := make(map[string]*File, len(a.Files))
	for i := range a.Files {
		old[a.Files[i].Path] = &a.Files[i]
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
	var pos int64
	for i := range b.Files {
		f := &b.Files[i]
		start := pos
		if f.Regular() {
			pos += f.Size
		}
		o := old[f.Path]
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
			d.Tensors = append(d.Tensors, compareTensors(o, f, start, fresh)...)
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

// compareTensors lists the tensors of f, at start in the stream, that o, which
// may be nil, has not or has otherwise, and those that f has no more.
func compareTensors(o, f *File, start int64, fresh func(from, size int64) int64) []TensorChange {
	had := map[string]*tensor.Tensor{}
	if o != nil {
		for i := range o.Tensors {
			had[o.Tensors[i].Name] = &o.Tensors[i]
		}
	}
	var out []TensorChange
	for i := range f.Tensors {
		t := &f.Tensors[i]
		c := TensorChange{f.Path, t.Name, Changed, t.DType, t.Shape, t.Size, fresh(start+t.Offset, t.Size)}
		before := had[t.Name]
		delete(had, t.Name)
		switch {
		case before == nil:
			c.Change = Added
		case before.DType == t.DType && slices.Equal(before.Shape, t.Shape) && c.NewBytes == 0:
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
