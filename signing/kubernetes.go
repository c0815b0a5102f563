package signing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const kubernetesScheme = "k8s://"

// serviceAccount is where Kubernetes mounts a pod's own credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

var kubernetesName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// kubernetesSecret reads k8s://namespace/secret as cosign writes it: in a pod
// with its service account, elsewhere with kubectl. Kubernetes' Go client would
// add 20 MB for this one request.
func kubernetesSecret(ctx context.Context, ref string) (map[string][]byte, error) {
	namespace, name, ok := strings.Cut(strings.TrimPrefix(ref, kubernetesScheme), "/")
	if !ok || !kubernetesName.MatchString(namespace) || !kubernetesName.MatchString(name) {
		return nil, errors.New("want k8s://NAMESPACE/SECRET")
	}
	var raw []byte
	var err error
	if host := os.Getenv("KUBERNETES_SERVICE_HOST"); host != "" {
		raw, err = secretInPod(ctx, net.JoinHostPort(host, os.Getenv("KUBERNETES_SERVICE_PORT")), serviceAccount, namespace, name)
	} else {
		raw, err = secretByKubectl(ctx, namespace, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s/%s: %w", namespace, name, err)
	}
	data, err := parseSecret(raw)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
	}
	return data, nil
}

// parseSecret reads a secret as the API gives it. Its errors hold nothing of it.
func parseSecret(raw []byte) (map[string][]byte, error) {
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	if err := json.Unmarshal(raw, &secret); err != nil {
		return nil, errors.New("not a secret in JSON")
	}
	if len(secret.Data["cosign.pub"]) == 0 && len(secret.Data["cosign.key"]) == 0 {
		return nil, errors.New("has neither cosign.key nor cosign.pub")
	}
	return secret.Data, nil
}

func secretInPod(ctx context.Context, address, dir, namespace, name string) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("no certificate in ca.crt")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/api/v1/namespaces/"+namespace+"/secrets/"+name, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server answers %s", resp.Status)
	}
	return readLimited(resp.Body, maxKey)
}

func secretByKubectl(ctx context.Context, namespace, name string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "kubectl", "get", "secret", name, "--namespace", namespace, "--output", "json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kubectl: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
