#!/usr/bin/env bash
# All measurements, each against its peer in the same run. Needs root and a quiet machine; installs
# the peers from Debian: crun, runc, docker.io, wireguard-go, dnsmasq.
set -euo pipefail
cd "$(dirname "$0")/../.."
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends crun runc docker.io jq \
    wireguard-go wireguard-tools dnsmasq-base >/dev/null
load=$(cut -d' ' -f1 /proc/loadavg)
awk -v load="$load" 'BEGIN { exit !(load > 1.5) }' && echo "warning: the load is $load; figures will be off"
cargo bench --locked -p shoal-tests --bench start
cargo bench --locked -p shoal-agent-tunnel --bench throughput
cargo bench --locked -p shoal-agent-network --bench ruleset
cargo bench --locked -p shoal-agent-dns --bench questions
tests/bench/memory.sh
tests/bench/replicas.sh
