package oci

import (
	"slices"
	"testing"
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
