//go:build tools

// Package policytester pins sigstore policy-controller's tester that build.sh
// builds: its own module, as its go.mod has replace directives that "go
// install pkg@version" refuses. The directives are repeated in go.mod.
package policytester

import _ "github.com/sigstore/policy-controller/cmd/tester"
