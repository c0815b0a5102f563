package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/urfave/cli/v2"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "run a small local registry, for trying things out and for tests",
		ArgsUsage: " ",
		Description: `Listens on this machine only unless --addr says otherwise, knows no users, and
keeps everything in DIR as OCI layouts, or in memory without --store.

Examples:
  mpack serve --store ./registry
  mpack serve --addr 127.0.0.1:0     # a free port, printed when it is ready`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Usage: "listen on `HOST:PORT`", Value: "127.0.0.1:5000", EnvVars: env("addr")},
			&cli.StringFlag{Name: "store", Usage: "keep blobs and manifests in `DIR`"}, // MPACK_STORE is that of pulls
		},
		Action: func(c *cli.Context) error {
			if err := maxArgs(c, 0); err != nil {
				return err
			}
			s, err := startRegistry(c.String("addr"), c.String("store"))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "serving on %s\n", s.addr)
			select {
			case <-c.Context.Done():
				return s.stop()
			case err := <-s.failed:
				return errors.Join(fmt.Errorf("serve: %w", err), s.stop())
			}
		},
	}
}

// localRegistry is olareg, an OCI 1.1 registry with referrers, in this process.
type localRegistry struct {
	addr   string
	http   *http.Server
	server *olareg.Server
	failed chan error
}

func startRegistry(addr, dir string) (*localRegistry, error) {
	yes := true
	conf := config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem},
		API:     config.ConfigAPI{DeleteEnabled: &yes, Blob: config.ConfigAPIBlob{DeleteEnabled: &yes}},
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if dir != "" {
		conf.Storage.StoreType, conf.Storage.RootDir = config.StoreDir, dir
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	s := &localRegistry{addr: l.Addr().String(), server: olareg.New(conf), failed: make(chan error, 1)}
	s.http = &http.Server{Handler: s.server, ReadHeaderTimeout: 10 * time.Second}
	go func() { s.failed <- s.http.Serve(l) }()
	return s, nil
}

// stop ends the registry. Requests under way have a second to end.
func (s *localRegistry) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	return errors.Join(err, s.server.Close())
}
