#!/usr/bin/env bash
# build.sh [GROUP...]: brings what the end-to-end tests need besides mpack, each at a pinned version, and prints where it
# is. What is there already stays. Groups: registries, clients, signing, bench; none: all but bench.
# Built through the Go module proxy; docker-registry is Debian's, unpacked but not installed, so that no service starts;
# the command-line tools that bench compares with are Debian's too, and installed.
set -euo pipefail
cd "$(dirname "$0")"
bin=${MPACK_E2E_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/mpack-e2e/bin}
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
[ $# -gt 0 ] || set -- registries clients signing
flags=(-trimpath -ldflags '-s -w' -buildvcs=false)

work=$(mktemp -d "$bin/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
exec 9>"$bin/.lock"
flock 9

# install NAME PACKAGE@VERSION
install() {
  [ -x "$bin/$1" ] && return
  echo "building $1 from $2" >&2
  CGO_ENABLED=0 GOFLAGS='' GOBIN=$work go install "${flags[@]}" "$2"
  mv "$work/$(basename "${2%@*}")" "$bin/$1"
}

# own MODULE PACKAGE...: from a module here, each package to its last element's name; again when the module has changed
own() {
  local module=$1 package sum
  shift
  sum=$(find "$module" -type f | sort | xargs cat | sha256sum)
  for package; do [ -x "$bin/$(basename "$package")" ] || rm -f "$bin/.$module.sum"; done
  [ "$sum" != "$(cat "$bin/.$module.sum" 2>/dev/null)" ] || return 0
  echo "building $* from $module" >&2
  mkdir -p "$work/own"
  (cd "$module" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build "${flags[@]}" -o "$work/own/" "$@")
  mv "$work"/own/* "$bin/"
  echo "$sum" >"$bin/.$module.sum"
}

for group; do
  case $group in
  registries)
    install registry github.com/distribution/distribution/v3/cmd/registry@v3.1.2
    own olareg github.com/olareg/olareg/cmd/olareg
    if [ ! -x "$bin/docker-registry" ]; then
      echo "unpacking Debian's docker-registry" >&2
      [ "$(id -u)" != 0 ] || apt-get update -qq >&2
      (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root docker-registry >&2 && dpkg-deb -x docker-registry_*.deb tree)
      mv "$work/tree/usr/bin/docker-registry" "$bin/docker-registry"
    fi ;;
  clients)
    install oras oras.land/oras/cmd/oras@v1.3.6
    install crane github.com/google/go-containerregistry/cmd/crane@v0.22.1 ;;
  signing)
    install cosign github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5
    install cosign3 github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
    own sigstore mpack/e2e/peers/sigstore mpack/e2e/peers/sigstore/timestamp
    own policytester github.com/sigstore/policy-controller/cmd/tester ;;
  bench)
    own modctl github.com/modelpack/modctl
    debian=(restic casync git git-lfs iproute2 util-linux)
    if ! dpkg -s "${debian[@]}" >/dev/null 2>&1; then
      apt-get update -qq >&2
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${debian[@]}" >&2
    fi ;;
  *) echo "build.sh: no group $group; there are registries, clients, signing and bench" >&2; exit 2 ;;
  esac
done
echo "$bin"
