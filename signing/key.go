package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/cosign/pkcs11key"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	signatureoptions "github.com/sigstore/sigstore/pkg/signature/options"
)

// Password asks for the password of a private key; confirm is true where a new
// one is chosen. It may return an empty one.
type Password func(confirm bool) ([]byte, error)

// GenerateKey makes an ECDSA P-256 key pair as cosign does: prefix.key,
// encrypted with the password (nil: an empty one), and prefix.pub. prefix may
// contain directories; "cosign" gives cosign.key and cosign.pub. Files that
// exist are never overwritten.
func GenerateKey(prefix string, pass Password) (private, public string, err error) {
	private, public = prefix+".key", prefix+".pub"
	for _, p := range []string{private, public} {
		if _, err := os.Lstat(p); err == nil {
			return "", "", fmt.Errorf("generate key: %s: %w; move it away or choose another name", p, os.ErrExist)
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", "", fmt.Errorf("generate key: %w", err)
		}
	}
	keys, err := cosign.GenerateKeyPair(cosign.PassFunc(pass))
	if err != nil {
		return "", "", fmt.Errorf("generate key: %w", err)
	}
	if err := writeNew(private, keys.PrivateBytes, 0o600); err != nil {
		return "", "", fmt.Errorf("generate key: %w", err)
	}
	if err := writeNew(public, keys.PublicBytes, 0o644); err != nil {
		os.Remove(private)
		return "", "", fmt.Errorf("generate key: %w", err)
	}
	return private, public, nil
}

// writeNew writes a file that must not exist.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// maxKey is how many bytes of a key or certificate file are read.
const maxKey = 1 << 20

// readRef reads a file, or with env://VAR an environment variable. The error
// never holds what was read.
func readRef(ref string) ([]byte, error) {
	if v, ok := strings.CutPrefix(ref, "env://"); ok {
		s, ok := os.LookupEnv(v)
		if !ok {
			return nil, fmt.Errorf("environment variable %s is not set", v)
		}
		return []byte(s), nil
	}
	if scheme, _, ok := strings.Cut(ref, "://"); ok {
		return nil, fmt.Errorf("%s:// is no place to read a key from: give a file, env://VAR, k8s://NAMESPACE/SECRET, pkcs11: or a KMS URI (awskms://, azurekms://, gcpkms://, hashivault://)", scheme)
	}
	f, err := os.Open(filepath.Clean(ref))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readLimited(f, maxKey)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	return b, nil
}

// loadOptions are cosign's: for ed25519 keys the pre-hashed variant, the only
// one that transparency logs take.
var loadOptions = *cosign.GetDefaultLoadOptions(nil)

// loadSigner finds the private key that ref names: a cosign key file or
// env://VAR, k8s://namespace/secret, pkcs11: or a KMS URI.
func loadSigner(ctx context.Context, ref string, pass Password) (signature.SignerVerifier, func(), error) {
	done := func() {}
	fail := func(err error) (signature.SignerVerifier, func(), error) {
		return nil, nil, fmt.Errorf("private key %s: %w", shown(ref), err)
	}
	switch {
	case strings.HasPrefix(ref, pkcs11key.ReferenceScheme):
		k, err := openPKCS11(ref, true)
		if err != nil {
			return fail(err)
		}
		sv, err := k.SignerVerifier()
		if err != nil {
			k.Close()
			return fail(err)
		}
		return sv, k.Close, nil
	case strings.HasPrefix(ref, kubernetesScheme):
		secret, err := kubernetesSecret(ctx, ref)
		if err != nil {
			return fail(err)
		}
		sv, err := cosign.LoadPrivateKey(secret["cosign.key"], secret["cosign.password"], nil)
		if err != nil {
			return fail(err)
		}
		return sv, done, nil
	case isKMS(ref):
		sv, err := kms.Get(ctx, ref, crypto.SHA256)
		if err != nil {
			return fail(err)
		}
		return sv, done, nil
	}
	raw, err := readRef(ref)
	if err != nil {
		return fail(err)
	}
	var password []byte
	if pass != nil {
		if password, err = pass(false); err != nil {
			return fail(err)
		}
	}
	sv, err := cosign.LoadPrivateKey(raw, password, nil)
	if err != nil {
		return fail(fmt.Errorf("%w (a cosign key file and its password are needed)", err))
	}
	return sv, done, nil
}

// loadVerifier finds the public key that ref names: a PEM file or env://VAR,
// k8s://namespace/secret, pkcs11: or a KMS URI. pem, if not nil, is the key itself.
func loadVerifier(ctx context.Context, ref string, pem []byte) (signature.Verifier, func(), error) {
	done := func() {}
	fail := func(err error) (signature.Verifier, func(), error) {
		return nil, nil, fmt.Errorf("public key %s: %w", shown(ref), err)
	}
	switch {
	case pem != nil:
	case strings.HasPrefix(ref, pkcs11key.ReferenceScheme):
		k, err := openPKCS11(ref, false)
		if err != nil {
			return fail(err)
		}
		v, err := k.Verifier()
		if err != nil {
			k.Close()
			return fail(err)
		}
		return v, k.Close, nil
	case strings.HasPrefix(ref, kubernetesScheme):
		secret, err := kubernetesSecret(ctx, ref)
		if err != nil {
			return fail(err)
		}
		pem = secret["cosign.pub"]
	case isKMS(ref):
		v, err := kms.Get(ctx, ref, crypto.SHA256)
		if err != nil {
			return fail(err)
		}
		return v, done, nil
	default:
		var err error
		if pem, err = readRef(ref); err != nil {
			return fail(err)
		}
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return fail(fmt.Errorf("no public key in PEM: %w", err))
	}
	v, err := signature.LoadDefaultVerifier(pub, loadOptions...)
	if err != nil {
		return fail(err)
	}
	return v, done, nil
}

// shown is a reference as errors may name it: a pkcs11 URI can hold a PIN.
func shown(ref string) string {
	if strings.HasPrefix(ref, pkcs11key.ReferenceScheme) {
		ref, _, _ = strings.Cut(ref, "?")
	}
	return ref
}

func isKMS(ref string) bool {
	for _, scheme := range kms.SupportedProviders() {
		if strings.HasPrefix(ref, scheme) {
			return true
		}
	}
	return false
}

// openPKCS11 opens a token's key; it needs cosign's build tag pkcs11key.
func openPKCS11(ref string, pin bool) (*pkcs11key.Key, error) {
	c := pkcs11key.NewPkcs11UriConfig()
	if err := c.Parse(ref); err != nil {
		// what could not be parsed may hold a PIN
		return nil, errors.New("malformed pkcs11 URI (RFC 7512)")
	}
	k, err := pkcs11key.GetKeyWithURIConfig(c, pin)
	if err != nil && err.Error() == "unimplemented" { // cosign has no type for it
		err = errors.New("this mpack was built without PKCS#11: build it with cgo and -tags pkcs11key")
	}
	return k, err
}

// keypair lets a sigstore signer make bundles.
type keypair struct {
	signature.SignerVerifier
	public crypto.PublicKey
	algo   signature.AlgorithmDetails
	name   string
	hint   string
}

func newKeypair(sv signature.SignerVerifier) (*keypair, error) {
	k := &keypair{SignerVerifier: sv}
	var err error
	if k.public, err = sv.PublicKey(); err != nil {
		return nil, err // says that it is of the public key
	}
	if k.hint, err = keyHint(k.public); err != nil {
		return nil, err
	}
	switch k.public.(type) {
	case *ecdsa.PublicKey:
		k.name = "ECDSA"
	case *rsa.PublicKey:
		k.name = "RSA"
	case ed25519.PublicKey:
		k.name = "ED25519"
	default:
		return nil, fmt.Errorf("%T cannot sign: want ECDSA, RSA or Ed25519", k.public)
	}
	if k.algo, err = signature.GetDefaultAlgorithmDetails(k.public, loadOptions...); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.algo.GetProtoHashType() }

func (k *keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.algo.GetSignatureAlgorithm()
}

func (k *keypair) GetKeyAlgorithm() string { return k.name }

func (k *keypair) GetPublicKey() crypto.PublicKey { return k.public }

func (k *keypair) GetHint() []byte { return []byte(k.hint) }

// keyHint is cosign's name for a key: base64 of the SHA-256 of its DER form.
func keyHint(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("public key: %w", err)
	}
	h := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(h[:]), nil
}

func (k *keypair) GetPublicKeyPem() (string, error) {
	b, err := cryptoutils.MarshalPublicKeyToPEM(k.public)
	return string(b), err
}

func (k *keypair) SignData(ctx context.Context, data []byte) (sig, digest []byte, err error) {
	h := k.algo.GetHashType().New()
	h.Write(data)
	digest = h.Sum(nil)
	sig, err = k.SignMessage(strings.NewReader(string(data)), signatureoptions.WithContext(ctx), signatureoptions.WithDigest(digest))
	return sig, digest, err
}
