//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mpack/e2e/bed"
)

// victim is a repository that an attacker can write to, and a wire to it that
// he can bend.
type victim struct {
	addr            string // the registry itself
	wire            *bed.Wire
	private, public string // key of the rightful signer
	good, evil      string // trees
	digest, evils   string // of what was signed, and of what was not
}

// attacked makes one: e2e/m holds v1, signed in both formats, and evil,
// unsigned.
func attacked(t *testing.T) *victim {
	t.Helper()
	v := &victim{addr: registry(t, kind(), bed.RegistryOptions{}).Addr, good: small(t), evil: small(t)}
	check(t, os.WriteFile(filepath.Join(v.evil, "a.txt"), []byte("evil"), 0o644))
	for i, tree := range []string{v.good, v.evil} { // content that takes its part of what is answered
		weights := make([]byte, 12<<10)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(weights) // never fails
		check(t, os.WriteFile(filepath.Join(tree, "weights.bin"), weights, 0o644))
	}
	var err error
	v.wire, err = bed.NewWire(v.addr, nil)
	check(t, err)
	t.Cleanup(v.wire.Close)
	v.private, v.public = keyPair(t)
	v.digest = push(t, v.addr+"/e2e/m:v1", v.good).Digest
	v.evils = push(t, v.addr+"/e2e/m:evil", v.evil).Digest
	ok(t, withPassword(t, "sign", "--key", v.private, "--tlog-upload=false", "--signature-format", "both", v.addr+"/e2e/m:v1"))
	return v
}

// pull pulls through the wire if the signature holds.
func (v *victim) pull(t *testing.T, name string) (bed.Result, string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	return run(t, command(t, nil, "pull", "--verify", "--key", v.public, "--insecure-ignore-tlog", v.wire.Addr+"/e2e/m"+name, "-o", out)), out
}

// refused pulls, expects exit code 5 and nothing on disk.
func (v *victim) refused(t *testing.T, name string) {
	t.Helper()
	r, out := v.pull(t, name)
	if r.Code != 5 {
		t.Errorf("exit code %d, want 5: %s", r.Code, r.Stderr)
	}
	nothing(t, out)
	t.Log(strings.TrimSpace(r.Stderr))
}

// put stores a manifest by tag or digest.
func (v *victim) put(t *testing.T, name, mediaType string, body []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+v.addr+"/v2/e2e/m/manifests/"+name, bytes.NewReader(body))
	check(t, err)
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("put manifest %s: %s %s", name, resp.Status, text)
	}
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

func TestAMovedTagIsRefused(t *testing.T) {
	v := attacked(t)
	mpack(t, "tag", v.addr+"/e2e/m@"+v.evils, "v1")
	v.refused(t, ":v1")
	attackers, _ := keyPair(t)
	ok(t, withPassword(t, "sign", "--key", attackers, "--tlog-upload=false", "--signature-format", "both", v.addr+"/e2e/m:v1"))
	v.refused(t, ":v1")
	r, out := v.pull(t, "@"+v.digest)
	if r.Code != 0 {
		t.Errorf("what was signed is no longer to be had by its digest: %s", r.Stderr)
	}
	same(t, v.good, out)
}

func TestASwappedSignatureIsRefused(t *testing.T) {
	v := attacked(t)
	hex := func(d string) string { return strings.TrimPrefix(d, "sha256:") }
	// the rightful signature where evil's would be
	v.put(t, "sha256-"+hex(v.evils)+".sig", manifestType, rawManifest(t, v.addr+"/e2e/m:sha256-"+hex(v.digest)+".sig"))
	v.refused(t, ":evil")

	// and the rightful bundle as evil's referrer
	evil := rawManifest(t, v.addr+"/e2e/m:evil")
	var referrers struct{ Manifests []map[string]any }
	parse(t, string(referrersOf(t, v.addr, "e2e/m", v.digest)), &referrers)
	if len(referrers.Manifests) == 0 {
		t.Fatal("no bundle to swap")
	}
	var forged []map[string]any
	for _, r := range referrers.Manifests {
		var m map[string]any
		parse(t, string(rawManifest(t, fmt.Sprintf("%s/e2e/m@%s", v.addr, r["digest"]))), &m)
		m["subject"] = map[string]any{"mediaType": manifestType, "digest": v.evils, "size": len(evil)}
		body, err := json.Marshal(m)
		check(t, err)
		r["digest"], r["size"] = fmt.Sprintf("sha256:%x", sha256.Sum256(body)), len(body)
		v.put(t, r["digest"].(string), manifestType, body)
		forged = append(forged, r)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": forged})
	check(t, err)
	v.put(t, "sha256-"+hex(v.evils), indexType, index)
	v.refused(t, ":evil")
}

// A signature says nothing of the repository that holds it: it is of a digest,
// and what has this digest is what was signed. Whoever wants a repository's
// own signatures says so by a policy, with a key or an identity for each. This
// is cosign's meaning too.
func TestASignatureGoesWithTheDigestIntoAnotherRepository(t *testing.T) {
	v := attacked(t)
	elsewhere := v.addr + "/other/m:v1"
	mpack(t, "copy", v.addr+"/e2e/m:v1", elsewhere)
	mpack(t, "verify", "--key", v.public, "--insecure-ignore-tlog", elsewhere)
	if bed.Full() {
		ok(t, cosign(t, 2, "verify", "--key", v.public, "--insecure-ignore-tlog", "--trusted-root", noRoot(t), elsewhere))
		ok(t, cosign(t, 3, "verify", "--key", v.public, "--insecure-ignore-tlog", elsewhere))
	}
	_, othersPublic := keyPair(t)
	bound := policyFile(t, "", v.addr+"/other/**", keyAuthority(t, othersPublic, ""))
	fails(t, 5, nil, "verify", "--policy", bound, elsewhere)
	// Another repository's artifact under this name is an artifact without a signature.
	push(t, v.addr+"/other/evil:v1", v.evil)
	mpack(t, "copy", v.addr+"/other/evil:v1", v.addr+"/e2e/m:v1")
	v.refused(t, ":v1")
}

func TestSwappedContentIsRefused(t *testing.T) {
	v := attacked(t)
	swap := func(t *testing.T, path string, body []byte) {
		v.wire.Refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
			return true
		}
	}
	blob := func(digest string) []byte {
		resp, err := http.Get("http://" + v.addr + "/v2/e2e/m/blobs/" + digest)
		check(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		check(t, err)
		return b
	}
	theirs := layers(t, v.addr+"/e2e/m:evil")
	for i, layer := range layers(t, v.addr+"/e2e/m:v1") {
		ours := blob(layer)
		flipped := bytes.Clone(ours)
		flipped[len(flipped)/2] ^= 1
		for name, body := range map[string][]byte{
			"evil's": blob(theirs[min(i, len(theirs)-1)]), "a bit flipped": flipped, "cut": ours[:len(ours)/2], "longer": append(bytes.Clone(ours), 0),
		} {
			if bytes.Equal(body, ours) {
				continue
			}
			t.Run(fmt.Sprintf("layer %d %s", i, name), func(t *testing.T) {
				swap(t, "/blobs/"+layer, body)
				r, out := v.pull(t, ":v1")
				if r.Code == 0 {
					same(t, v.good, out) // as where only bytes that are not needed are wrong
				}
				noHalfFiles(t, v.good, out)
				t.Logf("exit code %d: %s", r.Code, strings.TrimSpace(r.Stderr))
			})
		}
	}
	t.Run("manifest", func(t *testing.T) {
		evil := rawManifest(t, v.addr+"/e2e/m:evil")
		v.wire.Refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/manifests/"+v.digest) {
				return false
			}
			answer(w, r, evil, v.digest)
			return true
		}
		for _, name := range []string{":v1", "@" + v.digest} {
			r, out := v.pull(t, name)
			if r.Code == 0 {
				same(t, v.good, out)
			} else {
				nothing(t, out)
			}
			t.Logf("exit code %d: %s", r.Code, strings.TrimSpace(r.Stderr))
		}
	})
}

// answer answers a request for a manifest, with a digest that may be a lie.
func answer(w http.ResponseWriter, r *http.Request, manifest []byte, digest string) {
	w.Header().Set("Content-Type", manifestType)
	w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
	w.Header().Set("Docker-Content-Digest", digest)
	if r.Method == http.MethodGet {
		_, _ = w.Write(manifest) // a client that is gone has nothing to be told
	}
}

// A registry that answers differently the second time: the signature is asked
// of one digest, and that digest is what is pulled or nothing is.
func TestARegistryWithTwoAnswers(t *testing.T) {
	v := attacked(t)
	good, evil := rawManifest(t, v.addr+"/e2e/m:v1"), rawManifest(t, v.addr+"/e2e/m:evil")
	var mu sync.Mutex
	asked := 0
	// honest says of the nth request for the tag whether its answer is the
	// signed artifact.
	twoFaced := func(honest func(n int, method string) bool) {
		asked = 0
		v.wire.Refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/manifests/v1") || r.Method == http.MethodPut {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			asked++
			if honest(asked, r.Method) {
				answer(w, r, good, v.digest)
			} else {
				answer(w, r, evil, v.evils)
			}
			return true
		}
	}
	for name, honest := range map[string]func(int, string) bool{
		"evil after the first":  func(n int, _ string) bool { return n == 1 },
		"evil after the second": func(n int, _ string) bool { return n <= 2 },
		"evil at first":         func(n int, _ string) bool { return n > 1 },
		"evil to GET":           func(_ int, method string) bool { return method == http.MethodHead },
		"evil to HEAD":          func(_ int, method string) bool { return method == http.MethodGet },
	} {
		t.Run(name, func(t *testing.T) {
			twoFaced(honest)
			r, out := v.pull(t, ":v1")
			if r.Code == 0 {
				same(t, v.good, out)
			} else {
				nothing(t, out)
			}
			t.Logf("the tag was asked %d times; exit code %d: %s", asked, r.Code, strings.TrimSpace(r.Stderr))
			if asked > 2 { // HEAD and GET at most
				t.Errorf("the tag was resolved again")
			}

			// Signing resolves once, too: never one digest looked at and another signed.
			twoFaced(honest)
			signed := run(t, withPassword(t, "sign", "--key", v.private, "--tlog-upload=false", "-a", "turn="+strings.ReplaceAll(name, " ", "-"), v.wire.Addr+"/e2e/m:v1"))
			t.Logf("sign: exit code %d: %s%s", signed.Code, signed.Stdout, signed.Stderr)
			for _, d := range []string{v.digest, v.evils} {
				if strings.Contains(signed.Stdout+signed.Stderr, d) != (run(t, command(t, nil, "verify", "--key", v.public, "--insecure-ignore-tlog", "-a", "turn="+strings.ReplaceAll(name, " ", "-"), v.addr+"/e2e/m@"+d)).Code == 0) {
					t.Errorf("what was signed is not what was said: %s", signed.Stdout)
				}
			}
		})
		// a signature of evil that this made would hide what comes next
		v.evils = push(t, v.addr+"/e2e/m:evil", changed(t, v)).Digest
		evil = rawManifest(t, v.addr+"/e2e/m:evil")
	}
}

// changed makes evil differ from what it was.
func changed(t *testing.T, v *victim) string {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(v.evil, "a.txt"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteString("!")
	check(t, err)
	check(t, f.Close())
	return v.evil
}

// An old version, rightly signed in its time, is refused by a policy that
// wants a newer one; or one made later.
func TestAReplayedOldVersionIsRefused(t *testing.T) {
	private, public := keyPair(t)
	addr := registry(t, kind(), bed.RegistryOptions{}).Addr
	latest := addr + "/e2e/m:latest"
	publish := func(version, created string) string {
		t.Helper()
		var p pushed
		cmd := withPassword(t, "push", "--format", "json", "--sign", "--key", private, "--tlog-upload=false", "-a", "org.opencontainers.image.version="+version, "--created", created, latest, small(t))
		parse(t, ok(t, cmd).Stdout, &p)
		return p.Digest
	}
	old := publish("1.3.9", "2026-01-05T00:00:00Z")
	publish("1.4.0", "2026-03-05T00:00:00Z")
	for name, annotation := range map[string]string{
		"minimum version": "    mpack/minimum-version: 1.4.0\n",
		"not before":      "    mpack/not-before: 2026-03-01T00:00:00Z\n",
	} {
		t.Run(name, func(t *testing.T) {
			policy := policyFile(t, "  annotations:\n"+annotation, addr+"/e2e/**", keyAuthority(t, public, ""))
			bound := func(out string) bed.Result {
				return run(t, command(t, []string{"MPACK_POLICY=" + policy}, "pull", latest, "-o", out))
			}
			out := filepath.Join(t.TempDir(), "out")
			if r := bound(out); r.Code != 0 {
				t.Errorf("the newest version is refused: %s", r.Stderr)
			}
			newest := mpack(t, "inspect", "--format", "json", latest).Stdout
			mpack(t, "tag", addr+"/e2e/m@"+old, "latest")
			defer func() {
				var now struct{ Digest string }
				parse(t, newest, &now)
				mpack(t, "tag", addr+"/e2e/m@"+now.Digest, "latest")
			}()
			mpack(t, "verify", "--key", public, "--insecure-ignore-tlog", latest) // the signature itself is right
			out = filepath.Join(t.TempDir(), "out")
			r := bound(out)
			if r.Code != 5 {
				t.Errorf("exit code %d, want 5: %s", r.Code, r.Stderr)
			}
			nothing(t, out)
			t.Log(strings.TrimSpace(r.Stderr))
		})
	}
}

// A man in the middle who flips bits of anything that the registry answers.
func TestBitsFlippedOnTheWire(t *testing.T) {
	pulls := 40
	if bed.Full() {
		pulls = 500
	}
	v := attacked(t)
	tree := v.good
	const workers = 8 // most of the time goes into waiting before a next try
	var mu sync.Mutex
	codes := map[int]int{}
	flipped, harmless := 0, 0
	var group sync.WaitGroup
	for worker := range workers {
		f, err := bed.NewFlipper(v.addr)
		check(t, err)
		defer f.Close()
		one := func(out string) (bed.Result, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			cmd := command(t, nil, "pull", "--verify", "--key", v.public, "--insecure-ignore-tlog", f.Addr+"/e2e/m:v1", "-o", out)
			done := make(chan struct{})
			p, err := bed.StartProcess(cmd)
			if err != nil {
				return bed.Result{}, err
			}
			go func() {
				select {
				case <-ctx.Done():
					_ = cmd.Process.Kill() // it may end at the same moment
				case <-done:
				}
			}()
			defer close(done)
			return p.Wait()
		}
		f.Arm()
		if r, err := one(filepath.Join(t.TempDir(), "clean")); err != nil || r.Code != 0 {
			t.Fatalf("without a flipped bit: %v %s", err, r.Stderr)
		}
		total, _ := f.Arm()
		random := rand.New(rand.NewPCG(20261124, uint64(worker)))
		dir := t.TempDir()
		group.Go(func() {
			for i := worker; i < pulls; i += workers {
				bits := make([]int64, 1+random.IntN(3))
				for j := range bits {
					bits[j] = random.Int64N(total * 8)
				}
				f.Arm(bits...)
				out := filepath.Join(dir, fmt.Sprint(i))
				r, err := one(out)
				if err != nil {
					t.Error(err)
					return
				}
				_, n := f.Arm()
				if wrong := unverified(tree, out, r.Code == 0); wrong != nil {
					t.Errorf("pull %d, bits %d: exit code %d, but %v", i, bits, r.Code, wrong)
				}
				if r.Code == 0 && strings.TrimSpace(r.Stdout) != v.digest {
					t.Errorf("pull %d, bits %d: pulled %s, not %s", i, bits, r.Stdout, v.digest)
				}
				if r.Code > 5 || strings.Contains(r.Stderr, "panic") {
					t.Errorf("pull %d, bits %d: exit code %d: %s", i, bits, r.Code, r.Stderr)
				}
				if err := os.RemoveAll(out); err != nil {
					t.Error(err)
				}
				mu.Lock()
				flipped += n
				codes[r.Code]++
				if r.Code == 0 {
					harmless++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d pulls, %d bits flipped: %d pulls failed, %d brought what was signed; exit codes %v", pulls, flipped, pulls-harmless, harmless, codes)
	if flipped < pulls {
		t.Errorf("only %d bits were flipped in %d pulls", flipped, pulls)
	}
	if codes[5] == 0 {
		t.Error("no flipped bit was ever found")
	}
}

// unverified finds what a pull that failed must not leave: a file under its
// name with other content, or under a name that the artifact does not have.
// A pull that succeeded must have left everything.
func unverified(want, got string, whole bool) error {
	if whole {
		return bed.SameTree(want, got)
	}
	return filepath.WalkDir(got, func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // not even the directory was made
		}
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(got, p)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(strings.Split(name, string(filepath.Separator)), func(e string) bool { return e == ".mpack-partial" }) {
			return nil // what a next pull goes on with
		}
		a, err := os.ReadFile(filepath.Join(want, name))
		if err != nil {
			return fmt.Errorf("there is %s: %w", name, err)
		}
		if b, err := os.ReadFile(p); err != nil || !bytes.Equal(a, b) {
			return fmt.Errorf("%s has other content (%v)", name, err)
		}
		return nil
	})
}
