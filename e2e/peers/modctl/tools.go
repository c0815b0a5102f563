//go:build tools

// Package modctl pins the client that build.sh builds: its own module, as the
// module proxy lists no versions of it, which "go install pkg@version" asks for.
package modctl

import _ "github.com/modelpack/modctl"
