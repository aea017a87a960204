#!/bin/sh
# Build the interop peers: `interop/build.sh [go] [rust] [js] [gokad] [goautonat] [kubo]`, all of them without arguments.
#
# A peer is built once for each content of its sources and version of its tools, under the cache
# directory of the user, so that a fresh clone starts warm; interop/bin/NAME-peer links to it.
# A missing tool is named and its peer left out; under CI=true that is an error, as is any failure.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/peertunnel
PATH=$PATH:/usr/local/go/bin:$HOME/.cargo/bin
export PATH
mkdir -p "$cache/peers" "$here/bin"

# key NAME TOOL-VERSION: what the peer is built from, as one short word.
key() {
  (
    cd "$here/peers/$1"
    echo "$2 $(uname -sm)"
    find . \( -name node_modules -o -name target \) -prune -o -type f -print | LC_ALL=C sort |
      while read -r file; do sha256sum "$file"; done
    sha256sum <"$here/build.sh"
  ) | sha256sum | cut -c1-16
}

# go_build DIRECTORY SOURCES: put the program of SOURCES into DIRECTORY.
go_build() {
  (cd "$here/peers/$2" && CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$1/peer" .)
}

build_go() { go_build "$1" go; }

build_gokad() { go_build "$1" gokad; }

build_goautonat() { go_build "$1" goautonat; }

# kubo's own program `ipfs`, at the versions of peers/kubo/go.mod.
build_kubo() {
  (cd "$here/peers/kubo" && CGO_ENABLED=0 nice go build -tags nofuse -trimpath -buildvcs=false -ldflags='-s -w' -o "$1/peer" github.com/ipfs/kubo/cmd/ipfs)
}

build_rust() {
  (cd "$here/peers/rust" && CARGO_TARGET_DIR="$cache/rust-target" nice cargo build --quiet --release --locked) &&
    cp "$cache/rust-target/release/interop-peer" "$1/peer"
}

build_js() {
  cp "$here"/peers/js/*.js "$here"/peers/js/*.json "$1/" &&
    # Not `npm ci`, which wants a lock of the QUIC binaries for every platform, not this one's alone.
    (cd "$1" && nice npm install --no-save --silent --ignore-scripts --no-audit --no-fund) || return
  # js-libp2p dials with the WebSocket of browsers, which Node 20 has behind a flag.
  printf '#!/bin/sh\nexec node --experimental-websocket "%s/peers/%s/peer.js" "$@"\n' "$cache" "$2" >"$1/peer"
  chmod +x "$1/peer"
}

# build NAME TOOLS VERSION-COMMAND
build() {
  for tool in $2; do
    if ! command -v "$tool" >/dev/null; then
      echo "interop: no $tool, so there is no $1 peer" >&2
      [ "${CI:-}" != true ]
      return
    fi
  done
  entry=$1-$(key "$1" "$($3)")
  if [ ! -x "$cache/peers/$entry/peer" ]; then
    started=$(date +%s)
    fresh=$(mktemp -d "$cache/peers/.$1.XXXXXX")
    chmod 755 "$fresh"
    if ! "build_$1" "$fresh" "$entry"; then
      rm -rf "$fresh"
      echo "interop: the $1 peer does not build" >&2
      return 1
    fi
    rm -rf "$cache/peers/$entry"
    mv -T "$fresh" "$cache/peers/$entry"
    echo "interop: built the $1 peer in $(($(date +%s) - started)) s"
  fi
  touch "$cache/peers/$entry"
  ln -sfn "$cache/peers/$entry/peer" "$here/bin/$1-peer"
}

# Entries no build has used for a month.
find "$cache/peers" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +

[ $# -gt 0 ] || set -- rust go js gokad goautonat kubo
pids=
for name in "$@"; do
  case $name in
    go) build go go "go version" & ;;
    gokad) build gokad go "go version" & ;;
    goautonat) build goautonat go "go version" & ;;
    kubo) build kubo go "go version" & ;;
    rust) build rust cargo "cargo --version" & ;;
    js) build js "node npm" "node --version" & ;;
    *) echo "interop: unknown peer $name" >&2; exit 2 ;;
  esac
  pids="$pids $!"
done
failed=0
for pid in $pids; do wait "$pid" || failed=1; done
exit $failed
