package oci

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mpack/layout"
	"mpack/layout/tree"
)

// PullOptions are how an artifact is pulled. The zero value is good.
type PullOptions struct {
	Include  []string // patterns of files; none: all
	Exclude  []string
	Seeds    []string // directories whose files may hold chunks of the artifact
	Store    *Store   // shared with other pulls; nil: none
	Fsync    bool     // wait until the files are on the disk
	Progress layout.Progress

	// Before is called with the digest that the reference was resolved to,
	// before any content is fetched or written; an error ends the pull.
	Before func(ctx context.Context, r *Repo, d ocispec.Descriptor) error
}

// Pulled is what a pull did.
type Pulled struct {
	Artifact *Artifact
	layout.Assembled
}

// Pull makes the directory hold the artifact's files; see [layout.Assemble].
func (c *Client) Pull(ctx context.Context, ref Reference, dir string, o PullOptions) (*Pulled, error) {
	out, err := c.pull(ctx, ref, dir, o)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, err)
	}
	return out, nil
}

func (c *Client) pull(ctx context.Context, ref Reference, dir string, o PullOptions) (_ *Pulled, err error) {
	match, err := tree.Matcher(o.Include, o.Exclude)
	if err != nil {
		return nil, err
	}
	r, err := c.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	r.cache = o.Store
	d, err := r.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	if o.Before != nil {
		if err := o.Before(ctx, r, d); err != nil {
			return nil, err
		}
	}
	a, err := r.ArtifactAt(ctx, d)
	if err != nil {
		return nil, err
	}
	ix, err := a.Index(ctx)
	if err != nil {
		return nil, err
	}
	lo := layout.AssembleOptions{Progress: o.Progress, Workers: c.opts.Concurrency}
	if len(o.Include) > 0 || len(o.Exclude) > 0 {
		lo.Select = match
		some := false
		for i := range ix.Files {
			some = some || match(ix.Files[i].Path)
		}
		if !some {
			return nil, ErrNoMatch
		}
	}
	for _, s := range o.Seeds {
		t, err := tree.Walk(ctx, s, tree.Options{})
		if err != nil {
			return nil, fmt.Errorf("seed %s: %w", s, err)
		}
		defer t.Close()
		lo.Seeds = append(lo.Seeds, t)
	}
	if o.Store != nil {
		if err := o.Store.add(ctx, ref, a.Descriptor); err != nil {
			return nil, err
		}
		end, err := o.Store.turn(ctx, a.Descriptor.Digest, ix, lo.Select)
		if err != nil {
			return nil, err
		}
		defer end()
		lo.Store, lo.Stored = &o.Store.files, o.Store.indexes(ix)
	}
	w, err := tree.NewWriter(dir)
	if err != nil {
		return nil, err
	}
	w.Fsync = o.Fsync
	defer func() { err = errors.Join(err, w.Close()) }()
	paths := func(yield func(string) bool) {
		for i := range ix.Files {
			if p := ix.Files[i].Path; (lo.Select == nil || lo.Select(p)) && !yield(p) {
				return
			}
		}
	}
	if err := w.Distinct(paths); err != nil {
		return nil, err
	}
	done, err := layout.Assemble(ctx, ix, a.Layers(), w, a.Fetch, lo)
	if err != nil {
		return nil, err
	}
	return &Pulled{Artifact: a, Assembled: *done}, nil
}
