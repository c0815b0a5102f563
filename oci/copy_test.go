package oci

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestWhatBelongsToAnIndexIsCopiedWithIt(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	layout := "oci:" + t.TempDir()
	for i, from := range []string{host + "/team/from", layout} {
		r, err := c.open(t.Context(), reference(t, from), forWrite)
		if err != nil {
			t.Fatal(err)
		}
		b := builder{t, r}
		one, two := b.manifest("one", nil, ""), b.manifest("two", nil, "")
		inner := b.index("", two)
		outer := b.index("all", one, inner)
		b.index("other", one) // does not belong to it
		var tags []string
		for _, d := range []string{one.Digest.Encoded(), two.Digest.Encoded(), inner.Digest.Encoded(), outer.Digest.Encoded()} {
			for _, suffix := range attachedTags {
				tags = append(tags, "sha256-"+d+"."+suffix)
				b.manifest(suffix+" of "+d, nil, tags[len(tags)-1])
			}
		}
		bundle := b.manifest("bundle of two", &two, "")
		ofBundle := b.manifest("of the bundle", &bundle, "")
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		for j, to := range []string{host + "/team/to", "oci:" + t.TempDir()} {
			if i == 1 && j == 0 {
				to += "-too"
			}
			copied, err := c.Copy(t.Context(), reference(t, from+":all"), reference(t, to+":all"), CopyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if copied.Descriptor.Digest != outer.Digest || copied.Referrers != len(tags)+2 {
				t.Errorf("%s to %s: %s with %d referrers", from, to, copied.Descriptor.Digest, copied.Referrers)
			}
			r, err := c.Open(t.Context(), reference(t, to+":all"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := r.store.Tags(t.Context(), "", func(page []string) error { got = append(got, page...); return nil }); err != nil {
				t.Fatal(err)
			}
			got = slices.DeleteFunc(got, func(tag string) bool { return tag == "all" || slices.Contains(tags, tag) })
			for _, tag := range tags {
				if _, err := r.store.Resolve(t.Context(), tag); err != nil {
					t.Errorf("%s to %s: %v", from, to, err)
				}
			}
			if len(got) > 0 {
				t.Errorf("%s to %s: tags %v too", from, to, got)
			}
			list, err := r.store.Predecessors(t.Context(), bundle)
			if err != nil || len(list) != 1 || list[0].Digest != ofBundle.Digest {
				t.Errorf("%s to %s: of the bundle: %v: %v", from, to, list, err)
			}
			bare, err := c.Copy(t.Context(), reference(t, from+":all"), reference(t, to+"-bare:all"), CopyOptions{NoReferrers: true})
			if err != nil || bare.Referrers != 0 {
				t.Errorf("%s to %s: %v: %v", from, to, bare, err)
			}
		}
	}
}

func TestACopyKeepsTheSignaturesOfItsTarget(t *testing.T) {
	c := testClient(t)
	host, _ := registryFor(t)
	from := reference(t, host+"/team/from:v1")
	for _, name := range []string{host + "/team/to", "oci:" + t.TempDir(), "oci-archive:" + filepath.Join(t.TempDir(), "a.tar")} {
		to := reference(t, name+":v1")
		in := func(ref Reference, signatures ...string) {
			t.Helper()
			r, err := c.open(t.Context(), ref, forWrite)
			if err != nil {
				t.Fatal(err)
			}
			b := builder{t, r}
			one := b.manifest("one", nil, "v1")
			m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: b.put(struct{}{}, ocispec.MediaTypeImageConfig, "")}
			m.SchemaVersion = 2
			for _, s := range signatures {
				m.Layers = append(m.Layers, b.put(s, "text/plain", ""))
			}
			b.put(m, m.MediaType, attachedTag(one, "sig"))
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		signatures := func() (all []string) {
			t.Helper()
			if _, err := c.Copy(t.Context(), from, to, CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			r, err := c.Open(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			one, err := r.Resolve(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			d, err := r.store.Resolve(t.Context(), attachedTag(one, "sig"))
			if err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			raw, err := r.bytes(t.Context(), d, maxManifest)
			if err := errors.Join(err, json.Unmarshal(raw, &m)); err != nil {
				t.Fatal(err)
			}
			for _, l := range m.Layers {
				raw, err := r.bytes(t.Context(), l, maxManifest)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, strings.Trim(string(raw), `"`))
			}
			return all
		}
		in(from, "maker")
		in(to, "mirror")
		for range 2 {
			if got := signatures(); !slices.Equal(got, []string{"mirror", "maker"}) {
				t.Errorf("%s: %v", name, got)
			}
		}
		in(from, "maker", "mirror", "auditor")
		if got := signatures(); !slices.Equal(got, []string{"maker", "mirror", "auditor"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
