package layout_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"mpack/layout"
)

var update = flag.Bool("update", false, "write the test vectors anew")

const vector = "testdata/vector1"

// vectorTree writes the tree of the test vector; its README says the same in words.
func vectorTree(t *testing.T) string {
	dir := t.TempDir()
	write(t, dir, "config.json", []byte("{\"model_type\":\"vector\"}\n"))
	write(t, dir, "bin/run", []byte("#!/bin/sh\nexec true\n"))
	if err := os.Chmod(filepath.Join(dir, "bin/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../config.json", filepath.Join(dir, "bin/config")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Weights as training leaves them: exponents near one another, mantissas anything.
	header := `{"a":{"dtype":"BF16","shape":[64,512],"data_offsets":[0,65536]},"b":{"dtype":"F32","shape":[16384],"data_offsets":[65536,131072]}}`
	var model bytes.Buffer
	model.Write([]byte{byte(len(header)), 0, 0, 0, 0, 0, 0, 0})
	model.WriteString(header)
	x := uint32(1)
	next := func() uint32 { // xorshift32, Marsaglia 2003
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		return x
	}
	for range 32768 {
		v := next()
		model.Write([]byte{byte(v), byte(v>>8)&0x80 | 0x3c - byte(v>>16&3)})
	}
	for range 16384 {
		v := next()
		model.Write([]byte{byte(v), byte(v >> 8), byte(v >> 16), 0x3c - byte(v>>24&3)})
	}
	write(t, dir, "model.safetensors", model.Bytes())
	var text bytes.Buffer
	for i := range 4000 {
		fmt.Fprintf(&text, "{\"id\":%d,\"text\":\"line %d\"}\n", i, next()%1000)
	}
	write(t, dir, "rows.jsonl", text.Bytes())
	return dir
}

// TestVector holds the format still: what this version packs, and what every
// version must be able to read.
func TestVector(t *testing.T) {
	dir, b := vectorTree(t), &blobs{}
	p := pack(t, dir, layout.PackOptions{}, b)
	index, err := p.Index.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Layers) != 1 {
		t.Fatalf("%d layers", len(p.Layers))
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := z.DecodeAll(index, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"index.zst":      index,
		"index.jsonl":    plain,
		"layer0.zst":     b.layers[p.Layers[0].Digest],
		"content-digest": []byte(p.Index.ContentDigest().String() + "\n"),
	}
	for name, got := range files {
		path := filepath.Join(vector, name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what was packed; a new encoder changes digests of what is packed without a base: "+
				"if that is meant, go test ./layout -run Vector -update", name)
		}
	}

	stored, err := os.ReadFile(filepath.Join(vector, "index.zst"))
	if err != nil {
		t.Fatal(err)
	}
	ix, err := layout.ReadIndex(bytes.NewReader(stored), int64(len(stored)), p.Layers)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	assemble(t, &layout.Packed{Index: ix, Layers: p.Layers}, b, out, layout.AssembleOptions{})
	same(t, dir, out)
}
