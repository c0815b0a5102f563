package signing

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// ProvenanceType is the predicate type of SLSA provenance v1.
const ProvenanceType = "https://slsa.dev/provenance/v1"

// ProvenanceBuildType names what the fields of mpack's provenance mean: a tree
// of files was packed and pushed, by a CI job or by hand.
//
//	externalParameters.source     {uri, ref}: the repository that was checked out
//	externalParameters.workflow   what ran in it: GitHub's workflow, GitLab's job, Jenkins' job
//	externalParameters.event      what made it run, as the CI system names it
//	resolvedDependencies          the source by commit (digest gitCommit), then what
//	                              the content was made from, by OCI digest (annotation
//	                              role: base-model or corpus)
//	runDetails.builder.id         the CI workflow, runner or server; urn:mpack:local for none
//	runDetails.metadata           the run's address, when it began and ended
//
// All but the dependencies is what the environment says of itself: a signature
// over it is worth as much as the signer's hold over that environment.
const ProvenanceBuildType = "urn:mpack:build:push:v1"

// localBuilder is the builder where no CI system runs.
const localBuilder = "urn:mpack:local"

// The roles of what content was made from.
const (
	RoleBaseModel = "base-model"
	RoleCorpus    = "corpus"
)

// Dependency is what the content was made from.
type Dependency struct {
	Role       string // RoleBaseModel, RoleCorpus or empty
	Name       string // as people call it
	Repository string // registry/repository that holds it, may be empty
	Digest     digest.Digest
}

// ProvenanceInput is what the environment does not know. What is set goes
// before what the environment says.
type ProvenanceInput struct {
	BuilderID string // a URI
	Source    string // URL of the source repository
	Ref       string // such as refs/heads/main
	Revision  string // commit
	Version   string // of mpack

	Dependencies      []Dependency
	Started, Finished time.Time // zero: not stated
}

// The predicate, https://slsa.dev/spec/v1.0/provenance.

type provenance struct {
	BuildDefinition provenanceDefinition `json:"buildDefinition"`
	RunDetails      provenanceRun        `json:"runDetails"`
}

type provenanceDefinition struct {
	BuildType            string               `json:"buildType"`
	ExternalParameters   provenanceParameters `json:"externalParameters"`
	ResolvedDependencies []provenanceResource `json:"resolvedDependencies,omitempty"`
}

type provenanceParameters struct {
	Source   *provenanceSource `json:"source,omitempty"`
	Workflow string            `json:"workflow,omitempty"`
	Event    string            `json:"event,omitempty"`
}

type provenanceSource struct {
	URI string `json:"uri"`
	Ref string `json:"ref,omitempty"`
}

type provenanceResource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type provenanceRun struct {
	Builder  provenanceBuilder  `json:"builder"`
	Metadata provenanceMetadata `json:"metadata"`
}

type provenanceBuilder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

type provenanceMetadata struct {
	InvocationID string `json:"invocationId,omitempty"`
	StartedOn    string `json:"startedOn,omitempty"`
	FinishedOn   string `json:"finishedOn,omitempty"`
}

// ci is what a CI system says of a run.
type ci struct {
	builder, run, workflow, event string
	source, ref, revision         string
}

// ciSystems are read in this order. Of the environment nothing is read but
// what is named here, for it is full of secrets.
var ciSystems = []struct {
	marker string // is set where it runs
	read   func(env func(string) string) ci
}{
	{"GITHUB_ACTIONS", func(env func(string) string) ci {
		server := address(env("GITHUB_SERVER_URL"))
		c := ci{
			workflow: env("GITHUB_WORKFLOW_REF"),
			event:    env("GITHUB_EVENT_NAME"),
			source:   join(server, env("GITHUB_REPOSITORY")),
			ref:      env("GITHUB_REF"),
			revision: env("GITHUB_SHA"),
		}
		// as in the certificates that Fulcio issues to workflows
		c.builder = join(server, c.workflow)
		c.run = join(c.source, "actions", "runs", env("GITHUB_RUN_ID"))
		if attempt := env("GITHUB_RUN_ATTEMPT"); attempt != "" {
			c.run = join(c.run, "attempts", attempt)
		}
		return c
	}},
	{"GITLAB_CI", func(env func(string) string) ci {
		c := ci{
			workflow: env("CI_JOB_NAME"),
			event:    env("CI_PIPELINE_SOURCE"),
			run:      address(env("CI_JOB_URL")),
			source:   address(env("CI_PROJECT_URL")),
			revision: env("CI_COMMIT_SHA"),
		}
		// as in GitLab's own provenance
		c.builder = join(c.source, "-", "runners", env("CI_RUNNER_ID"))
		if tag := env("CI_COMMIT_TAG"); tag != "" {
			c.ref = "refs/tags/" + tag
		} else if branch := env("CI_COMMIT_BRANCH"); branch != "" {
			c.ref = "refs/heads/" + branch
		}
		return c
	}},
	{"JENKINS_URL", func(env func(string) string) ci {
		return ci{
			builder:  address(env("JENKINS_URL")),
			workflow: env("JOB_NAME"),
			run:      address(env("BUILD_URL")),
			source:   address(env("GIT_URL")),
			ref:      env("GIT_BRANCH"),
			revision: env("GIT_COMMIT"),
		}
	}},
}

// Provenance makes the predicate of an attestation of ProvenanceType. env looks
// up an environment variable, as os.Getenv does. Credentials in URLs are left
// out.
func Provenance(env func(string) string, in ProvenanceInput) ([]byte, error) {
	var c ci
	for _, s := range ciSystems {
		if env(s.marker) != "" {
			c = s.read(env)
			break
		}
	}
	c.builder = cmp.Or(in.BuilderID, c.builder, localBuilder)
	c.ref = cmp.Or(in.Ref, c.ref)
	c.revision = cmp.Or(in.Revision, c.revision)
	if in.Source != "" {
		c.source = address(in.Source)
		if c.source == "" {
			return nil, errors.New("provenance: the source is not a URL")
		}
	}
	p := provenance{
		BuildDefinition: provenanceDefinition{
			BuildType:          ProvenanceBuildType,
			ExternalParameters: provenanceParameters{Workflow: c.workflow, Event: c.event},
		},
		RunDetails: provenanceRun{
			Builder:  provenanceBuilder{ID: c.builder},
			Metadata: provenanceMetadata{InvocationID: c.run, StartedOn: stamp(in.Started), FinishedOn: stamp(in.Finished)},
		},
	}
	def := &p.BuildDefinition
	if c.source != "" {
		def.ExternalParameters.Source = &provenanceSource{URI: c.source, Ref: c.ref}
		if c.revision != "" {
			uri := "git+" + c.source
			if c.ref != "" {
				uri += "@" + c.ref
			}
			def.ResolvedDependencies = append(def.ResolvedDependencies, provenanceResource{URI: uri, Digest: map[string]string{"gitCommit": c.revision}})
		}
	} else if c.revision != "" {
		def.ResolvedDependencies = append(def.ResolvedDependencies, provenanceResource{Name: "source", Digest: map[string]string{"gitCommit": c.revision}})
	}
	for _, d := range in.Dependencies {
		r, err := d.resource()
		if err != nil {
			return nil, fmt.Errorf("provenance: %w", err)
		}
		def.ResolvedDependencies = append(def.ResolvedDependencies, r)
	}
	if in.Version != "" {
		p.RunDetails.Builder.Version = map[string]string{"mpack": in.Version}
	}
	return json.Marshal(p)
}

func (d *Dependency) resource() (provenanceResource, error) {
	if d.Name == "" && d.Repository == "" {
		return provenanceResource{}, errors.New("a dependency has neither name nor repository")
	}
	r := provenanceResource{Name: d.Name}
	if d.Role != "" {
		r.Annotations = map[string]string{"role": d.Role}
	}
	if d.Repository != "" {
		r.URI = "oci://" + d.Repository
	}
	if d.Digest != "" {
		if err := d.Digest.Validate(); err != nil {
			return r, fmt.Errorf("dependency %s: %w", cmp.Or(d.Name, d.Repository), err)
		}
		if r.URI != "" {
			r.URI += "@" + d.Digest.String()
		}
		r.Digest = map[string]string{d.Digest.Algorithm().String(): d.Digest.Encoded()}
	}
	return r, nil
}

// scpAddress is how git spells SSH: user@host:path.
var scpAddress = regexp.MustCompile(`^[^/@:]+@([^/@:]+):([^:]+)$`)

// address is a URL without credentials, query and fragment; empty if it is none.
func address(s string) string {
	u, err := url.Parse(scpAddress.ReplaceAllString(s, "ssh://$1/$2"))
	if err != nil || u.Scheme == "" || u.Host == "" {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return strings.TrimSuffix(u.String(), "/")
}

// join puts parts of a URL together; empty if one is missing.
func join(parts ...string) string {
	if slices.Contains(parts, "") {
		return ""
	}
	return strings.Join(parts, "/")
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ProvenanceSummary is what a person asks of provenance. Anything in it may be
// empty, and all of it is what the signer claims.
type ProvenanceSummary struct {
	BuildType string
	Builder   string
	Run       string // address or name of the run
	Source    string // URL of the source repository
	Ref       string
	Revision  string // commit
	Started   time.Time
	Finished  time.Time
	// Dependencies but for the source.
	Dependencies []Dependency
}

// ParseProvenance reads a predicate of ProvenanceType, by mpack or by others.
func ParseProvenance(predicate []byte) (*ProvenanceSummary, error) {
	var p struct {
		BuildDefinition struct {
			BuildType            string `json:"buildType"`
			ResolvedDependencies []struct {
				Name        string            `json:"name"`
				URI         string            `json:"uri"`
				Digest      map[string]string `json:"digest"`
				Annotations map[string]any    `json:"annotations"`
			} `json:"resolvedDependencies"`
		} `json:"buildDefinition"`
		RunDetails provenanceRun `json:"runDetails"`
	}
	if err := json.Unmarshal(predicate, &p); err != nil {
		return nil, fmt.Errorf("SLSA provenance v1: %w", err)
	}
	if p.BuildDefinition.BuildType == "" || p.RunDetails.Builder.ID == "" {
		return nil, errors.New("SLSA provenance v1: buildType or builder is missing")
	}
	s := &ProvenanceSummary{BuildType: p.BuildDefinition.BuildType, Builder: p.RunDetails.Builder.ID, Run: p.RunDetails.Metadata.InvocationID}
	// what is no time is left out, as what is missing
	s.Started, _ = time.Parse(time.RFC3339, p.RunDetails.Metadata.StartedOn)
	s.Finished, _ = time.Parse(time.RFC3339, p.RunDetails.Metadata.FinishedOn)
	for _, r := range p.BuildDefinition.ResolvedDependencies {
		commit := cmp.Or(r.Digest["gitCommit"], r.Digest["sha1"])
		if s.Revision == "" && commit != "" {
			s.Revision = commit
			s.Source, s.Ref = splitSource(r.URI)
			continue
		}
		d := Dependency{Name: r.Name, Repository: strings.TrimPrefix(r.URI, "oci://")}
		d.Role, _ = r.Annotations["role"].(string)
		if sum := digest.NewDigestFromEncoded(digest.SHA256, r.Digest["sha256"]); sum.Validate() == nil {
			d.Digest = sum
			d.Repository = strings.TrimSuffix(d.Repository, "@"+sum.String())
		}
		s.Dependencies = append(s.Dependencies, d)
	}
	return s, nil
}

// splitSource takes git+https://host/repo@ref apart. A user may stand before
// another @, so the ref is sought behind the host.
func splitSource(uri string) (source, ref string) {
	uri = strings.TrimPrefix(uri, "git+")
	_, path, ok := strings.Cut(uri, "://")
	if !ok {
		return uri, ""
	}
	slash := strings.IndexByte(path, '/')
	if slash < 0 {
		return uri, ""
	}
	if at := strings.IndexByte(path[slash:], '@'); at >= 0 {
		at += len(uri) - len(path) + slash
		return uri[:at], uri[at+1:]
	}
	return uri, ""
}
