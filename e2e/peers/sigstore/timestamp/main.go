// Command timestamp runs sigstore's timestamp authority on an address, with new
// keys each start. Its own command opens metrics on every interface, at a port
// that cannot be chosen.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/sigstore/timestamp-authority/v2/pkg/server"
	"github.com/spf13/viper"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: timestamp ADDRESS")
		os.Exit(2)
	}
	const policy = "1.3.6.1.4.1.57264.2" // the command's default
	viper.Set("timestamp-signer", "memory")
	viper.Set("timestamp-signer-hash", "sha256")
	viper.Set("default-policy-oid", policy)
	viper.Set("accepted-policy-oids", []string{policy})
	viper.Set("max-request-body-size", 1<<20)
	api := server.NewRestAPIServer("", 0, nil, false, time.Minute, time.Minute)
	err := (&http.Server{Addr: os.Args[1], Handler: api.GetHandler(), ReadHeaderTimeout: time.Minute}).ListenAndServe()
	fmt.Fprintln(os.Stderr, "timestamp:", err)
	os.Exit(1)
}
