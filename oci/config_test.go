package oci

import (
	"bytes"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"mpack/layout/tensor"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestConfigRoundTrip(t *testing.T) {
	want := &Config{
		Kind:          KindModel,
		About:         About{Name: "n", Licenses: []string{"MIT"}},
		Model:         Model{Format: "safetensors", Capabilities: &Capabilities{Languages: []string{"en"}}},
		ElementTypes:  map[string]int64{"F32": 1, "BF16": 2},
		BaseModels:    []Source{{"b", someDigest}},
		Schema:        []Column{{"text", "string"}},
		TotalSize:     7,
		Files:         1,
		ContentDigest: someDigest,
	}
	b, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"empty":           ``,
		"not JSON":        `{`,
		"no kind":         `{"contentDigest":"` + someDigest + `"}`,
		"unknown kind":    `{"kind":"image","contentDigest":"` + someDigest + `"}`,
		"negative size":   `{"kind":"model","totalSize":-1,"contentDigest":"` + someDigest + `"}`,
		"no digest":       `{"kind":"model"}`,
		"broken digest":   `{"kind":"model","contentDigest":"sha256:00"}`,
		"another digest":  `{"kind":"model","contentDigest":"sha512:` + strings.Repeat("0", 128) + `"}`,
		"larger than any": `{"kind":"` + strings.Repeat("x", maxConfig) + `"}`,
	} {
		if _, err := ParseConfig([]byte(s)); !isNotArtifact(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestManual(t *testing.T) {
	m, err := ReadManual(strings.NewReader(`
name: m
licenses: MIT
languages: [en, de]
baseModels:
  - registry.example.com/team/base@` + someDigest + `
  - name: other
corpora: web
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Manual{Name: "m", Licenses: words{"MIT"}, Languages: words{"en", "de"},
		BaseModels: origins{{"registry.example.com/team/base", someDigest}, {Name: "other"}}, Corpora: origins{{Name: "web"}}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v, want %+v", m, want)
	}
	for name, s := range map[string]string{
		"misspelt key":  "licence: MIT",
		"unknown kind":  "kind: image",
		"broken digest": "baseModels: a@sha256:00",
		"not a mapping": "- a",
		"negative":      "contextLength: -1",
	} {
		if _, err := ReadManual(strings.NewReader(s)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := ReadManual(strings.NewReader("")); err != nil {
		t.Errorf("empty file: %v", err)
	}
}

// treeOf makes a Tree of the files in a directory made of their content.
func treeOf(t *testing.T, files map[string]string) Tree {
	t.Helper()
	dir := t.TempDir()
	tree := Tree{Open: func(p string) (*os.File, error) { return os.Open(filepath.Join(dir, p)) }}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		tree.Files = append(tree.Files, TreeFile{Path: name, Size: int64(len(text)), Lines: int64(strings.Count(text, "\n"))})
	}
	return tree
}

func TestDescribeModel(t *testing.T) {
	tree := treeOf(t, map[string]string{
		"config.json":       `{"model_type":"llama","max_position_embeddings":8192,"quantization_config":{"quant_method":"gptq","bits":4}}`,
		"README.md":         "---\r\nlicense: apache-2.0\r\nbase_model: [meta/llama]\r\ndatasets: web\r\nlanguage: en\r\ntags: [chat]\r\nmodel_name: Tiny\r\n---\r\n# Tiny\r\n",
		"model.safetensors": "",
		"vocab.txt":         "a\nb\n",
	})
	tree.Files[2].Tensors = []tensor.Tensor{{DType: "BF16", Shape: []int64{1000, 1500}}, {DType: "F32", Shape: []int64{3}}}
	c, warnings, err := Describe(t.Context(), tree, Manual{Version: "2", Name: "Tiny chat"})
	if err != nil || warnings != nil {
		t.Fatal(warnings, err)
	}
	want := &Config{
		Kind:  KindModel,
		About: About{Name: "Tiny chat", Version: "2", Licenses: []string{"apache-2.0"}},
		Model: Model{Architecture: "llama", Format: "safetensors", ParamSize: "1.5m", Precision: "bf16", Quantization: "gptq-4bit",
			Capabilities: &Capabilities{Languages: []string{"en"}}},
		Parameters:    1500003,
		ElementTypes:  map[string]int64{"BF16": 1500000, "F32": 3},
		ContextLength: 8192,
		BaseModels:    []Source{{Name: "meta/llama"}},
		Corpora:       []Source{{Name: "web"}},
		Tags:          []string{"chat"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestDescribeGGUF(t *testing.T) {
	tree := treeOf(t, map[string]string{"m.gguf": ""})
	tree.Files[0].Tensors = []tensor.Tensor{{DType: "Q4_K", Shape: []int64{256}}}
	tree.Files[0].Metadata = map[string]any{
		"general.architecture": "llama", "general.name": "Tiny", "general.license": "mit", "llama.context_length": uint32(4096),
		"general.base_model.count": uint32(math.MaxUint32), "general.base_model.0.name": "Base",
	}
	c, _, err := Describe(t.Context(), tree, Manual{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Model.Quantization != "q4_k" || c.ContextLength != 4096 || c.About.Name != "Tiny" || !slices.Equal(c.BaseModels, []Source{{Name: "Base"}}) {
		t.Errorf("got %+v", c)
	}
}

func TestDescribeCorpus(t *testing.T) {
	type row struct {
		ID   int64
		Text string
	}
	var table bytes.Buffer
	if err := parquet.Write(&table, []row{{1, "a"}, {2, "b"}, {3, "c"}}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		files  map[string]string
		format string
		rows   int64
		schema []Column
		warn   bool
	}{
		"jsonl": {map[string]string{"a.jsonl": "{\"text\":\"x\",\"n\":1}\n{}\n", "b.jsonl": "{}\n"}, "jsonl", 3,
			[]Column{{"text", "string"}, {"n", "number"}}, false},
		"csv": {map[string]string{"a.csv": "id,text\n1,x\n2,y\n"}, "csv", 2, []Column{{Name: "id"}, {Name: "text"}}, false},
		"parquet": {map[string]string{"a.parquet": table.String()}, "parquet", 3,
			[]Column{{"ID", "int(64,true)"}, {"Text", "string"}}, false},
		"broken parquet": {map[string]string{"a.parquet": "PAR1 and then nothing PAR1"}, "parquet", 0, nil, true},
		"broken jsonl":   {map[string]string{"a.jsonl": "not JSON\n"}, "jsonl", 1, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, warnings, err := Describe(t.Context(), treeOf(t, test.files), Manual{})
			if err != nil {
				t.Fatal(err)
			}
			if c.Kind != KindCorpus || c.Model.Format != test.format || c.Rows != test.rows || !slices.Equal(c.Schema, test.schema) {
				t.Errorf("got %+v", c)
			}
			if (len(warnings) > 0) != test.warn {
				t.Errorf("warnings: %q", warnings)
			}
		})
	}
}

func TestDescribeSurvivesBrokenSideFiles(t *testing.T) {
	tree := treeOf(t, map[string]string{"config.json": "{", "README.md": "---\na: [\n---\n", "adapter_config.json": "7", "w.bin": "x"})
	c, warnings, err := Describe(t.Context(), tree, Manual{})
	if err != nil || c.Kind != KindModel {
		t.Fatal(c, err)
	}
	if len(warnings) != 3 {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestAnnotations(t *testing.T) {
	c := &Config{About: About{Name: "n", Licenses: []string{"MIT", "Apache-2.0"}}, BaseModels: []Source{{"b", someDigest}}}
	got := annotations(c, time.Unix(0, 0))
	want := map[string]string{
		"org.opencontainers.image.title":       "n",
		"org.opencontainers.image.licenses":    "MIT AND Apache-2.0",
		"org.opencontainers.image.base.name":   "b",
		"org.opencontainers.image.base.digest": someDigest,
		"org.opencontainers.image.created":     "1970-01-01T00:00:00Z",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParamSize(t *testing.T) {
	for n, want := range map[int64]string{7: "7", 1500: "1.5k", 350e6: "350m", 8e9: "8b", 8_030_000_000: "8b", 1_240_000_000: "1.2b"} {
		if got := paramSize(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"kind":"model","descriptor":{"name":"n"},"config":{"format":"gguf"},"totalSize":1,"files":1,"contentDigest":"` + someDigest + `"}`))
	f.Add([]byte(`{"kind":"corpus","schema":[{"name":"a"}],"contentDigest":"` + someDigest + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			return
		}
		if _, err := ParseConfig(again); err != nil {
			t.Errorf("%s: its own encoding is refused: %v", again, err)
		}
	})
}

func FuzzReadManual(f *testing.F) {
	f.Add("name: m\nlicenses: [MIT]\nbaseModels: a@" + someDigest)
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ReadManual(strings.NewReader(s)); err == nil && m.ContextLength < 0 {
			t.Error("negative context length")
		}
	})
}
