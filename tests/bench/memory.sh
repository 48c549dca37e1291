#!/usr/bin/env bash
# Memory of an idle host: its agent and its manager (RSS).
#
#   tests/bench/memory.sh     needs root
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${TARGET_DIR:-target/release}
bin=$(cd "$bin" && pwd)
work=$(mktemp -d /tmp/shoal-bench.XXXXXX)
chmod 755 "$work" # the manager runs as nobody
lab() { "$bin/shoal-lab" --dir "$work/lab" "$@"; }
cleanup() {
    lab down >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

lab up --hosts 1 >/dev/null
lab ctl init --advertise-addr 10.99.0.11 >/dev/null
sleep 10 # idle means idle: nothing of the start is still going on

kib() { awk -v key="$1:" '$1 == key {sum += $2} END {print sum + 0}' "$2"; }
of_lab() { # of_lab PROGRAM: ids of its processes in this lab; the state directory is an argument
    pgrep -f "^$work/lab/bin/$1 run .*--state-dir" || true
}
total=0
for program in shoal-agent shoal-manager; do
    for pid in $(of_lab "$program"); do
        rss=$(kib VmRSS "/proc/$pid/status")
        echo "$program (pid $pid): $((rss / 1024)) MB RSS"
        total=$((total + rss))
    done
done
echo "together: $((total / 1024)) MB RSS"
