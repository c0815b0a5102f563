package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/sigstore/fulcio/pkg/ca"
	"github.com/sigstore/fulcio/pkg/ca/ephemeralca"
	"github.com/sigstore/fulcio/pkg/config"
	fulciogrpc "github.com/sigstore/fulcio/pkg/generated/protobuf"
	fulciolegacy "github.com/sigstore/fulcio/pkg/generated/protobuf/legacy"
	"github.com/sigstore/fulcio/pkg/server"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"github.com/transparency-dev/tesseract"
	"github.com/transparency-dev/tesseract/storage"
	ctposix "github.com/transparency-dev/tesseract/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// authority is Fulcio with an authority of its own.
type authority struct {
	ca    ca.CertificateAuthority // embeds the log's timestamps
	certs []*x509.Certificate     // intermediate first
	chain []byte                  // PEM of certs
}

func newCA(ctx context.Context) (*authority, error) {
	base, err := ephemeralca.NewEphemeralCA()
	if err != nil {
		return nil, err
	}
	bundles, err := base.TrustBundle(ctx)
	if err != nil {
		return nil, err
	}
	chain, err := cryptoutils.MarshalCertificatesToPEM(bundles[0])
	return &authority{base, bundles[0], chain}, err
}

// handler serves Fulcio's API over HTTP, both versions of it, as Fulcio's own
// command does but without a gRPC port.
func (a *authority) handler(ctx context.Context, issuer, ctLogURL string) (http.Handler, error) {
	cfg, err := config.Read(fmt.Appendf(nil, "oidc-issuers:\n  %[1]s:\n    issuer-url: %[1]s\n    client-id: %[2]s\n    type: email\n", issuer, clientID))
	if err != nil {
		return nil, err
	}
	ctLog, err := client.New(ctLogURL, http.DefaultClient, jsonclient.Options{})
	if err != nil {
		return nil, err
	}
	algorithms, err := signature.NewAlgorithmRegistryConfig([]v1.PublicKeyDetails{
		v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, v1.PublicKeyDetails_PKIX_ED25519,
	})
	if err != nil {
		return nil, err
	}
	mux := runtime.NewServeMux(
		runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
			return metadata.Pairs(server.MetadataOIDCTokenKey, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		}),
		runtime.WithForwardResponseOption(forward))
	grpcServer := server.NewGRPCCAServer(ctLog, a.ca, algorithms, server.NewIssuerPool(cfg))
	if err := fulciogrpc.RegisterCAHandlerServer(ctx, mux, grpcServer); err != nil {
		return nil, err
	}
	if err := fulciolegacy.RegisterCAHandlerServer(ctx, mux, server.NewLegacyGRPCCAServer(grpcServer)); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(config.With(r.Context(), cfg)))
	}), nil
}

// forward moves what the first version of the API says in headers out of
// gRPC's metadata.
func forward(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
	md, found := runtime.ServerMetadataFromContext(ctx)
	if !found {
		return nil
	}
	if sct := md.HeaderMD.Get(server.SCTMetadataKey); len(sct) > 0 {
		w.Header().Set("SCT", sct[0])
	}
	if status := md.HeaderMD.Get(server.HTTPResponseCodeMetadataKey); len(status) > 0 {
		code, err := strconv.Atoi(status[0])
		if err != nil {
			return err
		}
		w.WriteHeader(code)
	}
	return nil
}

// newCTLog starts a certificate transparency log for the authority.
func newCTLog(ctx context.Context, dir string, t *trust) (http.Handler, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t.ctLogKey = crypto.PublicKey(key.Public())
	roots := tesseract.ChainValidationConfig{RootsPEMFile: filepath.Join(dir, "fulcio.pem")}
	store := filepath.Join(dir, "ctlog")
	open := func(ctx context.Context, signer note.Signer) (*storage.CTStorage, error) {
		driver, err := posix.New(ctx, posix.Config{Path: store})
		if err != nil {
			return nil, err
		}
		appender, _, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
			WithCheckpointSigner(signer).
			WithCTLayout().
			WithCheckpointInterval(100*time.Millisecond).
			WithBatching(1, 10*time.Millisecond))
		if err != nil {
			return nil, err
		}
		issuers, err := ctposix.NewIssuerStorage(ctx, store)
		if err != nil {
			return nil, err
		}
		return storage.NewCTStorage(ctx, &storage.CTStorageOptions{Appender: appender, Reader: reader, IssuerStorage: issuers})
	}
	return tesseract.NewLogHandler(ctx, "ctlog.e2e", key, roots, open, 10*time.Second, false, "", tesseract.LogHandlerOpts{})
}
