//go:build linux

package bed

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The registries there are.
const (
	Distribution = "distribution" // CNCF distribution 3: no referrers API
	Olareg       = "olareg"       // OCI 1.1 with referrers, keeps OCI layouts
	Debian       = "debian"       // docker-registry 2.8, which many still run
	Crane        = "crane"        // go-containerregistry's: bounded ranges only, no mounts
	Mpack        = "mpack"        // mpack serve
)

// User and Password are what a registry with RegistryOptions.Auth wants.
const (
	User     = "alice"
	Password = "correct horse"
)

const htpasswd = User + ":$2b$04$tAtYqoErlKElwvLNB7AL/.KosFHJAlV4NVMvsul9MN4RGDDfelsCi\n"

// RegistryOptions are how a registry is started. The zero value is good.
type RegistryOptions struct {
	Auth bool   // distribution and debian: basic authentication
	Addr string // listen there; "": a free port
}

// Registry is a running registry.
type Registry struct {
	Addr string // host:port
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan error
}

// StartRegistry starts a registry that keeps its blobs below dir. mpack is the
// built binary, peers the directory of the others.
func StartRegistry(kind, dir, mpack, peers string, o RegistryOptions) (*Registry, error) {
	addr := o.Addr
	if addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addr = l.Addr().String()
		l.Close()
	}
	store := filepath.Join(dir, "store")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(addr)
	peer := func(name string, args ...string) *exec.Cmd { return exec.Command(filepath.Join(peers, name), args...) }
	var cmd *exec.Cmd
	switch kind {
	case Distribution, Debian:
		conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n"+
			"  delete: {enabled: true}\nhttp: {addr: %q}\n", store, addr)
		if o.Auth {
			users := filepath.Join(dir, "htpasswd")
			if err := os.WriteFile(users, []byte(htpasswd), 0o600); err != nil {
				return nil, err
			}
			conf += fmt.Sprintf("auth:\n  htpasswd: {realm: e2e, path: %q}\n", users)
		}
		name := filepath.Join(dir, "config.yml")
		if err := os.WriteFile(name, []byte(conf), 0o644); err != nil {
			return nil, err
		}
		binary := "registry"
		if kind == Debian {
			binary = "docker-registry"
		}
		cmd = peer(binary, "serve", name)
	case Olareg:
		cmd = peer("olareg", "serve", "--addr", host, "--port", port, "--dir", store, "--api-delete", "--api-blob-delete")
	case Crane:
		cmd = peer("crane", "registry", "serve", "--address", addr, "--disk", store)
	case Mpack:
		cmd = exec.Command(mpack, "serve", "--addr", addr, "--store", store)
	default:
		return nil, fmt.Errorf("no registry %q", kind)
	}
	r := &Registry{Addr: addr, cmd: cmd, done: make(chan error, 1)}
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.Stdout, cmd.Stderr = &r.log, &r.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", kind, err)
	}
	go func() { r.done <- cmd.Wait() }()
	for range 300 {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return r, nil
		}
		select {
		case err := <-r.done:
			return nil, fmt.Errorf("%s ended at once: %w\n%s", strings.Join(cmd.Args, " "), err, r.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	r.Stop()
	return nil, fmt.Errorf("%s does not answer\n%s", strings.Join(cmd.Args, " "), r.log.String())
}

// Stop kills the registry, as a crash would.
func (r *Registry) Stop() {
	_ = r.cmd.Process.Kill() // it may have ended
	err := <-r.done
	r.done <- err
}

// End asks the registry to end, and waits until it has written what it holds.
func (r *Registry) End() error {
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := <-r.done
	r.done <- err
	return nil
}
