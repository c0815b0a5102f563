package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-openapi/loads"
	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/log"
	"github.com/google/trillian/quota"
	trillianserver "github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"github.com/google/trillian/util/election2"
	rekorapi "github.com/sigstore/rekor/pkg/api"
	"github.com/sigstore/rekor/pkg/generated/restapi"
	"github.com/sigstore/rekor/pkg/generated/restapi/operations"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1" // the entries that cosign makes
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	_ "github.com/sigstore/rekor/pkg/types/rfc3161/v0.0.1"
	"github.com/spf13/viper"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// startTrillian starts the Merkle tree under Rekor, in memory, server and
// sequencer in one.
func startTrillian(ctx context.Context) (*net.TCPAddr, error) {
	klog.SetOutput(io.Discard) // the memory's storage warns whenever there is nothing to do
	klog.LogToStderr(false)
	trees := memory.NewTreeStorage()
	registry := extension.Registry{
		AdminStorage:    memory.NewAdminStorage(trees),
		LogStorage:      memory.NewLogStorage(trees, nil),
		QuotaManager:    quota.Noop(),
		ElectionFactory: election2.NoopFactory{},
	}
	s := grpc.NewServer()
	trillian.RegisterTrillianAdminServer(s, admin.New(registry, nil))
	trillian.RegisterTrillianLogServer(s, trillianserver.NewTrillianLogRPCServer(registry, clock.System))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { panic(s.Serve(l)) }()
	sequencer := log.NewOperationManager(log.OperationInfo{
		Registry:    registry,
		BatchSize:   100,
		NumWorkers:  1,
		RunInterval: 20 * time.Millisecond,
		TimeSource:  clock.System,
	}, log.NewSequencerManager(registry, 0))
	go sequencer.OperationLoop(ctx)
	return l.Addr().(*net.TCPAddr), nil
}

// newRekor makes Rekor's API without the search index, which needs Redis.
func newRekor() http.Handler {
	viper.Set("rekor_server.hostname", "rekor.e2e")
	viper.Set("rekor_server.signer", "memory")
	viper.Set("enabled_api_endpoints", []string{"getLogInfo", "getPublicKey", "getLogProof", "createLogEntry", "getLogEntryByIndex", "getLogEntryByUUID", "searchLogQuery"})
	rekorapi.ConfigureAPI(0)
	doc, _ := loads.Embedded(restapi.SwaggerJSON, restapi.FlatSwaggerJSON) // cannot fail: it is compiled in
	s := restapi.NewServer(operations.NewRekorServerAPI(doc))
	s.ConfigureAPI()
	return s.GetHandler()
}
