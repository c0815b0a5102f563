package layout_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"mpack/layout"
	"mpack/layout/tensor"
)

func TestIndexRoundTrip(t *testing.T) {
	dir := sample(t)
	write(t, dir, "large.bin", random(1, 9<<20)) // has states
	p := pack(t, dir, layout.PackOptions{}, &blobs{})
	b, err := p.Index.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := layout.ReadIndex(bytes.NewReader(b), int64(len(b)), p.Layers)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, p.Index) {
		t.Error("the index that was read is not the one that was written")
	}
	if got.ContentDigest() != p.Index.ContentDigest() {
		t.Error("content digests differ")
	}
}

func compress(t testing.TB, s string) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll([]byte(s), nil)
}

func hexOf(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func TestHostileIndexesAreRefused(t *testing.T) {
	layers := []layout.Layer{{Size: 1000}}
	a, zero := hexOf("a"), hexOf("")
	file := func(path string) string {
		return `{"path":"` + path + `","mode":"100644","size":1,"sha256":"` + a + `"}` + "\n"
	}
	chunk := func(size, layer, offset, length int) string {
		return fmt.Sprintf(`{"sha256":"%s","size":%d,"layer":%d,"offset":%d,"length":%d}`+"\n", a, size, layer, offset, length)
	}
	head := func(files, chunks, size int64) string {
		return fmt.Sprintf(`{"mpack":"index/v1","files":%d,"chunks":%d,"size":%d}`+"\n", files, chunks, size)
	}
	link := func(path, to string) string {
		return fmt.Sprintf(`{"path":"%s","mode":"120000","size":%d,"sha256":"%s","link":"%s"}`+"\n", path, len(to), hexOf(to), to)
	}
	good := head(1, 1, 1) + file("a") + chunk(1, 0, 0, 10)
	large := func(state string) string {
		return head(1, 5, 5<<20) + strings.Replace(file("a"), `"size":1`, `"size":5242880,"states":1`, 1) + `"` + state + `"` + "\n" + strings.Repeat(chunk(1<<20, 0, 0, 10), 5)
	}
	for _, s := range []string{good, large(a)} {
		if _, err := layout.ReadIndex(bytes.NewReader(compress(t, s)), 1<<20, layers); err != nil {
			t.Fatalf("a good index: %v", err)
		}
	}
	for name, s := range map[string]string{
		"empty":                "",
		"other version":        `{"mpack":"index/v2"}` + "\n",
		"negative counts":      `{"mpack":"index/v1","files":-1,"chunks":0,"size":0}` + "\n",
		"fewer lines":          head(2, 1, 1) + file("a") + chunk(1, 0, 0, 10),
		"more lines":           good + chunk(1, 0, 0, 10),
		"counts without lines": head(1<<40, 1, 1) + file("a"),
		"parent directory":     head(1, 1, 1) + file("../a") + chunk(1, 0, 0, 10),
		"inner parent":         head(1, 1, 1) + file("x/../../a") + chunk(1, 0, 0, 10),
		"absolute path":        head(1, 1, 1) + file("/etc/passwd") + chunk(1, 0, 0, 10),
		"dot":                  head(1, 1, 1) + file(".") + chunk(1, 0, 0, 10),
		"work directory":       head(1, 1, 1) + file(".mpack-partial/x") + chunk(1, 0, 0, 10),
		"duplicate path":       head(2, 1, 2) + file("a") + file("a") + chunk(2, 0, 0, 10),
		"out of order":         head(2, 1, 2) + file("b") + file("a") + chunk(2, 0, 0, 10),
		"file under a file":    head(2, 1, 2) + file("a") + file("a/b") + chunk(2, 0, 0, 10),
		"file under a symlink": head(2, 1, 1) + link("a", "b") + file("a/b") + chunk(1, 0, 0, 10),
		"symlink out":          head(1, 0, 0) + link("a", "../b"),
		"absolute symlink":     head(1, 0, 0) + link("a", "/etc"),
		"symlink with lies":    head(1, 0, 0) + `{"path":"a","mode":"120000","size":3,"sha256":"` + a + `","link":"b"}` + "\n",
		"directory with bytes": head(1, 0, 0) + `{"path":"a","mode":"040000","size":3,"sha256":"` + zero + `"}` + "\n",
		"setuid":               head(1, 1, 1) + strings.Replace(file("a"), "100644", "104755", 1) + chunk(1, 0, 0, 10),
		"device":               head(1, 1, 1) + strings.Replace(file("a"), "100644", "020000", 1) + chunk(1, 0, 0, 10),
		"negative size":        head(1, 1, 1) + strings.Replace(file("a"), `"size":1`, `"size":-1`, 1) + chunk(1, 0, 0, 10),
		"absurd size":          head(1, 1, 1) + strings.Replace(file("a"), `"size":1`, `"size":9223372036854775807`, 1) + chunk(1, 0, 0, 10),
		"size is a lie":        head(1, 1, 5) + file("a") + chunk(1, 0, 0, 10),
		"chunks too short":     head(1, 0, 1) + file("a"),
		"chunks too long":      head(1, 2, 1) + file("a") + chunk(1, 0, 0, 10) + chunk(1, 0, 0, 10),
		"chunk of nothing":     head(1, 2, 1) + file("a") + chunk(0, 0, 0, 10) + chunk(1, 0, 0, 10),
		"chunk too large":      head(1, 1, 1) + file("a") + chunk(1<<30, 0, 0, 10),
		"chunk in no layer":    head(1, 1, 1) + file("a") + chunk(1, 1, 0, 10),
		"chunk past the layer": head(1, 1, 1) + file("a") + chunk(1, 0, 995, 10),
		"chunk before layer":   head(1, 1, 1) + file("a") + chunk(1, 0, -1, 10),
		"chunk of no length":   head(1, 1, 1) + file("a") + chunk(1, 0, 0, 0),
		"chunk expands":        head(1, 1, 1) + file("a") + chunk(1, 0, 0, 999),
		"unknown filter":       head(1, 1, 1) + file("a") + strings.Replace(chunk(1, 0, 0, 10), "}", `,"filter":"rot13"}`, 1),
		"upper-case hash":      head(1, 1, 1) + strings.Replace(file("a"), a, strings.ToUpper(a), 1) + chunk(1, 0, 0, 10),
		"short hash":           head(1, 1, 1) + strings.Replace(file("a"), a, a[:10], 1) + chunk(1, 0, 0, 10),
		"tensor outside":       head(1, 1, 1) + strings.Replace(file("a"), "}", `,"tensors":1}`, 1) + `{"name":"t","dtype":"U8","shape":[9],"offset":0,"size":9}` + "\n" + chunk(1, 0, 0, 10),
		"tensor overflows":     head(1, 1, 1) + strings.Replace(file("a"), "}", `,"tensors":1}`, 1) + `{"name":"t","dtype":"U8","shape":[9],"offset":9223372036854775807,"size":9}` + "\n" + chunk(1, 0, 0, 10),
		"tensors overlap":      head(1, 1, 9) + strings.Replace(strings.Replace(file("a"), `"size":1`, `"size":9`, 1), "}", `,"tensors":2}`, 1) + strings.Repeat(`{"name":"t","dtype":"U8","shape":[9],"offset":0,"size":9}`+"\n", 2) + chunk(9, 0, 0, 10),
		"states of too few":    head(1, 1, 1) + strings.Replace(file("a"), "}", `,"states":1}`, 1) + `"` + a + `"` + "\n" + chunk(1, 0, 0, 10),
		"negative states":      head(1, 1, 1) + strings.Replace(file("a"), "}", `,"states":-1}`, 1) + chunk(1, 0, 0, 10),
		"negative states of 0": head(1, 0, 0) + strings.Replace(strings.Replace(file("a"), `"size":1`, `"size":0`, 1), "}", `,"states":-1}`, 1),
		"states of a symlink":  head(1, 0, 0) + strings.Replace(link("a", "b"), "}", `,"states":1}`, 1) + `"` + a + `"` + "\n",
		"bad state":            large(a[:63] + "x"),
		"short state":          large(a[:62]),
		"line without end":     head(1, 1, 1) + `{"path":"` + strings.Repeat("a", 2<<20),
		"decompression bomb":   head(1, 1, 1) + strings.Repeat(strings.Repeat(" ", 1<<20-1)+"\n", 150),
		"tensor of many dims":  head(1, 1, 1) + strings.Replace(file("a"), "}", `,"tensors":1}`, 1) + `{"shape":[` + strings.Repeat("1,", 16) + "1]}\n" + chunk(1, 0, 0, 10),
		"deep JSON":            strings.Repeat("[", 100000) + "\n",
	} {
		b := compress(t, s)
		if _, err := layout.ReadIndex(bytes.NewReader(b), int64(len(b)), layers); !errors.Is(err, layout.ErrCorrupt) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := layout.ReadIndex(strings.NewReader("not zstd"), 8, layers); !errors.Is(err, layout.ErrCorrupt) {
		t.Errorf("not zstd: got %v", err)
	}
	cut := compress(t, good)
	if _, err := layout.ReadIndex(bytes.NewReader(cut[:len(cut)-3]), int64(len(cut)), layers); !errors.Is(err, layout.ErrCorrupt) {
		t.Errorf("truncated: got %v", err)
	}
}

// A sparse file is one chunk again and again: its index shrinks a thousandfold.
func TestIndexesThatRepeatThemselves(t *testing.T) {
	layers := []layout.Layer{{Size: 1000}}
	sparse := func(chunks int) *layout.Index {
		ix := &layout.Index{Files: []layout.File{{Path: "disk.img", Mode: layout.ModeFile, Size: int64(chunks) << 20}}}
		for range chunks {
			ix.Chunks = append(ix.Chunks, layout.Chunk{Size: 1 << 20, Length: 41})
		}
		return ix
	}
	ix := sparse(300_000) // 300 GB
	b, err := ix.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := layout.ReadIndex(bytes.NewReader(b), int64(len(b)), layers)
	if err != nil || len(got.Chunks) != len(ix.Chunks) {
		t.Errorf("an index of %d bytes: %v", len(b), err)
	}
	if b, err = sparse(1_000_000).Marshal(); err == nil {
		if _, err := layout.ReadIndex(bytes.NewReader(b), int64(len(b)), layers); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
	}
}

// What an index may take in memory follows from how many bytes it has, not
// from how little a line of it can be.
func TestLinesOfNothingAreCounted(t *testing.T) {
	const lines = 1_200_000
	bomb := compress(t, `{"mpack":"index/v1","files":1,"chunks":0,"size":0}`+"\n"+
		fmt.Sprintf(`{"path":"a","mode":"100644","size":0,"tensors":%d}`+"\n", lines)+strings.Repeat("{}\n", lines))
	_, err := layout.ReadIndex(bytes.NewReader(bomb), int64(len(bomb)), nil)
	if !errors.Is(err, layout.ErrCorrupt) || !strings.Contains(err.Error(), "that are read of an index of") {
		t.Errorf("%d bytes that say nothing %d times: %v", len(bomb), lines, err)
	}
	ix := &layout.Index{Files: []layout.File{{Path: "a", Mode: layout.ModeFile, Tensors: make([]tensor.Tensor, lines)}}}
	if _, err := ix.Marshal(); err == nil {
		t.Error("wrote an index that is not read")
	}
}

// FuzzReadIndex feeds lines, compressed, so that the fuzzer need not learn zstd.
func FuzzReadIndex(f *testing.F) {
	a := hexOf("a")
	f.Add([]byte(`{"mpack":"index/v1","files":1,"chunks":1,"size":1}` + "\n" + `{"path":"a","mode":"100644","size":1,"sha256":"` + a + `"}` + "\n" +
		`{"sha256":"` + a + `","size":1,"layer":0,"offset":0,"length":10}` + "\n"))
	f.Add([]byte(`{"mpack":"index/v1","files":2,"chunks":0,"size":0}` + "\n" + `{"path":"a","mode":"040000","size":0,"sha256":"` + hexOf("") + `"}` + "\n" +
		`{"path":"b","mode":"120000","size":1,"sha256":"` + a + `","link":"a"}` + "\n"))
	f.Add([]byte(`{"mpack":"index/v1","files":1,"chunks":5,"size":5242880}` + "\n" + `{"path":"a","mode":"100644","size":5242880,"sha256":"` + a + `","states":1}` + "\n" +
		`"` + a + `"` + "\n" + strings.Repeat(`{"sha256":"`+a+`","size":1048576,"layer":1,"offset":0,"length":10}`+"\n", 5)))
	layers := []layout.Layer{{Size: 1000}, {Size: 1 << 20}}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, lines []byte) {
		b := enc.EncodeAll(lines, nil)
		ix, err := layout.ReadIndex(bytes.NewReader(b), int64(len(b)), layers)
		if err != nil {
			if !errors.Is(err, layout.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		out, err := ix.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := layout.ReadIndex(bytes.NewReader(out), int64(len(out)), layers)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ix, again) {
			t.Fatal("an index that was read and written is another one")
		}
	})
}
