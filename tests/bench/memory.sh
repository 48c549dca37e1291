#!/usr/bin/env bash
# Memory of an idle host, its agent and its manager (RSS), and of the supervisors beside them (PSS:
# pages that several share are divided among them).
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
of_lab() { # of_lab PROGRAM VERB: ids of its processes in this lab
    pgrep -f "^[^ ]*$1 $2 .*$work/" || true
}
total=0
for program in shoal-agent shoal-manager; do
    for pid in $(of_lab "$program" run); do
        rss=$(kib VmRSS "/proc/$pid/status")
        echo "$program (pid $pid): $((rss / 1024)) MB RSS"
        total=$((total + rss))
    done
done
echo "together: $((total / 1024)) MB RSS"

lab push bench:1 >/dev/null
lab ctl service create --quiet --name bench 10.99.0.1:5000/bench:1 sleep 1d >/dev/null
for count in 1 10; do
    lab ctl service scale "bench=$count" >/dev/null
    sleep 5 # supervisors give memory back once their containers run
    pids=$(of_lab shoal-agent supervise)
    sum=0
    for pid in $pids; do sum=$((sum + $(kib Pss "/proc/$pid/smaps_rollup"))); done
    echo "$count supervisors: $((sum / count)) KiB PSS each ($(wc -w <<<"$pids") found)"
done
lab ctl service rm bench >/dev/null
