package layout_test

import (
	"os"
	"path/filepath"
	"testing"

	"mpack/layout"
	"mpack/layout/tensor"
)

func TestCompareNamesFilesAndTensors(t *testing.T) {
	dir, b := sample(t), &blobs{}
	p1 := pack(t, dir, layout.PackOptions{}, b)
	write(t, dir, "model.safetensors", safetensors(3<<20, 1, 50, 3, 4, 5))
	write(t, dir, "new.txt", []byte("new"))
	if err := os.Remove(filepath.Join(dir, "empty")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "exactly-a-chunk"), filepath.Join(dir, "renamed")); err != nil {
		t.Fatal(err)
	}
	p2 := pack(t, dir, layout.PackOptions{}, b)
	d := layout.Compare(p1.Index, p2.Index)
	files := map[string]layout.Change{}
	for _, f := range d.Files {
		files[f.Path] = f.Change
	}
	for path, want := range map[string]layout.Change{"model.safetensors": layout.Changed, "new.txt": layout.Added, "empty": layout.Removed, "renamed": layout.Renamed} {
		if files[path] != want {
			t.Errorf("%s: %q, want %q", path, files[path], want)
		}
	}
	if len(files) != 4 {
		t.Errorf("changes: %v", files)
	}
	tensors := map[string]layout.TensorChange{}
	for _, c := range d.Tensors {
		tensors[c.Name] = c
	}
	if len(tensors) != 2 || tensors["t001"].Change != layout.Changed || tensors["t004"].Change != layout.Added {
		t.Errorf("tensors: %v", tensors)
	}
	if n := tensors["t001"].NewBytes; n != 3<<20 {
		t.Errorf("t001: %d new bytes", n)
	}
	if d.Fetch < 6<<20 || d.Fetch > 7<<20 {
		t.Errorf("a pull costs %d bytes", d.Fetch)
	}
	if same := layout.Compare(p2.Index, p2.Index); len(same.Files) != 0 || same.Fetch != 0 || len(same.Tensors) != 0 {
		t.Errorf("an index differs from itself: %+v", same)
	}
}

func TestCompareNamesTensorsThatSwapTheirContent(t *testing.T) {
	dir, b := t.TempDir(), &blobs{}
	write(t, dir, "m.safetensors", safetensors(3<<20, 1, 2, 3, 4))
	p1 := pack(t, dir, layout.PackOptions{}, b)
	write(t, dir, "m.safetensors", safetensors(3<<20, 1, 3, 2, 4))
	d := layout.Compare(p1.Index, pack(t, dir, layout.PackOptions{}, b).Index)
	if len(d.Tensors) != 2 || d.Tensors[0].Name != "t001" || d.Tensors[1].Name != "t002" || d.Tensors[0].Change != layout.Changed || d.NewBytes != 0 {
		t.Errorf("want t001 and t002 changed, no new bytes: %+v", d)
	}
	// One that only moves has not changed.
	write(t, dir, "m.safetensors", safetensors(3<<20, 1, 2, 3, 4, 5))
	d = layout.Compare(p1.Index, pack(t, dir, layout.PackOptions{}, b).Index)
	if len(d.Tensors) != 1 || d.Tensors[0].Name != "t004" {
		t.Errorf("want t004 added: %+v", d.Tensors)
	}
}

func TestCompareNamesTensorsOfAnotherShape(t *testing.T) {
	ix := func(shape ...int64) *layout.Index {
		f := layout.File{Path: "m.safetensors", Mode: layout.ModeFile, Size: 12, SHA256: layout.Hash{byte(len(shape))}}
		f.Tensors = []tensor.Tensor{{Name: "a", DType: "U8", Shape: []int64{4}, Size: 4}, {Name: "b", DType: "U8", Shape: shape, Offset: 4, Size: 8}}
		return &layout.Index{Files: []layout.File{f}, Chunks: []layout.Chunk{{Size: 12}}}
	}
	d := layout.Compare(ix(8), ix(2, 4))
	if len(d.Tensors) != 1 || d.Tensors[0].Name != "b" || d.Tensors[0].Change != layout.Changed {
		t.Errorf("want b changed: %+v", d.Tensors)
	}
}

func TestCompareTakesEmptyTensorsForTheSame(t *testing.T) {
	ix := func(at int64) *layout.Index {
		f := layout.File{Path: "m.safetensors", Mode: layout.ModeFile, Size: 12, SHA256: layout.Hash{byte(at)}}
		f.Tensors = []tensor.Tensor{{Name: "none", DType: "U8", Shape: []int64{0}, Offset: at}}
		return &layout.Index{Files: []layout.File{f}, Chunks: []layout.Chunk{{Size: 12}}}
	}
	if d := layout.Compare(ix(3), ix(7)); len(d.Files) != 1 || len(d.Tensors) != 0 {
		t.Errorf("want the file changed, and no tensor: %+v", d)
	}
}
