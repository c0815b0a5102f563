package main

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// trust is what verifiers trust.
type trust struct {
	ca       *authority
	ctLogURL string
	ctLogKey crypto.PublicKey
	rekorKey []byte // PEM
	tsaChain []byte // PEM, leaf first
}

// files makes the files of trust and the configuration of signers.
func (t *trust) files(s services) (map[string][]byte, error) {
	began := time.Now().Add(-time.Hour)
	rekorKey, err := cryptoutils.UnmarshalPEMToPublicKey(t.rekorKey)
	if err != nil {
		return nil, err
	}
	rekor, err := logs(s.Rekor, rekorKey, began)
	if err != nil {
		return nil, err
	}
	ctLog, err := logs(t.ctLogURL, t.ctLogKey, began)
	if err != nil {
		return nil, err
	}
	tsa, err := cryptoutils.UnmarshalCertificatesFromPEM(t.tsaChain)
	if err != nil {
		return nil, err
	}
	if len(tsa) < 2 {
		return nil, errors.New("the timestamp authority has no chain")
	}
	last := len(t.ca.certs) - 1
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: t.ca.certs[last], Intermediates: t.ca.certs[:last], ValidityPeriodStart: began, URI: s.Fulcio,
		}},
		ctLog,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: tsa[len(tsa)-1], Intermediates: tsa[1 : len(tsa)-1], Leaf: tsa[0], ValidityPeriodStart: began, URI: s.Timestamp,
		}},
		rekor)
	if err != nil {
		return nil, err
	}
	service := func(url string) []root.Service {
		return []root.Service{{URL: url, MajorAPIVersion: 1, ValidityPeriodStart: began, Operator: "e2e"}}
	}
	anyOf := root.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	config, err := root.NewSigningConfig(root.SigningConfigMediaType02, service(s.Fulcio), service(s.Issuer), service(s.Rekor), anyOf, service(s.Timestamp), anyOf)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"rekor.pub": t.rekorKey, "tsa.pem": t.tsaChain}
	if files["ctlog.pub"], err = cryptoutils.MarshalPublicKeyToPEM(t.ctLogKey); err != nil {
		return nil, err
	}
	if files["trusted_root.json"], err = trusted.MarshalJSON(); err != nil {
		return nil, err
	}
	files["signing_config.json"], err = config.MarshalJSON()
	return files, err
}

// logs names a log by the SHA-256 of its key, as RFC 6962 does.
func logs(url string, key crypto.PublicKey, began time.Time) (map[string]*root.TransparencyLog, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(der)
	return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
		BaseURL: url, ID: id[:], ValidityPeriodStart: began, HashFunc: crypto.SHA256, PublicKey: key, SignatureHashFunc: crypto.SHA256,
	}}, nil
}
