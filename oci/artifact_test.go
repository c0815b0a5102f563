package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"mpack/layout"
)

// memoryStore is a registry without a registry.
type memoryStore struct{ *memory.Store }

func (memoryStore) Tags(context.Context, string, func([]string) error) error { return nil }

func memoryRepo(t testing.TB) *Repo {
	c, err := NewClient(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &Repo{client: c, store: memoryStore{memory.New()}}
}

func (r *Repo) put(t testing.TB, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := descriptor(mediaType, b)
	if err := r.store.(memoryStore).Push(t.Context(), d, bytes.NewReader(b)); err != nil && !strings.Contains(err.Error(), "already exists") {
		t.Fatal(err)
	}
	return d
}

const someConfig = `{"kind":"model","descriptor":{},"config":{},"totalSize":0,"files":0,"contentDigest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`

// manifestOf makes a manifest of no files.
func manifestOf(t testing.TB, r *Repo) ocispec.Manifest {
	t.Helper()
	index, err := new(layout.Index).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: TypeModel,
		Config:       r.put(t, TypeConfig, []byte(someConfig)),
		Layers:       []ocispec.Descriptor{r.put(t, TypeIndex, index), {MediaType: TypeLayer, Digest: someDigest, Size: 5}},
	}
}

func TestManifestsOfOthersAreRefused(t *testing.T) {
	for name, change := range map[string]func(m *ocispec.Manifest){
		"":                          func(*ocispec.Manifest) {},
		"another artifact type":     func(m *ocispec.Manifest) { m.ArtifactType = "application/vnd.example" },
		"an image":                  func(m *ocispec.Manifest) { m.ArtifactType = ""; m.Config.MediaType = ocispec.MediaTypeImageConfig },
		"another config":            func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeImageConfig },
		"a large config":            func(m *ocispec.Manifest) { m.Config.Size = maxConfig + 1 },
		"a config of negative size": func(m *ocispec.Manifest) { m.Config.Size = -1 },
		"a config without digest":   func(m *ocispec.Manifest) { m.Config.Digest = "" },
		"a config with a path":      func(m *ocispec.Manifest) { m.Config.Digest = "sha256:../../x" },
		"no layer":                  func(m *ocispec.Manifest) { m.Layers = nil },
		"no index":                  func(m *ocispec.Manifest) { m.Layers = m.Layers[1:] },
		"two indexes":               func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) },
		"a large index":             func(m *ocispec.Manifest) { m.Layers[0].Size = maxIndex + 1 },
		"a layer of negative size":  func(m *ocispec.Manifest) { m.Layers[1].Size = -1 },
		"a layer of absurd size":    func(m *ocispec.Manifest) { m.Layers[1].Size = 1 << 62 },
		"a layer of another type":   func(m *ocispec.Manifest) { m.Layers[1].MediaType = ocispec.MediaTypeImageLayerZstd },
		"a layer without digest":    func(m *ocispec.Manifest) { m.Layers[1].Digest = "" },
		"a layer with SHA-512":      func(m *ocispec.Manifest) { m.Layers[1].Digest = digest.SHA512.FromString("") },
		"a layer's digest in capitals": func(m *ocispec.Manifest) {
			m.Layers[1].Digest = digest.Digest("sha256:" + strings.ToUpper(m.Layers[1].Digest.Encoded()))
		},
		"too many layers": func(m *ocispec.Manifest) {
			for range maxLayers {
				m.Layers = append(m.Layers, m.Layers[1])
			}
		},
	} {
		r := memoryRepo(t)
		m := manifestOf(t, r)
		change(&m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.ArtifactAt(t.Context(), r.put(t, ocispec.MediaTypeImageManifest, b))
		if name == "" && err != nil || name != "" && !errors.Is(err, ErrNotArtifact) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBlobsThatAreNotWhatTheirDigestsSayAreRefused(t *testing.T) {
	r := memoryRepo(t)
	m := manifestOf(t, r)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := r.put(t, ocispec.MediaTypeImageManifest, b)
	a, err := r.ArtifactAt(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Index(t.Context()); err != nil {
		t.Fatal(err)
	}
	lying := &Repo{client: r.client, store: lyingStore{r.store.(memoryStore)}}
	if _, err := lying.ArtifactAt(t.Context(), d); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a manifest with another digest: %v", err)
	}
}

// lyingStore answers for every digest with something else of that size.
type lyingStore struct{ memoryStore }

func (s lyingStore) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(make([]byte, d.Size))), nil
}

// The most layers that mpack lists make a manifest that every registry takes.
func TestAManifestOfTheMostLayersIsSmallEnough(t *testing.T) {
	r := memoryRepo(t)
	m := manifestOf(t, r)
	m.Layers = m.Layers[:1]
	for i := range maxLayers {
		m.Layers = append(m.Layers, layerDescriptor(layout.Layer{Digest: layout.Hash{byte(i)}, Size: 1 << 40}))
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d layers: %d bytes", maxLayers, len(b))
	if len(b) > maxManifest/2 { // annotations need room too
		t.Errorf("%d bytes", len(b))
	}
	if err := checkManifest(&m); err != nil {
		t.Error(err)
	}
}

// FuzzManifest takes manifest and config from a stranger all the way to the
// index, whose bytes are a fuzz target of package layout.
func FuzzManifest(f *testing.F) {
	m := manifestOf(f, memoryRepo(f))
	b, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, []byte(someConfig), true)
	f.Add([]byte(`{"artifactType":"application/vnd.mpack.corpus.v1","config":{"mediaType":"application/vnd.mpack.config.v1+json"},"layers":[null]}`), []byte(`{"kind":"corpus"}`), true)
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.mpack.model.v1","digest":"x"}]}`), []byte(`{}`), false)
	f.Add([]byte(`{"layers":[{"size":9223372036854775807},{"size":9223372036854775807}]}`), []byte(`[]`), true)
	f.Fuzz(func(t *testing.T, manifest, config []byte, fit bool) {
		r := memoryRepo(t)
		real := manifestOf(t, r)
		mediaType := ocispec.MediaTypeImageManifest
		if fit { // the blobs are there under the digests that the manifest states
			var m ocispec.Manifest
			if json.Unmarshal(manifest, &m) != nil {
				return
			}
			d := r.put(t, TypeConfig, config)
			m.Config.Digest, m.Config.Size = d.Digest, d.Size
			if len(m.Layers) > 0 {
				m.Layers[0].Digest, m.Layers[0].Size = real.Layers[0].Digest, real.Layers[0].Size
			}
			var err error
			if manifest, err = json.Marshal(m); err != nil {
				return
			}
		} else if bytes.Contains(manifest, []byte(`"manifests"`)) {
			mediaType = ocispec.MediaTypeImageIndex
		}
		d := descriptor(mediaType, manifest)
		repo := &Repo{client: r.client, store: oneManifest{r.store.(memoryStore), d, manifest}}
		a, err := repo.ArtifactAt(t.Context(), d)
		if err != nil {
			return
		}
		if n := len(a.Layers()); n > maxLayers {
			t.Errorf("%d layers", n)
		}
		if a.StoredSize() < 0 {
			t.Errorf("%d bytes stored", a.StoredSize())
		}
		if _, err := a.Index(t.Context()); err != nil && !errors.Is(err, layout.ErrCorrupt) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotFound) {
			t.Errorf("index: %v", err)
		}
	})
}

// oneManifest serves a manifest that memory.Store would not take, as it reads it.
type oneManifest struct {
	memoryStore
	d ocispec.Descriptor
	b []byte
}

func (s oneManifest) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if d.Digest == s.d.Digest {
		return io.NopCloser(bytes.NewReader(s.b)), nil
	}
	return s.memoryStore.Fetch(ctx, d)
}
