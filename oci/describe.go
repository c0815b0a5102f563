package oci

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/parquet-go/parquet-go"
	"go.yaml.in/yaml/v3"

	"mpack/layout/tensor"
)

// Tree is what Describe may read of a tree of files.
type Tree struct {
	Files []TreeFile
	Open  func(path string) (*os.File, error)
}

// TreeFile is a file of a Tree and what packing it has told.
type TreeFile struct {
	Path     string
	Size     int64
	Lines    int64 // -1: not counted
	Tensors  []tensor.Tensor
	Metadata map[string]any // of the header of a tensor file
}

// maxSide is the most that is read of a side file, in bytes.
const maxSide = 1 << 20

// weightFormats and rowFormats name the formats of files by extension.
var (
	weightFormats = map[string]string{
		".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx", ".pt": "pytorch", ".pth": "pytorch", ".bin": "pytorch",
		".ckpt": "pytorch", ".h5": "keras", ".keras": "keras", ".pb": "tensorflow", ".tflite": "tflite", ".npz": "numpy",
	}
	rowFormats = map[string]string{
		".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow", ".txt": "text",
		".tar": "webdataset",
	}
)

// Describe reads what the files of a tree say of themselves: tensor headers,
// config.json, the front matter of README.md, the rows of corpora. What m says
// wins. Files that cannot be understood are named in the warnings; only an end
// of ctx is an error.
func Describe(ctx context.Context, t Tree, m Manual) (*Config, []string, error) {
	d := &description{tree: t, byPath: map[string]*TreeFile{}}
	for i := range t.Files {
		d.byPath[t.Files[i].Path] = &t.Files[i]
	}
	d.formats()
	d.c.Kind = cmp.Or(m.Kind, d.kind())
	d.tensors()
	d.gguf()
	d.modelConfig()
	d.card()
	if d.c.Kind == KindCorpus {
		if err := d.rows(ctx); err != nil {
			return nil, nil, err
		}
	}
	d.manual(m)
	return &d.c, d.warnings, ctx.Err()
}

type description struct {
	tree     Tree
	byPath   map[string]*TreeFile
	c        Config
	warnings []string
	weights  string // format with the most bytes
	table    string
}

func (d *description) warn(path string, err error) {
	d.warnings = append(d.warnings, fmt.Sprintf("%s: not understood, packed as it is: %v", path, err))
}

// formats finds the format of most bytes, of weights and of rows.
func (d *description) formats() {
	weights, rows := map[string]int64{}, map[string]int64{}
	for _, f := range d.tree.Files {
		ext := strings.ToLower(path.Ext(f.Path))
		if name, ok := weightFormats[ext]; ok {
			weights[name] += f.Size + 1
		} else if name, ok := rowFormats[ext]; ok {
			rows[name] += f.Size + 1
		}
	}
	d.weights, d.table = largest(weights), largest(rows)
}

// largest returns the key of the largest value, the first by name of equals.
func largest(m map[string]int64) string {
	best := ""
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if best == "" || m[k] > m[best] {
			best = k
		}
	}
	return best
}

// kind guesses: what holds weights is a model, what holds rows a corpus.
func (d *description) kind() string {
	if d.weights == "" && d.table != "" {
		return KindCorpus
	}
	return KindModel
}

func (d *description) tensors() {
	types := map[string]int64{}
	for _, f := range d.tree.Files {
		for _, t := range f.Tensors {
			types[t.DType] += t.Params()
			d.c.Parameters += t.Params()
		}
	}
	if d.c.Kind == KindCorpus {
		d.c.Model.Format = cmp.Or(d.table, d.weights)
	} else {
		d.c.Model.Format = cmp.Or(d.weights, d.table)
	}
	if d.c.Parameters <= 0 {
		d.c.Parameters = 0
		return
	}
	d.c.ElementTypes = types
	d.c.Model.ParamSize = paramSize(d.c.Parameters)
	most := largest(types)
	if strings.HasPrefix(most, "Q") || strings.HasPrefix(most, "IQ") {
		d.c.Model.Quantization = strings.ToLower(most)
	} else {
		d.c.Model.Precision = strings.ToLower(most)
	}
}

// paramSize writes a number of parameters as ModelPack does: "8b", "1.5b", "350m".
func paramSize(n int64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e12, "t"}, {1e9, "b"}, {1e6, "m"}, {1e3, "k"}} {
		if v := float64(n) / u.of; v >= 1 {
			return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// gguf takes what the metadata of the first GGUF file says; keys as in
// github.com/ggml-org/ggml, docs/gguf.md.
func (d *description) gguf() {
	for _, f := range d.tree.Files {
		arch, _ := f.Metadata["general.architecture"].(string)
		if arch == "" {
			continue
		}
		str := func(key string) string { s, _ := f.Metadata[key].(string); return s }
		d.c.Model.Architecture = arch
		d.c.About.Name = str("general.name")
		d.c.About.Version = str("general.version")
		d.c.About.Description = str("general.description")
		d.c.About.SourceURL = str("general.source.url")
		if l := str("general.license"); l != "" {
			d.c.About.Licenses = []string{l}
		}
		d.c.ContextLength = integer(f.Metadata[arch+".context_length"])
		for i := range integer(f.Metadata["general.base_model.count"]) {
			base := fmt.Sprintf("general.base_model.%d.", i)
			name := cmp.Or(str(base+"name"), str(base+"repo_url"))
			if name == "" {
				break
			}
			d.c.BaseModels = append(d.c.BaseModels, Source{Name: name})
		}
		return
	}
}

// integer returns a number of any type as an int64, and 0 for what is none or
// out of range.
func integer(v any) int64 {
	n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// side returns the content of a side file at the tree's top, nil without one.
func (d *description) side(name string) []byte {
	f := d.byPath[name]
	if f == nil {
		return nil
	}
	b, err := d.head(name, maxSide)
	if err != nil {
		d.warn(name, err)
	}
	return b
}

// head reads at most n bytes from the start of a file.
func (d *description) head(name string, n int64) ([]byte, error) {
	r, err := d.tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, n))
}

// modelConfig reads the config.json of transformers and the
// adapter_config.json of PEFT.
func (d *description) modelConfig() {
	if b := d.side("config.json"); b != nil {
		var c struct {
			Architectures []string    `json:"architectures"`
			ModelType     string      `json:"model_type"`
			Positions     json.Number `json:"max_position_embeddings"`
			NPositions    json.Number `json:"n_positions"`
			Quantization  struct {
				Method string      `json:"quant_method"`
				Bits   json.Number `json:"bits"`
			} `json:"quantization_config"`
		}
		// A config.json may be of any program: what does not fit is not said.
		if err := json.Unmarshal(b, &c); err == nil {
			d.c.Model.Architecture = cmp.Or(c.ModelType, d.c.Model.Architecture)
			if d.c.Model.Architecture == "" && len(c.Architectures) > 0 {
				d.c.Model.Architecture = c.Architectures[0]
			}
			d.c.ContextLength = cmp.Or(integer(c.Positions), integer(c.NPositions), d.c.ContextLength)
			if q := c.Quantization; q.Method != "" {
				d.c.Model.Quantization = q.Method
				if q.Bits != "" {
					d.c.Model.Quantization += "-" + string(q.Bits) + "bit"
				}
			}
		} else {
			d.warn("config.json", err)
		}
	}
	if b := d.side("adapter_config.json"); b != nil {
		var c struct {
			Base     string `json:"base_model_name_or_path"`
			Revision string `json:"revision"`
		}
		if err := json.Unmarshal(b, &c); err != nil {
			d.warn("adapter_config.json", err)
		} else if c.Base != "" {
			d.c.BaseModels = []Source{{Name: c.Base}}
		}
	}
}

// card reads the front matter of a model card or dataset card,
// huggingface.co/docs/hub/model-cards.
func (d *description) card() {
	b := d.side("README.md")
	rest, ok := bytes.CutPrefix(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("---\n"))
	if !ok {
		return
	}
	front, _, ok := bytes.Cut(rest, []byte("\n---"))
	if !ok {
		return
	}
	var c struct {
		License     words     `yaml:"license"`
		LicenseName string    `yaml:"license_name"`
		BaseModel   words     `yaml:"base_model"`
		Datasets    words     `yaml:"datasets"`
		Language    words     `yaml:"language"`
		Tags        words     `yaml:"tags"`
		PrettyName  string    `yaml:"pretty_name"`
		ModelName   yaml.Node `yaml:"model_name"`
	}
	if err := yaml.Unmarshal(front, &c); err != nil {
		d.warn("README.md", fmt.Errorf("front matter: %w", err))
		return
	}
	if len(c.License) > 0 {
		d.c.About.Licenses = c.License
		if c.LicenseName != "" && slices.Equal(c.License, words{"other"}) {
			d.c.About.Licenses = []string{c.LicenseName}
		}
	}
	d.c.About.Name = cmp.Or(c.ModelName.Value, c.PrettyName, d.c.About.Name)
	if len(c.BaseModel) > 0 {
		d.c.BaseModels = named(c.BaseModel)
	}
	d.c.Corpora = named(c.Datasets)
	d.c.Tags = c.Tags
	d.languages(c.Language)
}

func named(names []string) []Source {
	var ss []Source
	for _, n := range names {
		ss = append(ss, Source{Name: n})
	}
	return ss
}

func (d *description) languages(l []string) {
	if len(l) > 0 {
		d.c.Model.Capabilities = &Capabilities{Languages: l}
	}
}

// rows counts the rows of a corpus and takes the schema of its first file.
func (d *description) rows(ctx context.Context) error {
	for _, f := range d.tree.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		ext := strings.ToLower(path.Ext(f.Path))
		if rowFormats[ext] != d.table {
			continue
		}
		first := d.c.Schema == nil
		var err error
		switch d.table {
		case "parquet":
			err = d.parquet(f, first)
		case "jsonl":
			d.c.Rows += max(0, f.Lines)
			if first {
				d.c.Schema, err = d.jsonColumns(f.Path)
			}
		case "csv":
			d.c.Rows += max(0, f.Lines-1)
			if first {
				d.c.Schema, err = d.csvColumns(f.Path, ext)
			}
		case "text":
			d.c.Rows += max(0, f.Lines)
		}
		if err != nil {
			d.warn(f.Path, err)
		}
	}
	return nil
}

func (d *description) parquet(f TreeFile, schema bool) (err error) {
	r, err := d.tree.Open(f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	defer func() { // the library panics on some footers
		if p := recover(); p != nil {
			err = fmt.Errorf("parquet: %v", p)
		}
	}()
	p, err := parquet.OpenFile(r, f.Size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	d.c.Rows += p.NumRows()
	if schema {
		for _, field := range p.Schema().Fields() {
			typ := "group"
			if field.Leaf() {
				typ = strings.ToLower(field.Type().String())
			}
			d.c.Schema = append(d.c.Schema, Column{field.Name(), typ})
		}
	}
	return nil
}

// jsonColumns returns the fields of the first line's object, in its order.
func (d *description) jsonColumns(name string) ([]Column, error) {
	b, err := d.head(name, maxSide)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the first line is not a JSON object")
	}
	var cols []Column
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var v any
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		name, _ := key.(string)
		cols = append(cols, Column{name, jsonType(v)})
	}
	return cols, nil
}

func jsonType(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case float64:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return "null"
}

func (d *description) csvColumns(name, ext string) ([]Column, error) {
	b, err := d.head(name, maxSide)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bufio.NewReader(bytes.NewReader(b)))
	if ext == ".tsv" {
		r.Comma = '\t'
	}
	header, err := r.Read()
	if err != nil {
		return nil, err
	}
	var cols []Column
	for _, h := range header {
		cols = append(cols, Column{Name: strings.TrimPrefix(h, "\ufeff")})
	}
	return cols, nil
}

// manual lets what a person wrote win.
func (d *description) manual(m Manual) {
	a := &d.c.About
	a.Name = cmp.Or(m.Name, a.Name)
	a.Version = cmp.Or(m.Version, a.Version)
	a.Title = cmp.Or(m.Title, a.Title)
	a.Description = cmp.Or(m.Description, a.Description)
	a.Vendor = cmp.Or(m.Vendor, a.Vendor)
	a.Family = cmp.Or(m.Family, a.Family)
	a.SourceURL = cmp.Or(m.Source, a.SourceURL)
	a.DocURL = cmp.Or(m.Documentation, a.DocURL)
	a.Revision = cmp.Or(m.Revision, a.Revision)
	d.c.Model.Architecture = cmp.Or(m.Architecture, d.c.Model.Architecture)
	d.c.Model.Quantization = cmp.Or(m.Quantization, d.c.Model.Quantization)
	d.c.ContextLength = cmp.Or(m.ContextLength, d.c.ContextLength)
	if m.Authors != nil {
		a.Authors = m.Authors
	}
	if m.Licenses != nil {
		a.Licenses = m.Licenses
	}
	if m.Tags != nil {
		d.c.Tags = m.Tags
	}
	if m.BaseModels != nil {
		d.c.BaseModels = m.BaseModels
	}
	if m.Corpora != nil {
		d.c.Corpora = m.Corpora
	}
	d.languages(m.Languages)
}
