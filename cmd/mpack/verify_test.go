package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mpack runs a command line in this process.
func mpack(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"mpack"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// Who puts a file among signed ones puts an ignore file there too.
func TestExtraFilesCannotHideBehindAnIgnoreFile(t *testing.T) {
	t.Setenv(passwordVariable, "")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	work := t.TempDir()
	dir, key, ref := filepath.Join(work, "model"), filepath.Join(work, "team"), "oci:"+filepath.Join(work, "layout")+":v1"
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", "{}")
	for _, line := range [][]string{
		{"key", "generate", "--output-key-prefix", key},
		{"push", "-q", "--sign", "--key", key + ".key", "--tlog-upload=false", ref, dir},
		{"sign", "-q", "--key", key + ".key", "--tlog-upload=false", "--dir", dir},
	} {
		if code, _, errs := mpack(t, line...); code != exitOK {
			t.Fatalf("mpack %s: exit code %d: %s", line[0], code, errs)
		}
	}
	against := map[string][]string{
		"an artifact": {"verify", "--key", key + ".pub", "--insecure-ignore-tlog", "--dir", dir, ref},
		"model.sig":   {"verify", "--key", key + ".pub", "--insecure-ignore-tlog", "--dir", dir},
	}
	for name, line := range against {
		if code, _, errs := mpack(t, line...); code != exitOK {
			t.Errorf("against %s: exit code %d: %s", name, code, errs)
		}
	}
	write("modeling.py", "import os")
	write(".mpackignore", ".mpackignore\n*.py\n")
	for name, line := range against {
		if code, _, errs := mpack(t, line...); code != exitVerify || !strings.Contains(errs, "modeling.py") {
			t.Errorf("against %s, with a file that is not signed: exit code %d: %s", name, code, errs)
		}
	}
}

func TestALayoutIsNotPulledIntoItself(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Chdir(t.TempDir())
	if err := os.Mkdir("tree", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("tree", "index.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		code int
		line []string
	}{
		{exitOK, []string{"push", "-q", "oci:out:v1", "tree"}},
		{exitUsage, []string{"pull", "-q", "oci:out:v1"}},
		{exitOK, []string{"pull", "-q", "oci:out:v1", "-o", "pulled"}},
	} {
		if code, _, errs := mpack(t, s.line...); code != s.code {
			t.Errorf("mpack %s: exit code %d, want %d: %s", strings.Join(s.line, " "), code, s.code, errs)
		}
	}
}

func TestAPolicyOfTheEnvironmentBindsBesideTheFlag(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	work := t.TempDir()
	policy := func(name, action string) string {
		file := filepath.Join(work, name+".yaml")
		text := "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + name +
			"}\nspec:\n  images: [{glob: '**'}]\n  authorities: [{static: {action: " + action + "}}]\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const unset = "unset"
	pass, deny := policy("pass", "pass"), policy("deny", "fail")
	s, err := startRegistry("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	ref := s.addr + "/team/policies:v1"
	if code, _, errs := mpack(t, "push", "-q", ref, work); code != exitOK {
		t.Fatal(errs)
	}
	for _, c := range []struct {
		variable, flag string
		code           int
	}{
		{unset, pass, exitOK}, {unset, deny, exitVerify}, {pass, pass, exitOK},
		{pass, deny, exitVerify}, {deny, pass, exitVerify}, {deny, "", exitVerify},
		{unset, "", exitOK}, {"", "", exitUsage}, {"", pass, exitUsage}, // a template's value is missing
	} {
		t.Setenv("MPACK_POLICY", c.variable)
		if c.variable == unset {
			os.Unsetenv("MPACK_POLICY")
		}
		line := []string{"cat", ref, "pass.yaml"}
		if c.flag != "" {
			line = append(line, "--policy", c.flag)
		}
		if code, out, errs := mpack(t, line...); code != c.code || (code != exitOK && out != "") {
			t.Errorf("MPACK_POLICY=%s --policy %s: exit code %d, want %d: %s", filepath.Base(c.variable), filepath.Base(c.flag), code, c.code, errs)
		}
	}
}

// The name of a layout is whatever its directory is called.
func TestNoPolicyIsAboutALayout(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Chdir(t.TempDir())
	const all = "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: all}\nspec: {images: [{glob: '**'}], authorities: [{static: {action: pass}}]}\n"
	if err := os.WriteFile("all.yaml", []byte(all), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"oci:model", "oci:5000/model", "oci-archive:model.tar"} {
		_, digest, errs := mpack(t, "push", "-q", "--include", "all.yaml", name+":v1", ".")
		for _, ref := range []string{name + ":v1", name + "@" + strings.TrimSpace(digest)} {
			if code, _, errs := mpack(t, "verify", "--policy", "all.yaml", ref); code != exitVerify || !strings.Contains(errs, "layouts and archives") {
				t.Errorf("%s: exit code %d: %s", ref, code, errs)
			}
		}
		if digest == "" {
			t.Error(errs)
		}
	}
}

// What is asked for is held to, or refused: never passed over.
func TestNoDemandIsPassedOver(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	dir := t.TempDir()
	for line, want := range map[string]string{
		"verify --dir D": "--key",
		"verify --certificate-identity a oci:L:v1":                                                 "go together",
		"pull --certificate-oidc-issuer-regexp a oci:L:v1":                                         "go together",
		"verify-attestation --key k --certificate-identity a --certificate-oidc-issuer b oci:L:v1": "exclude each other",
		"verify --key k.pub --dir D --policy p.yaml":                                               "name the REF",
		"verify --key k.pub --dir D -a build=417":                                                  "name the REF",
		"verify --key k.pub --dir D --output-signature o":                                          "name its REF",
		"verify --key k.pub --dir D --signature s oci:L:v1":                                        "without REF",
		"verify --policy POLICY -a build=417 oci:L:v1":                                             "--key",
		"sign --key k --dir D -a build=417":                                                        "--annotation",
		"sign --key k --dir D oci:L:v1":                                                            "leave out oci:L:v1",
		"sign --key k --signature s oci:L:v1":                                                      "--dir",
	} {
		policy := filepath.Join(dir, "p.yaml")
		text := "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: all}\nspec: {images: [{glob: '**'}], authorities: [{static: {action: pass}}]}\n"
		if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args := strings.Fields(strings.ReplaceAll(line, "POLICY", policy))
		if code, _, errs := mpack(t, args...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("mpack %s: exit code %d: %s", line, code, errs)
		}
	}
	for _, f := range []string{"--key", "--policy", "--certificate-identity", "--certificate-oidc-issuer-regexp"} {
		for _, command := range []string{"pull", "verify"} {
			if code, _, errs := mpack(t, command, "oci:L:v1", f, ""); code != exitUsage || !strings.Contains(errs, f+" (MPACK_") {
				t.Errorf("mpack %s %s '': exit code %d: %s", command, f, code, errs)
			}
		}
	}
	t.Setenv("MPACK_POLICY", "p.yaml")
	if code, _, errs := mpack(t, "verify", "--key", "k.pub", "--dir", dir); code != exitUsage || !strings.Contains(errs, "MPACK_POLICY") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}
