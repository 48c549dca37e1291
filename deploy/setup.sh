#!/usr/bin/env bash
# setup.sh [tests] [docker] [nextest] [deny]: installs what is missing of what building and the demo need, what
# the tests compare with, and the named cargo tools: Debian packages by apt (as root), tools from
# crates.io. Does nothing if all is there.
set -euo pipefail

packages=(busybox-static ca-certificates curl docker-registry gcc iproute2 jq
          libc6-dev libseccomp-dev make nftables pkg-config procps)
# Other programs' answers that tests compare ours with, and another clock.
[ "${1:-}" != tests ] || { shift; packages+=(faketime skopeo umoci wireguard-go wireguard-tools); }
# Who else has rules on a host.
[ "${1:-}" != docker ] || { shift; packages+=(docker.io iptables); }
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: missing packages; run as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}"
    apt-get update -qq
    # Run level 1 keeps the registry's own service from starting: tests start registries themselves.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

for tool in "$@"; do
    command -v "cargo-$tool" >/dev/null 2>&1 && continue
    [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-$tool" ] && continue
    echo "setup: building cargo-$tool (once)"
    cargo install --locked --quiet "cargo-$tool"
done
