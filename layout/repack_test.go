package layout_test

import (
	"path/filepath"
	"slices"
	"testing"

	"mpack/layout"
)

func TestRepackMovesWhatLiesInSparseLayers(t *testing.T) {
	b := &blobs{}
	dir := t.TempDir()
	write(t, dir, "a.safetensors", safetensors(1<<20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
	first := pack(t, dir, layout.PackOptions{}, b)
	write(t, dir, "a.safetensors", safetensors(1<<20, 1, 2, 3, 4, 5, 6, 7, 108, 109, 110))
	second := pack(t, dir, layout.PackOptions{Base: &layout.Base{Index: first.Index, Layers: first.Layers}}, b)
	if !slices.Contains(second.Reused, true) {
		t.Fatal("the second version uses no layer of the first")
	}

	same0, err := layout.Repack(t.Context(), second.Index, second.Layers, b.from(second.Layers), layout.RepackOptions{}, b.put)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(same0.Reused, false) || !slices.Equal(same0.Layers, second.Layers) {
		t.Errorf("dense enough, and yet rewritten: %v", same0.Layers)
	}

	dense, err := layout.Repack(t.Context(), second.Index, second.Layers, b.from(second.Layers), layout.RepackOptions{MinUse: 0.9}, b.put)
	if err != nil {
		t.Fatal(err)
	}
	for i, used := range dense.Index.Used(len(dense.Layers)) {
		if float64(used) < 0.9*float64(dense.Layers[i].Size) {
			t.Errorf("layer %d: %d of %d bytes are used", i, used, dense.Layers[i].Size)
		}
	}
	if dense.Index.ContentDigest() != second.Index.ContentDigest() {
		t.Error("another content digest")
	}
	out := filepath.Join(t.TempDir(), "out")
	assemble(t, dense, b, out, layout.AssembleOptions{})
	same(t, dir, out)
}

func TestRepackRefusesWhatIsCorrupt(t *testing.T) {
	b := &blobs{}
	dir := t.TempDir()
	write(t, dir, "a", random(1, 3<<20))
	p := pack(t, dir, layout.PackOptions{}, b)
	data := b.layers[p.Layers[0].Digest]
	data[len(data)/2] ^= 1
	if _, err := layout.Repack(t.Context(), p.Index, p.Layers, b.from(p.Layers), layout.RepackOptions{MinUse: 1.1}, b.put); err == nil {
		t.Error("a flipped bit was stored anew")
	}
}
