package oci

import (
	"errors"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
)

// ErrReference is what a reference that cannot be read is.
var ErrReference = errors.New("invalid reference")

// Scheme says where an artifact lies.
type Scheme string

// The schemes there are.
const (
	Registry Scheme = ""            // registry/repository:tag
	Layout   Scheme = "oci"         // oci:DIR:tag, an OCI image layout
	Archive  Scheme = "oci-archive" // oci-archive:FILE:tag, the same in a tar file
)

// Reference names an artifact: registry/repository[:tag][@digest],
// oci:DIR[:tag][@digest] or oci-archive:FILE[:tag][@digest].
type Reference struct {
	Scheme     Scheme
	Host       string        // of a registry, with port
	Repository string        // in a registry
	Path       string        // of a layout or archive
	Tag        string        // "" if there is only a digest or, where that is allowed, nothing
	Digest     digest.Digest // "" if there is only a tag
}

// DefaultTag is the tag of a reference that names neither tag nor digest.
const DefaultTag = "latest"

// tagPattern is the distribution specification's ("Pulling manifests").
var tagPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// ParseReference reads a reference. One without tag and digest gets
// [DefaultTag]. Errors are [ErrReference].
func ParseReference(s string) (Reference, error) {
	r, err := ParseRepository(s)
	if err != nil {
		return r, err
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = DefaultTag
	}
	return r, nil
}

// ParseRepository is ParseReference for where a tag is not needed.
func ParseRepository(s string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("%w %q: %s", ErrReference, s, why)
	}
	var r Reference
	rest := s
	if p, ok := strings.CutPrefix(s, string(Archive)+":"); ok {
		r.Scheme, rest = Archive, p
	} else if p, ok := strings.CutPrefix(s, string(Layout)+":"); ok {
		r.Scheme, rest = Layout, p
	}
	if strings.ContainsAny(rest, "\x00\n\r") {
		return bad("control characters")
	}
	switch before, _, ok := strings.Cut(s, "://"); {
	case ok && r.Scheme == Layout: // helm and others mean a registry
		return bad("write REGISTRY/REPOSITORY:TAG without oci://, or oci:/DIR:TAG for a layout on this machine")
	case ok && r.Scheme == Registry:
		return bad("leave out " + before + "://")
	case r.Scheme == Registry && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, "~")):
		return bad("that is a path, not REGISTRY/REPOSITORY:TAG; a layout is written oci:DIR:TAG, an archive oci-archive:FILE:TAG")
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 && strings.HasPrefix(rest[i+1:], "sha") {
		r.Digest, rest = digest.Digest(rest[i+1:]), rest[:i]
		if err := r.Digest.Validate(); err != nil || r.Digest.Algorithm() != digest.SHA256 {
			return bad("the digest is not sha256: and 64 hexadecimal digits")
		}
	}
	if i := strings.LastIndex(rest, ":"); i >= 0 && !strings.ContainsAny(rest[i+1:], `/\`) {
		// The colon of a registry's port has a slash behind it, that of a Windows drive a separator.
		r.Tag, rest = rest[i+1:], rest[:i]
		if !tagPattern.MatchString(r.Tag) {
			return bad(fmt.Sprintf("%q is not a tag: letters, digits, '_', '.', '-', at most 128", r.Tag))
		}
	}
	if r.Scheme != Registry {
		if rest == "" {
			return bad("no path; write " + string(r.Scheme) + ":PATH:TAG")
		}
		r.Path = filepath.Clean(rest)
		return r, nil
	}
	if strings.Contains(rest, "@") {
		return bad("behind @ goes a digest, sha256:…; a tag goes behind :")
	}
	host, repo, ok := strings.Cut(rest, "/")
	if !ok || host == "" || repo == "" {
		return bad("write REGISTRY/REPOSITORY:TAG, oci:DIR:TAG or oci-archive:FILE:TAG")
	}
	r.Host, r.Repository = host, repo
	ref := registry.Reference{Registry: host, Repository: repo}
	if err := ref.Validate(); err != nil {
		return bad("a repository is lower-case letters and digits with '.', '_', '-' or '/' between them, behind a registry's host name")
	}
	return r, nil
}

// Name returns the reference without tag and digest.
func (r Reference) Name() string {
	if r.Scheme == Registry {
		return r.Host + "/" + r.Repository
	}
	return string(r.Scheme) + ":" + r.Path
}

// String returns the reference as it is written.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// Base returns the last element of the repository or path, without an
// archive's extension.
func (r Reference) Base() string {
	if r.Scheme == Registry {
		return path.Base(r.Repository)
	}
	return strings.TrimSuffix(filepath.Base(r.Path), ".tar")
}

// Loopback reports whether the registry is this machine itself.
func (r Reference) Loopback() bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
