package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"
)

// Kinds of artifacts.
const (
	KindModel  = "model"
	KindCorpus = "corpus"
)

// Config is what a person asks about an artifact. The objects About and Model
// are named and spelled as in the CNCF ModelPack config
// (github.com/modelpack/model-spec, docs/config.md), so that a reader of one
// knows the other.
type Config struct {
	Kind  string `json:"kind"`
	About About  `json:"descriptor"`
	Model Model  `json:"config"`

	Parameters    int64            `json:"parameters,omitempty"`    // elements of all tensors
	ElementTypes  map[string]int64 `json:"elementTypes,omitempty"`  // elements by dtype
	ContextLength int64            `json:"contextLength,omitempty"` // tokens
	BaseModels    []Source         `json:"baseModels,omitempty"`
	Corpora       []Source         `json:"corpora,omitempty"`
	Tags          []string         `json:"tags,omitempty"`
	Rows          int64            `json:"rows,omitempty"` // lines of JSONL, CSV (less the header) and text; parquet rows
	Schema        []Column         `json:"schema,omitempty"`

	TotalSize     int64  `json:"totalSize"` // bytes
	Files         int    `json:"files"`
	ContentDigest string `json:"contentDigest"` // see layout.Index.ContentDigest
}

// About says what an artifact is called and where it comes from.
type About struct {
	Name        string   `json:"name,omitempty"`
	Version     string   `json:"version,omitempty"`
	Title       string   `json:"title,omitempty"`
	Description string   `json:"description,omitempty"`
	Authors     []string `json:"authors,omitempty"`
	Vendor      string   `json:"vendor,omitempty"`
	Family      string   `json:"family,omitempty"`
	Licenses    []string `json:"licenses,omitempty"`
	SourceURL   string   `json:"sourceURL,omitempty"`
	DocURL      string   `json:"docURL,omitempty"`
	Revision    string   `json:"revision,omitempty"`
}

// Model says what the files hold.
type Model struct {
	Architecture string        `json:"architecture,omitempty"`
	Format       string        `json:"format,omitempty"`
	ParamSize    string        `json:"paramSize,omitempty"` // "8b"
	Precision    string        `json:"precision,omitempty"`
	Quantization string        `json:"quantization,omitempty"`
	Capabilities *Capabilities `json:"capabilities,omitempty"`
}

// Capabilities is the part of ModelPack's object of that name that can be known.
type Capabilities struct {
	Languages []string `json:"languages,omitempty"`
}

// Source is an artifact that another was made from.
type Source struct {
	Name   string `json:"name" yaml:"name"`
	Digest string `json:"digest,omitempty" yaml:"digest"` // of its manifest, where known
}

func (s Source) String() string {
	if s.Digest == "" {
		return s.Name
	}
	return s.Name + "@" + s.Digest
}

// Column is a field of a corpus's rows.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
}

// Marshal returns the config as JSON; equal configs give equal bytes.
func (c *Config) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if b.Len() > maxConfig {
		return nil, fmt.Errorf("config of %d bytes: want at most %d; shorten what %s says", b.Len(), maxConfig, ManualFile)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// ParseConfig reads a config. Fields it does not know, of later versions, are
// passed over; an error is an [ErrNotArtifact].
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%w: config of %d bytes", ErrNotArtifact, len(b))
	}
	c := new(Config)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%w: config: %w", ErrNotArtifact, err)
	}
	if c.Kind != KindModel && c.Kind != KindCorpus {
		return nil, fmt.Errorf("%w: config: kind %q", ErrNotArtifact, c.Kind)
	}
	if c.TotalSize < 0 || c.Files < 0 || c.Parameters < 0 || c.Rows < 0 {
		return nil, fmt.Errorf("%w: config: negative size", ErrNotArtifact)
	}
	if err := sha256Digest(c.ContentDigest); err != nil {
		return nil, fmt.Errorf("%w: config: content digest: %w", ErrNotArtifact, err)
	}
	return c, nil
}

func sha256Digest(s string) error {
	d, err := digest.Parse(s)
	if err == nil && d.Algorithm() != digest.SHA256 {
		err = fmt.Errorf("%q: want a sha256 digest", s)
	}
	return err
}

// Manual is what the file mpack.yaml in a tree says; it wins over what the
// other files tell. Every field may be left out.
type Manual struct {
	Kind          string  `yaml:"kind"` // "model" or "corpus"
	Name          string  `yaml:"name"`
	Version       string  `yaml:"version"`
	Title         string  `yaml:"title"`
	Description   string  `yaml:"description"`
	Authors       words   `yaml:"authors"`
	Vendor        string  `yaml:"vendor"`
	Family        string  `yaml:"family"`
	Licenses      words   `yaml:"licenses"` // SPDX identifiers
	Languages     words   `yaml:"languages"`
	Tags          words   `yaml:"tags"`
	Source        string  `yaml:"source"`        // URL
	Documentation string  `yaml:"documentation"` // URL
	Revision      string  `yaml:"revision"`      // of the source
	Architecture  string  `yaml:"architecture"`
	Quantization  string  `yaml:"quantization"`
	ContextLength int64   `yaml:"contextLength"`
	BaseModels    origins `yaml:"baseModels"` // NAME, NAME@sha256:… or {name, digest}
	Corpora       origins `yaml:"corpora"`
}

// words is a list of strings, or one.
type words []string

func (w *words) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Tag != "!!null" && n.Value != "" {
			*w = words{n.Value}
		}
		return nil
	}
	return n.Decode((*[]string)(w))
}

// origins is a list of sources, or one, each an object or a string.
type origins []Source

func (o *origins) UnmarshalYAML(n *yaml.Node) error {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	for _, n := range nodes {
		var s Source
		if n.Kind == yaml.ScalarNode {
			s.Name, s.Digest, _ = strings.Cut(n.Value, "@")
		} else if err := n.Decode(&s); err != nil {
			return err
		}
		if s.Name == "" {
			continue
		}
		if s.Digest != "" {
			if err := sha256Digest(s.Digest); err != nil {
				return fmt.Errorf("line %d: %s: %w", n.Line, s.Name, err)
			}
		}
		*o = append(*o, s)
	}
	return nil
}

// ReadManual reads mpack.yaml. Unknown keys are errors, as they are misspelt.
func ReadManual(r io.Reader) (*Manual, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("more than %d bytes", maxConfig)
	}
	m := new(Manual)
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(m); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch m.Kind {
	case "", KindModel, KindCorpus:
	default:
		return nil, fmt.Errorf("kind %q: want %s or %s", m.Kind, KindModel, KindCorpus)
	}
	if m.ContextLength < 0 {
		return nil, fmt.Errorf("contextLength %d: want tokens", m.ContextLength)
	}
	return m, nil
}

// annotations returns the standard annotations that a config gives, see
// image-spec, annotations.md.
func annotations(c *Config, created time.Time) map[string]string {
	m := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			m[key] = value
		}
	}
	a := c.About
	title := a.Title
	if title == "" {
		title = a.Name
	}
	set(ocispec.AnnotationTitle, title)
	set(ocispec.AnnotationVersion, a.Version)
	set(ocispec.AnnotationDescription, a.Description)
	set(ocispec.AnnotationAuthors, strings.Join(a.Authors, ", "))
	set(ocispec.AnnotationVendor, a.Vendor)
	set(ocispec.AnnotationLicenses, strings.Join(a.Licenses, " AND "))
	set(ocispec.AnnotationSource, a.SourceURL)
	set(ocispec.AnnotationDocumentation, a.DocURL)
	set(ocispec.AnnotationRevision, a.Revision)
	if len(c.BaseModels) > 0 && c.BaseModels[0].Digest != "" {
		set(ocispec.AnnotationBaseImageName, c.BaseModels[0].Name)
		set(ocispec.AnnotationBaseImageDigest, c.BaseModels[0].Digest)
	}
	if !created.IsZero() {
		set(ocispec.AnnotationCreated, created.UTC().Format(time.RFC3339))
	}
	return m
}
