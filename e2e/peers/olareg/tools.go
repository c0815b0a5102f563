//go:build tools

// Package olareg pins the registry that build.sh builds: its own module, as
// its go.mod has a replace directive that "go install pkg@version" refuses.
package olareg

import _ "github.com/olareg/olareg/cmd/olareg"
