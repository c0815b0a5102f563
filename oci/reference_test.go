package oci

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestParseReference(t *testing.T) {
	const d = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for s, want := range map[string]Reference{
		"example.com/team/model:v1":         {Host: "example.com", Repository: "team/model", Tag: "v1"},
		"example.com/model":                 {Host: "example.com", Repository: "model", Tag: "latest"},
		"example.com:5000/model":            {Host: "example.com:5000", Repository: "model", Tag: "latest"},
		"localhost/m:V_1.2-3":               {Host: "localhost", Repository: "m", Tag: "V_1.2-3"},
		"[::1]:5000/m:v1":                   {Host: "[::1]:5000", Repository: "m", Tag: "v1"},
		"example.com/m@" + d:                {Host: "example.com", Repository: "m", Digest: d},
		"example.com:5000/a/b/c:v1@" + d:    {Host: "example.com:5000", Repository: "a/b/c", Tag: "v1", Digest: d},
		"oci:dir":                           {Scheme: Layout, Path: "dir", Tag: "latest"},
		"oci:./dir/:v1":                     {Scheme: Layout, Path: "dir", Tag: "v1"},
		"oci:/a/b@" + d:                     {Scheme: Layout, Path: "/a/b", Digest: d},
		"oci:/a:b/c":                        {Scheme: Layout, Path: "/a:b/c", Tag: "latest"},
		`oci:C:\models`:                     {Scheme: Layout, Path: `C:\models`, Tag: "latest"},
		"oci:/a@home/b:v1":                  {Scheme: Layout, Path: "/a@home/b", Tag: "v1"},
		"oci-archive:m.tar:v1":              {Scheme: Archive, Path: "m.tar", Tag: "v1"},
		"oci-archive:/tmp/m.tar":            {Scheme: Archive, Path: "/tmp/m.tar", Tag: "latest"},
		"example.com/m:" + long(128):        {Host: "example.com", Repository: "m", Tag: long(128)},
		"registry.example.com/x-y_z/0.1:v1": {Host: "registry.example.com", Repository: "x-y_z/0.1", Tag: "v1"},
	} {
		got, err := ParseReference(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
			continue
		}
		if again, err := ParseReference(got.String()); err != nil || again != got {
			t.Errorf("%s is written %s, which is %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{
		"", "model", "model:v1", "example.com/", "/model", "example.com/Team/model", "example.com/m:", "example.com/m:a b", "example.com/m:-v",
		"example.com/m:" + long(129), "example.com/m@sha256:abc", "example.com/m@sha512:" + strings.Repeat("a", 128), "example.com/m@" + strings.ToUpper(d),
		"oci:", "oci::v1", "oci-archive:", "example.com/m\n:v1", "oci:a\x00b", "https://example.com/m:v1", "example.com/../m", "example.com/m//n",
	} {
		if r, err := ParseReference(s); !errors.Is(err, ErrReference) {
			t.Errorf("%q is %+v, %v", s, r, err)
		}
	}
	for s, want := range map[string]string{
		"https://example.com/m:v1": "leave out https://", "docker://example.com/m:v1": "leave out docker://", "oci://example.com/m:v1": "without oci://",
		"./model": "is a path", "../model:v1": "is a path", "/srv/model": "is a path", "~/model": "is a path", "example.com/m@v1": "behind :",
	} {
		if r, err := ParseReference(s); !errors.Is(err, ErrReference) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v", s, r, err)
		}
	}
	if r, err := ParseRepository("example.com/m"); err != nil || r.Tag != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

func long(n int) string { return strings.Repeat("v", n) }

func TestReferenceBaseAndLoopback(t *testing.T) {
	for s, want := range map[string]string{
		"example.com/team/model:v1": "model", "oci:/a/b:v1": "b", "oci-archive:/a/m.tar:v1": "m",
	} {
		if r, err := ParseReference(s); err != nil || r.Base() != want {
			t.Errorf("%s: %s, %v", s, r.Base(), err)
		}
	}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "a.localhost:5000": true, "127.0.0.1:5000": true, "127.1.2.3": true, "[::1]:5000": true, "[::1]": true,
		"example.com": false, "localhost.example.com": false, "10.0.0.1:5000": false, "127.0.0.1.example.com": false, "[::2]:5000": false,
	} {
		if got := (Reference{Host: host}).Loopback(); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"example.com:5000/a/b:v1", "oci:dir:v1", "oci-archive:a.tar", "example.com/m@" + someDigest, "oci:C:\\a:v1", "[::1]:5/m", "a/b:c@d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if !errors.Is(err, ErrReference) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if r.Tag == "" && r.Digest == "" || r.Digest != "" && r.Digest.Algorithm() != digest.SHA256 || r.Scheme == Registry && (r.Host == "" || r.Repository == "") {
			t.Errorf("%q: %+v", s, r)
		}
		if again, err := ParseReference(r.String()); err != nil || again != r {
			t.Errorf("%q: %+v is written %q, which is %+v, %v", s, r, r.String(), again, err)
		}
	})
}
