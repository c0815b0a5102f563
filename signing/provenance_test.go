package signing

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/content/memory"
)

// The environments of CI systems, each with secrets that stand beside what is
// asked for.
var ciEnvironments = map[string]map[string]string{
	"github": {
		"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_TOKEN": "secret", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "secret",
		"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "team/model", "GITHUB_REF": "refs/heads/main",
		"GITHUB_SHA": "2d6db2d7882fa8b7d56e74b8e24036deb475de8c", "GITHUB_WORKFLOW_REF": "team/model/.github/workflows/train.yml@refs/heads/main",
		"GITHUB_EVENT_NAME": "push", "GITHUB_RUN_ID": "1234", "GITHUB_RUN_ATTEMPT": "2",
	},
	"gitlab": {
		"CI": "true", "GITLAB_CI": "true", "CI_JOB_TOKEN": "secret", "CI_REPOSITORY_URL": "https://gitlab-ci-token:secret@git.example/team/model.git",
		"CI_PROJECT_URL": "https://git.example/team/model", "CI_JOB_URL": "https://git.example/team/model/-/jobs/7", "CI_JOB_NAME": "train",
		"CI_PIPELINE_SOURCE": "schedule", "CI_RUNNER_ID": "42", "CI_COMMIT_TAG": "v1.2.0", "CI_COMMIT_SHA": "2d6db2d7882fa8b7d56e74b8e24036deb475de8c",
	},
	"jenkins": {
		"JENKINS_URL": "https://jenkins.example/", "JOB_NAME": "team/model", "BUILD_URL": "https://jenkins.example/job/team/job/model/7/",
		"GIT_URL": "https://robot:secret@git.example/team/model.git?private_token=secret", "GIT_BRANCH": "origin/main",
		"GIT_COMMIT": "2d6db2d7882fa8b7d56e74b8e24036deb475de8c", "REGISTRY_PASSWORD": "secret",
	},
	"none": {"HOME": "/home/secret", "USER": "secret"},
}

var provenanceInput = ProvenanceInput{
	Version: "1.0.0",
	Dependencies: []Dependency{
		{RoleBaseModel, "team/base-7b", "registry.example/team/base", "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
		{RoleCorpus, "stories", "", ""},
	},
	Started:  time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600)),
	Finished: time.Date(2026, 3, 1, 11, 30, 0, 0, time.UTC),
}

func TestProvenance(t *testing.T) {
	for name, vars := range ciEnvironments {
		t.Run(name, func(t *testing.T) {
			env := func(k string) string { return vars[k] }
			raw, err := Provenance(env, provenanceInput)
			check(t, err)
			if strings.Contains(string(raw), "secret") {
				t.Errorf("a secret is in it: %s", raw)
			}
			var got bytes.Buffer
			check(t, json.Indent(&got, raw, "", "  "))
			got.WriteByte('\n')
			file := filepath.Join("testdata", "provenance", name+".json")
			if os.Getenv("UPDATE") != "" {
				check(t, os.MkdirAll(filepath.Dir(file), 0o755))
				check(t, os.WriteFile(file, got.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			check(t, err)
			if got.String() != string(want) {
				t.Errorf("differs from %s:\n%s", file, &got)
			}

			s, err := ParseProvenance(raw)
			check(t, err)
			if s.BuildType != ProvenanceBuildType || !s.Started.Equal(provenanceInput.Started) || !s.Finished.Equal(provenanceInput.Finished) || !reflect.DeepEqual(s.Dependencies, provenanceInput.Dependencies) {
				t.Errorf("read %+v", s)
			}
			if name != "none" && (s.Revision != "2d6db2d7882fa8b7d56e74b8e24036deb475de8c" || !strings.HasPrefix(s.Source, "https://git.example/team/model") || s.Ref == "" || s.Run == "") {
				t.Errorf("read %+v", s)
			}
		})
	}
}

// Whatever is added to the environment, nothing else of it is looked at.
func TestProvenanceReadsOnlyWhatItNames(t *testing.T) {
	known := []string{"GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"}
	for _, vars := range ciEnvironments {
		_, err := Provenance(func(k string) string {
			for _, word := range []string{"TOKEN", "PASSWORD", "SECRET", "KEY", "CREDENTIAL", "AUTH", "REPOSITORY_URL"} {
				if strings.Contains(k, word) {
					t.Errorf("looks at %s", k)
				}
			}
			if _, ok := vars[k]; !ok && !slices.Contains(known, k) && k != "CI_COMMIT_BRANCH" {
				t.Errorf("looks at %s", k)
			}
			return vars[k]
		}, ProvenanceInput{})
		check(t, err)
	}
}

func TestProvenanceInputGoesFirst(t *testing.T) {
	env := func(k string) string { return ciEnvironments["github"][k] }
	raw, err := Provenance(env, ProvenanceInput{BuilderID: "https://builder.example", Source: "https://user:secret@other.example/repo", Ref: "v2", Revision: "abc"})
	check(t, err)
	s, err := ParseProvenance(raw)
	check(t, err)
	if s.Builder != "https://builder.example" || s.Source != "https://other.example/repo" || s.Ref != "v2" || s.Revision != "abc" || strings.Contains(string(raw), "secret") {
		t.Errorf("read %+v", s)
	}
	if _, err := Provenance(env, ProvenanceInput{Source: "C:\\repo"}); err == nil {
		t.Error("a path is taken for the source's URL")
	}
	for _, d := range []Dependency{{}, {Name: "x", Digest: "sha256:1"}} {
		if _, err := Provenance(env, ProvenanceInput{Dependencies: []Dependency{d}}); err == nil {
			t.Errorf("took %+v", d)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:secret@git.example/a?token=secret#secret": "https://git.example/a",
		"git@git.example:team/model.git":                        "ssh://git.example/team/model.git",
		"https://git.example/":                                  "https://git.example",
		"/srv/git/model":                                        "",
		"https://a b":                                           "",
		"":                                                      "",
	} {
		if got := address(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestParseProvenanceOfOthers(t *testing.T) {
	s, err := ParseProvenance([]byte(`{
		"buildDefinition": {
			"buildType": "https://actions.github.io/buildtypes/workflow/v1",
			"externalParameters": {"workflow": {"ref": "refs/tags/v1", "path": ".github/workflows/x.yml"}},
			"resolvedDependencies": [
				{"uri": "git+https://robot@git.example/team/model@refs/tags/v1", "digest": {"gitCommit": "abc"}, "annotations": {"n": 1}},
				{"uri": "oci://registry.example/base", "digest": {"sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}},
				{"uri": "pkg:x", "digest": {"sha256": "short"}}
			]
		},
		"runDetails": {"builder": {"id": "https://git.example/x"}, "metadata": {"startedOn": "today"}}
	}`))
	check(t, err)
	want := &ProvenanceSummary{
		BuildType: "https://actions.github.io/buildtypes/workflow/v1", Builder: "https://git.example/x",
		Source: "https://robot@git.example/team/model", Ref: "refs/tags/v1", Revision: "abc",
		Dependencies: []Dependency{
			{Repository: "registry.example/base", Digest: digest.Digest("sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")},
			{Repository: "pkg:x"},
		},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("read %+v", s)
	}
	for _, bad := range []string{"", "[]", "{}", `{"buildDefinition":{"buildType":"x"}}`} {
		if _, err := ParseProvenance([]byte(bad)); err == nil {
			t.Errorf("%q is provenance", bad)
		}
	}
}

func TestProvenanceIsAttested(t *testing.T) {
	ctx := t.Context()
	private, public := key(t)
	s := store(t, memory.New(), "x")
	raw, err := Provenance(func(k string) string { return ciEnvironments["gitlab"][k] }, provenanceInput)
	check(t, err)
	_, err = Attest(ctx, s, AttestOptions{Signer: signer(private), Format: Both, PredicateType: "slsaprovenance1", Predicate: raw})
	check(t, err)
	all, err := VerifyAttestation(ctx, s, AttestationOptions{Verifier: offline(public), PredicateType: ProvenanceType})
	check(t, err)
	for _, a := range all {
		p, err := ParseProvenance(a.Predicate)
		check(t, err)
		if p.Builder != "https://git.example/team/model/-/runners/42" {
			t.Errorf("read %+v", p)
		}
	}
	if len(all) != 2 {
		t.Errorf("%d attestations", len(all))
	}
}

func FuzzParseProvenance(f *testing.F) {
	for _, vars := range ciEnvironments {
		raw, err := Provenance(func(k string) string { return vars[k] }, provenanceInput)
		check(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := ParseProvenance(raw); err == nil && s.Builder == "" {
			t.Error("nobody built it")
		}
	})
}
