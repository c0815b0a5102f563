//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mpack/e2e/bed"
)

// keyPassword encrypts every private key here.
const keyPassword = "a password of keys"

// withPassword is a command line of mpack with the password of keys.
func withPassword(t *testing.T, args ...string) *exec.Cmd {
	return command(t, []string{"COSIGN_PASSWORD=" + keyPassword}, args...)
}

// keyPair makes one with mpack, in cosign's form.
func keyPair(t *testing.T) (private, public string) {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "k")
	ok(t, withPassword(t, "key", "generate", "--output-key-prefix", prefix))
	return prefix + ".key", prefix + ".pub"
}

// cosign is a command line of cosign 2 or 3.
func cosign(t *testing.T, version int, command string, args ...string) *exec.Cmd {
	t.Helper()
	name := map[int]string{2: "cosign", 3: "cosign3"}[version]
	cmd := peer(t, name, append([]string{command, "--allow-http-registry"}, args...)...)
	cmd.Env = append(cmd.Env, "COSIGN_PASSWORD="+keyPassword, "COSIGN_YES=true")
	return cmd
}

// noRoot is a trusted root without anything in it: cosign 2 wants one for a
// bundle even where a key verifies it and no log is asked.
func noRoot(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "trusted_root.json")
	check(t, os.WriteFile(name, []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`), 0o644))
	return name
}

// writer signs with a key, without a log.
type writer struct {
	name   string
	bundle bool // it writes bundles, perhaps among others
	sign   func(t *testing.T, key, ref string) *exec.Cmd
	attest func(t *testing.T, key, kind, predicate, ref string) *exec.Cmd
}

func writers() []writer {
	byMpack := func(format string) writer {
		flags := []string{"--tlog-upload=false", "--signature-format", format}
		return writer{"mpack " + format, format != "legacy",
			func(t *testing.T, key, ref string) *exec.Cmd {
				return withPassword(t, append([]string{"sign", "--key", key, ref}, flags...)...)
			},
			func(t *testing.T, key, kind, predicate, ref string) *exec.Cmd {
				return withPassword(t, append([]string{"attest", "--key", key, "--type", kind, "--predicate", predicate, ref}, flags...)...)
			}}
	}
	all := []writer{byMpack("legacy"), byMpack("bundle"), byMpack("both")}
	if !bed.Full() {
		return all
	}
	byCosign := func(version int, bundle bool) writer {
		flags := []string{"--tlog-upload=false", fmt.Sprintf("--new-bundle-format=%t", bundle)}
		if version == 3 {
			flags = append(flags, "--use-signing-config=false")
		}
		format := map[bool]string{false: "legacy", true: "bundle"}[bundle]
		return writer{fmt.Sprintf("cosign %d %s", version, format), bundle,
			func(t *testing.T, key, ref string) *exec.Cmd {
				return cosign(t, version, "sign", append([]string{"--key", key, ref}, flags...)...)
			},
			func(t *testing.T, key, kind, predicate, ref string) *exec.Cmd {
				return cosign(t, version, "attest", append([]string{"--key", key, "--type", kind, "--predicate", predicate, ref}, flags...)...)
			}}
	}
	return append(all, byCosign(2, false), byCosign(2, true), byCosign(3, false), byCosign(3, true))
}

// readers verify with a key, without a log: "verify" or "verify-attestation"
// and its arguments. refused is their exit code for what does not verify.
type reader struct {
	name    string
	refused int
	read    func(t *testing.T, bundle bool, command, key, ref string, args ...string) *exec.Cmd
}

func readers() []reader {
	all := []reader{{"mpack", 5, func(t *testing.T, _ bool, command, key, ref string, args ...string) *exec.Cmd {
		return withPassword(t, append([]string{command, "--key", key, "--insecure-ignore-tlog", ref}, args...)...)
	}}}
	if !bed.Full() {
		return all
	}
	for _, version := range []int{2, 3} {
		all = append(all, reader{fmt.Sprintf("cosign %d", version), 1, func(t *testing.T, bundle bool, command, key, ref string, args ...string) *exec.Cmd {
			args = append([]string{"--key", key, "--insecure-ignore-tlog", ref}, args...)
			if bundle && version == 2 {
				args = append(args, "--trusted-root", noRoot(t))
			}
			return cosign(t, version, command, args...)
		}})
	}
	return all
}

// signingKinds are the registries that signatures are tried on.
func signingKinds() []string {
	if bed.Full() {
		return []string{bed.Distribution, bed.Olareg, bed.Debian}
	}
	return []string{bed.Mpack}
}

const slsa = `{"buildDefinition":{"buildType":"https://e2e.test/build","externalParameters":{}},"runDetails":{"builder":{"id":"https://e2e.test/builder"}}}`

func predicate(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "predicate.json")
	check(t, os.WriteFile(name, []byte(slsa), 0o644))
	return name
}

// Everyone reads what anyone wrote, in every form, in every registry; and
// refuses it where the key is another.
func TestSignaturesAndAttestationsBothWays(t *testing.T) {
	tree := small(t)
	private, public := keyPair(t)
	_, another := keyPair(t)
	predicate := predicate(t)
	const kind = "slsaprovenance1"
	for _, k := range signingKinds() {
		reg := registry(t, k, bed.RegistryOptions{})
		for i, w := range writers() {
			t.Run(k+"/"+w.name, func(t *testing.T) {
				repository := fmt.Sprintf("%s/e2e/m%d", reg.Addr, i)
				tag := repository + ":v1"
				ref := repository + "@" + push(t, tag, tree).Digest
				for _, r := range readers() {
					if got := run(t, r.read(t, w.bundle, "verify", public, ref)); got.Code == 0 {
						t.Errorf("%s takes what nobody signed: %s", r.name, got.Stdout)
					}
				}
				ok(t, w.sign(t, private, ref))
				ok(t, w.attest(t, private, kind, predicate, ref))
				for _, r := range readers() {
					for _, what := range [][]string{{"verify"}, {"verify-attestation", "--type", kind}} {
						if got := run(t, r.read(t, w.bundle, what[0], public, tag, what[1:]...)); got.Code != 0 {
							t.Errorf("%s %s: exit code %d\n%s%s", r.name, what[0], got.Code, got.Stdout, got.Stderr)
						}
						if got := run(t, r.read(t, w.bundle, what[0], another, ref, what[1:]...)); got.Code == 0 || r.name == "mpack" && got.Code != r.refused {
							t.Errorf("%s %s with another key: exit code %d\n%s%s", r.name, what[0], got.Code, got.Stdout, got.Stderr)
						}
					}
				}
				if got := mpack(t, "attestations", ref).Stdout; !strings.Contains(got, "https://slsa.dev/provenance/v1") {
					t.Errorf("mpack attestations does not list it: %s", got)
				}
			})
		}
	}
}

func TestAnnotationsAreSigned(t *testing.T) {
	ref := registry(t, kind(), bed.RegistryOptions{}).Addr + "/e2e/m:v1"
	push(t, ref, small(t))
	private, public := keyPair(t)
	ok(t, withPassword(t, "sign", "--key", private, "--tlog-upload=false", "-a", "stage=prod", "-a", "team=ml", ref))
	verify := []string{"verify", "--key", public, "--insecure-ignore-tlog", ref}
	mpack(t, verify...)
	mpack(t, append(verify, "-a", "stage=prod")...)
	fails(t, 5, []string{"stage"}, append(verify, "-a", "stage=test")...)
	fails(t, 5, []string{"nobody"}, append(verify, "-a", "nobody=said")...)
	if bed.Full() {
		ok(t, cosign(t, 2, "verify", "--key", public, "--insecure-ignore-tlog", "-a", "stage=prod", ref))
	}
}

func TestKeysAreEncryptedAndNeverOverwritten(t *testing.T) {
	private, public := keyPair(t)
	info, err := os.Stat(private)
	check(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %s", info.Mode())
	}
	before, err := os.ReadFile(private)
	check(t, err)
	if !bytes.HasPrefix(before, []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")) {
		t.Errorf("the key begins %.60q", before)
	}
	failing(t, 1, []string{private}, withPassword(t, "key", "generate", "--output-key-prefix", strings.TrimSuffix(private, ".key")))
	check(t, os.Remove(private)) // a public key alone must not be written over either
	failing(t, 1, []string{public}, withPassword(t, "key", "generate", "--output-key-prefix", strings.TrimSuffix(private, ".key")))
	if _, err := os.Stat(private); err == nil {
		t.Error("a private key was left beside a public key of another")
	}
	check(t, os.WriteFile(private, before, 0o600))

	ref := registry(t, kind(), bed.RegistryOptions{}).Addr + "/e2e/m:v1"
	push(t, ref, small(t))
	const wrong = "not the password"
	r := failing(t, 1, []string{"password"}, command(t, []string{"COSIGN_PASSWORD=" + wrong}, "sign", "--debug", "--key", private, "--tlog-upload=false", ref))
	if strings.Contains(r.Stderr+r.Stdout, wrong) {
		t.Errorf("the password is in the messages: %s", r.Stderr)
	}
	// a key in the environment, and cosign's
	ok(t, command(t, []string{"COSIGN_PASSWORD=" + keyPassword, "SECRET=" + string(before)}, "sign", "--key", "env://SECRET", "--tlog-upload=false", ref))
	mpack(t, "verify", "--key", public, "--insecure-ignore-tlog", ref)
	if !bed.Full() {
		return
	}
	cmd := peer(t, "cosign", "generate-key-pair", "--output-key-prefix", "theirs")
	cmd.Dir, cmd.Env = t.TempDir(), append(cmd.Env, "COSIGN_PASSWORD="+keyPassword)
	ok(t, cmd)
	ok(t, withPassword(t, "sign", "--key", filepath.Join(cmd.Dir, "theirs.key"), "--tlog-upload=false", ref))
	ok(t, cosign(t, 2, "verify", "--key", filepath.Join(cmd.Dir, "theirs.pub"), "--insecure-ignore-tlog", ref))
	mpack(t, "verify", "--key", public, "--insecure-ignore-tlog", ref) // the first is still there
}

// The password is asked for on a terminal, unseen, and nowhere else.
func TestPasswordPrompt(t *testing.T) {
	prefix := filepath.Join(t.TempDir(), "k")
	generate := []string{"key", "generate", "--output-key-prefix", prefix}
	cmd := command(t, nil, generate...)
	cmd.Stdin = strings.NewReader(keyPassword + "\n" + keyPassword + "\n")
	failing(t, 1, []string{"no terminal", "COSIGN_PASSWORD"}, cmd)

	onTerminal := func(line string, answers ...string) string {
		t.Helper()
		cmd := exec.Command("script", "-qec", line, "/dev/null")
		cmd.Env = env(t)
		in := must[io.WriteCloser](t)(cmd.StdinPipe())
		out := must[io.ReadCloser](t)(cmd.StdoutPipe())
		check(t, cmd.Start())
		var seen strings.Builder
		for b := make([]byte, 1024); ; {
			n, err := out.Read(b)
			seen.Write(b[:n])
			if strings.HasSuffix(seen.String(), ": ") && len(answers) > 0 {
				time.Sleep(50 * time.Millisecond) // until the terminal is silent
				_, err := io.WriteString(in, answers[0]+"\n")
				check(t, err)
				if answers = answers[1:]; len(answers) == 0 {
					check(t, in.Close()) // script waits for that
				}
			}
			if err != nil {
				break
			}
		}
		_ = cmd.Wait() // what it says tells
		if len(answers) > 0 || strings.Contains(seen.String(), keyPassword) {
			t.Errorf("asked too seldom, or the password is to be seen: %q", seen.String())
		}
		return seen.String()
	}
	line := mpackBin + " " + strings.Join(generate, " ")
	if text := onTerminal(line, keyPassword, "another one"); !strings.Contains(text, "differ") {
		t.Errorf("two passwords are taken: %q", text)
	}
	onTerminal(line, keyPassword, keyPassword)
	ref := registry(t, kind(), bed.RegistryOptions{}).Addr + "/e2e/m:v1"
	push(t, ref, small(t))
	onTerminal(mpackBin+" sign --tlog-upload=false --key "+prefix+".key "+ref, keyPassword) // once, though there are two signatures
	mpack(t, "verify", "--key", prefix+".pub", "--insecure-ignore-tlog", ref)
}

// A layout is signed and verified as a registry is. What mpack signed in it,
// cosign verifies when a registry serves it (olareg keeps layouts, but with
// marks of its own for referrers: oras copies those in); and what cosign signed
// in that registry, mpack verifies in the layout.
func TestSignaturesOfALayout(t *testing.T) {
	tree := small(t)
	private, public := keyPair(t)
	_, another := keyPair(t)
	dir := t.TempDir()
	at := func(i int) string { return fmt.Sprintf("oci:%s/store/e2e/m%d:v1", dir, i) }
	verify := func(t *testing.T, ref string) {
		t.Helper()
		for _, args := range [][]string{{"verify"}, {"verify-attestation", "--type", "slsaprovenance1"}} {
			args = append(args, "--insecure-ignore-tlog", "--offline", ref)
			mpack(t, append(args, "--key", public)...)
			fails(t, 5, []string{"key"}, append(args, "--key", another)...)
		}
	}
	for i, w := range writers() {
		if strings.HasPrefix(w.name, "mpack") {
			push(t, at(i), tree)
			ok(t, w.sign(t, private, at(i)))
			ok(t, w.attest(t, private, "slsaprovenance1", predicate(t), at(i)))
			verify(t, at(i))
		}
	}
	if !bed.Full() {
		return
	}
	reg, err := bed.StartRegistry(bed.Olareg, dir, mpackBin, peersBin, bed.RegistryOptions{})
	check(t, err)
	defer reg.Stop()
	for i, w := range writers() {
		ref := fmt.Sprintf("%s/e2e/m%d:v1", reg.Addr, i)
		if !strings.HasPrefix(w.name, "mpack") {
			push(t, ref, tree)
			ok(t, w.sign(t, private, ref))
			ok(t, w.attest(t, private, "slsaprovenance1", predicate(t), ref))
			continue
		}
		if w.bundle { // one at a time, as olareg loses referrers that come at once
			copied := fmt.Sprintf("%s/e2e/copied%d:v1", reg.Addr, i)
			ok(t, peer(t, "oras", "cp", "-r", "--concurrency", "1", "--from-oci-layout", "--to-plain-http", strings.TrimPrefix(at(i), "oci:"), copied))
			ref = copied
		}
		for _, r := range readers() {
			ok(t, r.read(t, w.bundle, "verify", public, ref))
			ok(t, r.read(t, w.bundle, "verify-attestation", public, ref, "--type", "slsaprovenance1"))
		}
	}
	check(t, reg.End())
	for i, w := range writers() {
		t.Run(w.name, func(t *testing.T) { verify(t, at(i)) })
	}
}

// Signatures and attestations come along with a copy, so that a site without a
// network verifies what it carried in.
func TestACopyVerifiesOffline(t *testing.T) {
	private, public := keyPair(t)
	src := registry(t, kind(), bed.RegistryOptions{})
	from := src.Addr + "/e2e/m:v1"
	digest := push(t, from, small(t)).Digest
	for _, format := range []string{"legacy", "bundle"} {
		ok(t, withPassword(t, "sign", "--key", private, "--tlog-upload=false", "--signature-format", format, from))
		ok(t, withPassword(t, "attest", "--key", private, "--tlog-upload=false", "--signature-format", format, "--type", "slsaprovenance1", "--predicate", predicate(t), from))
	}
	refer := func(addr, repository string) int {
		var index struct{ Manifests []json.RawMessage }
		parse(t, string(referrersOf(t, addr, repository, digest)), &index)
		return len(index.Manifests)
	}
	referrers := refer(src.Addr, "e2e/m")
	if referrers < 2 { // a signature and an attestation
		t.Errorf("there are %d bundles", referrers)
	}
	layout := "oci:" + filepath.Join(t.TempDir(), "carried") + ":v1"
	mpack(t, "copy", from, layout)
	src.Stop()
	verify := func(ref string) {
		t.Helper()
		r := mpack(t, "verify", "--key", public, "--insecure-ignore-tlog", "--offline", ref)
		if !strings.Contains(r.Stdout+r.Stderr, digest) {
			t.Errorf("verify does not say which digest: %s%s", r.Stdout, r.Stderr)
		}
		mpack(t, "verify-attestation", "--key", public, "--insecure-ignore-tlog", "--offline", "--type", "slsaprovenance1", ref)
	}
	verify(layout)
	out := filepath.Join(t.TempDir(), "out")
	mpack(t, "pull", "--verify", "--key", public, "--insecure-ignore-tlog", "--offline", layout, "-o", out)
	for _, k := range signingKinds() {
		addr := registry(t, k, bed.RegistryOptions{}).Addr
		to := addr + "/inside/m:v1"
		mpack(t, "copy", layout, to)
		verify(to)
		if there := refer(addr, "inside/m"); there != referrers {
			t.Errorf("%s: %d referrers of %d came along", k, there, referrers)
		}
		if bed.Full() {
			ok(t, cosign(t, 2, "verify", "--key", public, "--insecure-ignore-tlog", "--trusted-root", noRoot(t), to))
			ok(t, cosign(t, 3, "verify", "--key", public, "--insecure-ignore-tlog", to))
			ok(t, cosign(t, 3, "verify", "--key", public, "--insecure-ignore-tlog", "--new-bundle-format=false", to))
		}
	}
}

// What is tagged is never left unsigned: where the signature cannot be stored,
// the tag stays where it was.
func TestPushSignsBeforeItTags(t *testing.T) {
	private, public := keyPair(t)
	tree := small(t)
	for _, format := range []string{"legacy", "bundle", "both"} {
		t.Run(format, func(t *testing.T) {
			w := wired(t, kind())
			ref := w.Addr + "/e2e/m:v1"
			var mu sync.Mutex
			var puts []string
			refuse := false
			w.Refuse = func(rw http.ResponseWriter, r *http.Request) bool {
				_, name, found := strings.Cut(r.URL.Path, "/manifests/")
				if r.Method != http.MethodPut || !found {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				puts = append(puts, name)
				// the artifact is the first to be put by digest, the signature comes after
				if refuse && name != "v1" && (strings.HasSuffix(name, ".sig") || len(puts) > 1) {
					rw.WriteHeader(http.StatusForbidden)
					return true
				}
				return false
			}
			sign := []string{"push", "--sign", "--key", private, "--tlog-upload=false", "--signature-format", format, ref}
			refuse = true
			if r := run(t, withPassword(t, append(sign, tree)...)); r.Code == 0 {
				t.Errorf("a push succeeds whose signature is refused: %s", r.Stderr)
			}
			fails(t, 3, nil, "inspect", ref) // no tag
			refuse, puts = false, nil
			ok(t, withPassword(t, append(sign, tree)...))
			if len(puts) < 2 || puts[len(puts)-1] != "v1" {
				t.Errorf("manifests were put in this order: %q", puts)
			}
			mpack(t, "verify", "--key", public, "--insecure-ignore-tlog", ref)
			changed := small(t)
			check(t, os.WriteFile(filepath.Join(changed, "a.txt"), []byte("another"), 0o644))
			refuse, puts = true, nil
			if r := run(t, withPassword(t, append(sign, changed)...)); r.Code == 0 {
				t.Errorf("a push succeeds whose signature is refused: %s", r.Stderr)
			}
			mpack(t, "verify", "--key", public, "--insecure-ignore-tlog", ref)
			refuse = false
			out := filepath.Join(t.TempDir(), "out")
			mpack(t, "pull", ref, "-o", out)
			same(t, tree, out)
		})
	}
}

// What cannot be signed is known before anything is sent.
func TestPushLooksForItsKeyFirst(t *testing.T) {
	private, _ := keyPair(t)
	w := wired(t, kind())
	ref := w.Addr + "/e2e/m:v1"
	failing(t, 1, []string{"password"}, command(t, []string{"COSIGN_PASSWORD=wrong"}, "push", "--sign", "--key", private, ref, small(t)))
	failing(t, 1, []string{"no-such.key"}, withPassword(t, "push", "--sign", "--key", "no-such.key", ref, small(t)))
	failing(t, 1, []string{"identity"}, withPassword(t, "push", "--provenance", ref, small(t)))
	if up := w.Up(); up != 0 {
		t.Errorf("%d bytes were sent", up)
	}
}

func TestPullVerifiesBeforeItFetches(t *testing.T) {
	private, public := keyPair(t)
	_, another := keyPair(t)
	tree := small(t)
	w := wired(t, kind())
	ref := w.Addr + "/e2e/m:v1"
	digest := push(t, ref, tree).Digest
	var fetched sync.Map
	w.Refuse = func(_ http.ResponseWriter, r *http.Request) bool {
		if _, name, found := strings.Cut(r.URL.Path, "/blobs/"); found && r.Method == http.MethodGet {
			fetched.Store(name, true)
		}
		return false
	}
	refused := func(why string, words []string, args ...string) {
		t.Helper()
		fetched.Clear()
		out := filepath.Join(t.TempDir(), "out")
		fails(t, 5, words, append([]string{"pull", "--verify", "--insecure-ignore-tlog", ref, "-o", out}, args...)...)
		nothing(t, out)
		for _, layer := range layers(t, ref) {
			if _, found := fetched.Load(layer); found {
				t.Errorf("%s: content was fetched before the signature held", why)
			}
		}
	}
	refused("no signature", []string{"no signature"}, "--key", public)
	ok(t, withPassword(t, "sign", "--key", private, "--tlog-upload=false", ref))
	refused("wrong key", []string{"not signed with this key"}, "--key", another)
	refused("a log is wanted", []string{"log"}, "--key", public, "--insecure-ignore-tlog=false", "--trusted-root", noRoot(t))
	out := filepath.Join(t.TempDir(), "out")
	p := pull(t, "--verify", "--key", public, "--insecure-ignore-tlog", ref, "-o", out)
	same(t, tree, out)
	if p.Digest != digest {
		t.Errorf("pulled %s, want %s", p.Digest, digest)
	}
	out = filepath.Join(t.TempDir(), "out")
	fails(t, 2, nil, "pull", "--verify", ref, "-o", out) // whose signature?
	nothing(t, out)
}

// nothing makes sure that a directory was not made or is empty.
func nothing(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		t.Errorf("%s holds %v", dir, entries)
	} else if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

// layers returns the digests of an artifact's layers.
func layers(t *testing.T, ref string) []string {
	t.Helper()
	var m struct {
		Layers []struct{ Digest string }
	}
	parse(t, string(rawManifest(t, ref)), &m)
	var digests []string
	for _, l := range m.Layers {
		digests = append(digests, l.Digest)
	}
	return digests
}

// rawManifest fetches a manifest by a reference as a registry gives it.
func rawManifest(t *testing.T, ref string) []byte {
	t.Helper()
	host, name, _ := strings.Cut(ref, "/")
	sep := strings.LastIndex(name, ":")
	if at := strings.Index(name, "@"); at >= 0 {
		sep = at
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+host+"/v2/"+name[:sep]+"/manifests/"+name[sep+1:], nil)
	check(t, err)
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s", req.URL, resp.Status)
	}
	return b.Bytes()
}

// referrersOf returns the index of what refers to a digest, by the referrers
// API or its fallback, a tag.
func referrersOf(t *testing.T, addr, repository, digest string) []byte {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/v2/" + repository + "/referrers/" + digest)
	check(t, err)
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return rawManifest(t, addr+"/"+repository+":"+strings.Replace(digest, ":", "-", 1))
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	check(t, err)
	return b.Bytes()
}

// The files on disk against the signed artifact, or against a signature of
// their own.
func TestVerifyADirectory(t *testing.T) {
	private, public := keyPair(t)
	_, another := keyPair(t)
	ref := registry(t, kind(), bed.RegistryOptions{}).Addr + "/e2e/m:v1"
	ok(t, withPassword(t, "push", "--sign", "--key", private, "--tlog-upload=false", ref, small(t)))
	dir := filepath.Join(t.TempDir(), "m")
	mpack(t, "pull", ref, "-o", dir)
	bySignature := filepath.Join(t.TempDir(), "model.sig")
	ok(t, withPassword(t, "sign", "--key", private, "--tlog-upload=false", "--dir", dir, "--signature", bySignature))
	attached := filepath.Join(t.TempDir(), "attached.sig")
	fails(t, 5, nil, "verify", "--insecure-ignore-tlog", "--key", another, "--output-signature", attached, ref)
	mpack(t, "verify", "--insecure-ignore-tlog", "--key", public, "--output-signature", attached, ref)
	for name, with := range map[string][]string{"artifact": {ref}, "model.sig": {"--signature", bySignature}, "attached": {"--signature", attached}} {
		t.Run(name, func(t *testing.T) {
			verify := append([]string{"verify", "--insecure-ignore-tlog", "--dir", dir}, with...)
			mpack(t, append(verify, "--key", public)...)
			fails(t, 5, nil, append(verify, "--key", another)...)
			a, err := os.ReadFile(filepath.Join(dir, "a.txt"))
			check(t, err)
			check(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("A"), 0o644))
			fails(t, 5, []string{"a.txt"}, append(verify, "--key", public)...)
			check(t, os.Remove(filepath.Join(dir, "a.txt")))
			fails(t, 5, []string{"a.txt"}, append(verify, "--key", public)...)
			check(t, os.WriteFile(filepath.Join(dir, "a.txt"), a, 0o644))
			check(t, os.WriteFile(filepath.Join(dir, "extra.py"), nil, 0o644))
			fails(t, 5, []string{"extra.py"}, append(verify, "--key", public)...)
			check(t, os.Remove(filepath.Join(dir, "extra.py")))
			mpack(t, append(verify, "--key", public)...)
		})
	}
}

// policyFile writes a ClusterImagePolicy for a registry's repositories.
func policyFile(t *testing.T, annotations, glob, authorities string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "policy.yaml")
	check(t, os.WriteFile(name, []byte("apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: models\n"+annotations+
		"spec:\n  images:\n  - glob: "+glob+"\n  authorities:\n"+authorities), 0o644))
	return name
}

// keyAuthority is an authority with a public key, for a signature or, with a
// type, for an attestation.
func keyAuthority(t *testing.T, public, attestation string) string {
	t.Helper()
	pem, err := os.ReadFile(public)
	check(t, err)
	a := "  - name: key\n    key:\n      hashAlgorithm: sha256\n      data: |\n" + indent(8, string(pem))
	if attestation != "" {
		a += "    attestations:\n    - name: wanted\n      predicateType: " + attestation + "\n"
	}
	return a
}

func indent(n int, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Repeat(" ", n) + line)
	}
	return b.String()
}

// A policy binds every pull. mpack and policy-controller's own tester decide
// alike.
func TestPolicies(t *testing.T) {
	private, public := keyPair(t)
	otherPrivate, otherPublic := keyPair(t)
	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	for name, key := range map[string]string{"signed": private, "other": otherPrivate, "unsigned": "", "attested": private} {
		ref := addr + "/e2e/" + name + ":v1"
		push(t, ref, small(t))
		switch {
		case name == "attested":
			ok(t, withPassword(t, "attest", "--key", key, "--tlog-upload=false", "--type", "slsaprovenance1", "--predicate", predicate(t), ref))
		case key != "":
			ok(t, withPassword(t, "sign", "--key", key, "--tlog-upload=false", ref))
		}
	}
	glob := addr + "/e2e/**"
	for _, c := range []struct {
		name, policy string
		accepts      []string
	}{
		{"key", policyFile(t, "", glob, keyAuthority(t, public, "")), []string{"signed"}},
		{"another key", policyFile(t, "", glob, keyAuthority(t, otherPublic, "")), []string{"other"}},
		{"either key", policyFile(t, "", glob, keyAuthority(t, public, "")+strings.Replace(keyAuthority(t, otherPublic, ""), "name: key", "name: other", 1)), []string{"signed", "other"}},
		{"attestation", policyFile(t, "", glob, keyAuthority(t, public, "https://slsa.dev/provenance/v1")), []string{"attested"}},
		{"pass", policyFile(t, "", glob, "  - static:\n      action: pass\n"), []string{"signed", "other", "unsigned", "attested"}},
		{"fail", policyFile(t, "", glob, "  - static:\n      action: fail\n"), nil},
		{"elsewhere", policyFile(t, "", "registry.example/**", "  - static:\n      action: pass\n"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, repository := range []string{"signed", "other", "unsigned", "attested"} {
				ref := addr + "/e2e/" + repository + ":v1"
				accepted := slices.Contains(c.accepts, repository)
				out := filepath.Join(t.TempDir(), "out")
				bound := command(t, []string{"MPACK_POLICY=" + c.policy}, "pull", ref, "-o", out)
				if accepted {
					mpack(t, "verify", "--policy", c.policy, ref)
					ok(t, bound)
				} else {
					fails(t, 5, nil, "verify", "--policy", c.policy, ref)
					failing(t, 5, nil, bound)
					nothing(t, out)
				}
				if !bed.Full() {
					continue
				}
				if r := run(t, peer(t, "tester", "--log-level", "error", "--policy", c.policy, "--image", ref)); (r.Code == 0) != accepted {
					t.Errorf("policy-tester on %s: exit code %d, mpack accepts it: %t\n%s", repository, r.Code, accepted, r.Stdout)
				}
			}
		})
	}
	// Other commands that bring content are bound too, whatever is said beside it.
	deny := "MPACK_POLICY=" + policyFile(t, "", glob, keyAuthority(t, public, ""))
	failing(t, 5, nil, command(t, []string{deny}, "pull", "--verify", "--key", otherPublic, "--insecure-ignore-tlog", addr+"/e2e/other:v1", "-o", filepath.Join(t.TempDir(), "out")))
	if r := failing(t, 5, nil, command(t, []string{deny}, "cat", addr+"/e2e/other:v1", "a.txt")); r.Stdout != "" {
		t.Errorf("cat printed %q", r.Stdout)
	}
	// So is a machine that fetched the content before there was a policy.
	store := filepath.Join(t.TempDir(), "store")
	mpack(t, "pull", "--store", store, addr+"/e2e/other:v1", "-o", filepath.Join(t.TempDir(), "out"))
	out := filepath.Join(t.TempDir(), "out")
	failing(t, 5, nil, command(t, []string{deny}, "pull", "--store", store, addr+"/e2e/other:v1", "-o", out))
	nothing(t, out)
	if r := run(t, command(t, []string{"MPACK_POLICY=/no/such/file"}, "pull", addr+"/e2e/signed:v1", "-o", out)); r.Code == 0 {
		t.Error("a policy file that is missing opens the door")
	}
	nothing(t, out)
}

func TestProvenanceOfAPush(t *testing.T) {
	private, public := keyPair(t)
	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	base := push(t, addr+"/e2e/base:v1", small(t))
	tree := small(t)
	check(t, os.WriteFile(filepath.Join(tree, "mpack.yaml"), []byte("baseModels:\n- "+addr+"/e2e/base@"+base.Digest+"\n"), 0o644))
	ref := addr + "/e2e/m:v1"
	cmd := command(t, []string{"COSIGN_PASSWORD=" + keyPassword, "GITHUB_ACTIONS=true", "GITHUB_SERVER_URL=https://github.example", "GITHUB_REPOSITORY=team/model",
		"GITHUB_SHA=0123456789abcdef0123456789abcdef01234567", "GITHUB_REF=refs/heads/main", "GITHUB_RUN_ID=42", "GITHUB_RUN_ATTEMPT=1",
		"GITHUB_WORKFLOW_REF=team/model/.github/workflows/train.yml@refs/heads/main", "GITHUB_EVENT_NAME=push", "GITHUB_TOKEN=secret-token-of-ci", "RUNNER_ENVIRONMENT=github-hosted"},
		"push", "--sign", "--provenance", "--key", private, "--tlog-upload=false", ref, tree)
	ok(t, cmd)
	got := mpack(t, "verify-attestation", "--key", public, "--insecure-ignore-tlog", "--type", "slsaprovenance1", ref)
	if bed.Full() {
		ok(t, cosign(t, 2, "verify-attestation", "--key", public, "--insecure-ignore-tlog", "--type", "slsaprovenance1", ref))
	}
	downloaded := mpack(t, "attestations", "--download", ref).Stdout + got.Stdout
	for _, want := range []string{"0123456789abcdef0123456789abcdef01234567", "github.example/team/model", strings.TrimPrefix(base.Digest, "sha256:")} {
		if !strings.Contains(statements(t, downloaded), want) {
			t.Errorf("the provenance does not say %s: %s", want, statements(t, downloaded))
		}
	}
	if strings.Contains(statements(t, downloaded), "secret-token-of-ci") {
		t.Error("the provenance holds a secret of the environment")
	}
}

// statements decodes whatever DSSE envelopes a text has, line by line, and
// returns them with the text.
func statements(t *testing.T, text string) string {
	t.Helper()
	all := text
	d := json.NewDecoder(strings.NewReader(text))
	for {
		var v struct {
			Payload      []byte
			DSSEEnvelope struct{ Payload []byte }
		}
		if err := d.Decode(&v); err != nil {
			return all
		}
		all += string(v.Payload) + string(v.DSSEEnvelope.Payload)
	}
}
