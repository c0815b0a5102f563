package frame

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew; see testdata/README.md")

// vector is an entry of testdata/vectors.json.
type vector struct {
	Name    string `json:"name"` // of the files: NAME.raw, the chunk, and NAME.zst, its frames
	Element string `json:"element"`
	Level   Level  `json:"level"`
	Filter  string `json:"filter"`
	Decoded string `json:"decoded"` // SHA-256 of what a zstd decoder makes of the frames
}

var vectors = []struct {
	name, element string
	data          []byte
}{
	{"constant", "BF16", bytes.Repeat([]byte{0x3C}, 5003)},
	{"short", "F32", gaussian(F32, 100, 11)},
	{"text", "Bytes", text(11, 5003)},
	{"random", "Opaque", noise(11, 5003)},
	{"random-bytes", "Bytes", noise(11, 300)},
	{"bf16", "BF16", gaussian(BF16, 5003, 11)},
	{"bf16-edge", "BF16", edge(BF16, 5003)},
	{"bf16-repeats", "BF16", bytes.Repeat(gaussian(BF16, 1000, 11), 5)},
	{"f16", "F16", gaussian(F16, 5003, 11)},
	{"f32", "F32", gaussian(F32, 6003, 11)},
	{"f64", "F64", gaussian(F64, 10003, 11)},
	{"f8", "F8", gaussian(F8, 5003, 11)},
	{"f8-two-blocks", "F8", gaussian(F8, 128<<10+3, 11)},
	{"bf16-zeros", "BF16", append(gaussian(BF16, 5003, 11), make([]byte, 5000)...)},
}

// TestVectors holds the format: frames written once are read, and written
// alike, for ever. A failure to encode alike, after an update of the zstd
// library, means that the same content gets other digests: the old vectors
// must then still decode.
func TestVectors(t *testing.T) {
	const list = "testdata/vectors.json"
	byName := map[string]Element{}
	for _, e := range elements {
		byName[e.name] = e.el
	}
	if *update {
		var vs []vector
		for _, v := range vectors {
			e, d := newCoder(t, 0)
			enc, f, err := e.Encode(nil, v.data, byName[v.element])
			if err != nil {
				t.Fatal(err)
			}
			planes := make([]byte, len(v.data))
			if err := d.Decode(planes, enc, None); err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(planes)
			vs = append(vs, vector{v.name, v.element, DefaultLevel, f.String(), hex.EncodeToString(sum[:])})
			write(t, filepath.Join("testdata", v.name+".raw"), v.data)
			write(t, filepath.Join("testdata", v.name+".zst"), enc)
		}
		b, err := json.MarshalIndent(vs, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		write(t, list, append(b, '\n'))
	}
	for _, v := range readVectors(t, list) {
		raw, enc := decodeVector(t, "testdata", v)
		e, _ := newCoder(t, v.Level)
		again, f, err := e.Encode(nil, raw, byName[v.Element])
		if err != nil || f.String() != v.Filter || !bytes.Equal(again, enc) {
			t.Errorf("%s: encoded otherwise, filter %v, %v", v.Name, f, err)
		}
	}
}

// TestOldVectors holds what earlier encoders wrote, of the same chunks: it is
// read for ever.
func TestOldVectors(t *testing.T) {
	for _, v := range readVectors(t, "testdata/old/vectors.json") {
		decodeVector(t, "testdata/old", v)
	}
}

// readVectors reads a list of vectors.
func readVectors(t *testing.T, list string) (vs []vector) {
	t.Helper()
	if err := json.Unmarshal(read(t, list), &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 {
		t.Fatal("no vectors")
	}
	return vs
}

// decodeVector checks that v's frames, in the directory dir, decode to what it
// says, and returns the chunk and the frames.
func decodeVector(t *testing.T, dir string, v vector) (raw, enc []byte) {
	t.Helper()
	_, d := newCoder(t, v.Level)
	raw = read(t, filepath.Join("testdata", v.Name+".raw"))
	enc = read(t, filepath.Join(dir, v.Name+".zst"))
	f, err := ParseFilter(v.Filter)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(raw))
	if err := d.Decode(got, enc, None); err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != v.Decoded {
		t.Errorf("%s: decoded to other bytes", v.Name)
	}
	if err := d.Decode(got, enc, f); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%s: decoded to another chunk, %v", v.Name, err)
	}
	return raw, enc
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
