#!/usr/bin/env bash
# Who may not reach what, by the whole tree of dependencies and not by one manifest.
set -euo pipefail
cd "$(dirname "$0")/.."

# A supervisor forks, so it has one thread: nothing below it may bring an async runtime, or a pool of threads.
without() {
    local crate=$1 word found
    shift
    found=$(cargo tree --locked -p "$crate" -e normal,build --prefix none --format '{p}')
    grep -q "^$crate " <<<"$found" || { echo "walls: no crate $crate" >&2; exit 1; }
    for word in "$@"; do
        if grep -E "^$word v" <<<"$found"; then
            echo "walls: $crate reaches $word:" >&2
            cargo tree --locked -p "$crate" -e normal,build -i "$word" >&2
            exit 1
        fi
    done
}

without shoal-agent-container tokio mio async-std smol async-executor rayon tonic gotatun
# What encrypts between nodes is code of others that hears the network: it is in the agent's program alone, and
# there in the process of the tunnel.
without shoal-manager gotatun tun wireguard-control
without shoalctl gotatun tun wireguard-control
# What reads the questions of containers is a process without rights.
without shoal-manager hickory-proto
without shoalctl hickory-proto
# What managers agree on is bytes to those who agree, and who may connect is decided elsewhere.
without shoal-manager-raft shoal-manager-state shoal-manager-planning shoal-transport rustls
echo "walls: they stand"
