package main

import (
	"net/http"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"golang.org/x/text/language"
)

// clientID is whom tokens are for: what cosign calls itself.
const clientID = "sigstore"

// newIssuer makes an OpenID provider where any address logs in, with the
// password "e2e", and gets an identity token by the implicit flow
// (response_type=id_token, redirect_uri http://localhost/).
func newIssuer(issuer string) http.Handler {
	storage.RegisterClients(storage.WebClient(clientID, "", "http://localhost/"))
	return exampleop.SetupServer(issuer, storage.NewStorage(anyone{}), nil, false)
}

type anyone struct{}

func (anyone) GetUserByID(id string) *storage.User {
	return &storage.User{ID: id, Username: id, Password: "e2e", Email: id, EmailVerified: true, PreferredLanguage: language.English}
}

func (u anyone) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }

func (anyone) ExampleClientID() string { return clientID }
