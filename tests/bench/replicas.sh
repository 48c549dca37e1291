#!/usr/bin/env bash
# 100 replicas on one host, image present: from the API call until all run. shoal against Docker's
# swarm mode, each alone in a network namespace of its own, rounds in turn (A B A B).
#
#   tests/bench/replicas.sh [ROUNDS [REPLICAS]]     needs root; Debian's docker.io and busybox-static
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} replicas=${2:-100}
bin=${TARGET_DIR:-target/release}
bin=$(cd "$bin" && pwd)
work=$(mktemp -d /tmp/shoal-bench.XXXXXX)
chmod 755 "$work" # the manager runs as nobody
docker_ns=shoal-bench-docker
export DOCKER_HOST=unix://$work/docker.sock

lab() { "$bin/shoal-lab" --dir "$work/lab" "$@"; }

cleanup() {
    set +e
    docker service rm bench >/dev/null 2>&1
    docker swarm leave --force >/dev/null 2>&1
    [ -f "$work/docker.pid" ] && kill "$(cat "$work/docker.pid")" && sleep 2
    lab down >/dev/null 2>&1
    ip netns del $docker_ns 2>/dev/null
    for mount in $(grep -o "$work[^ ]*" /proc/mounts | sort -r); do umount -l "$mount"; done
    rm -rf "$work"
}
trap cleanup EXIT

start_docker() {
    ip netns add $docker_ns
    ip -n $docker_ns link set lo up
    ip -n $docker_ns link add d0 type veth peer name d1
    ip -n $docker_ns addr add 10.98.0.1/24 dev d0
    ip -n $docker_ns link set d0 up
    ip -n $docker_ns link set d1 up
    # Not `ip netns exec`: that hides the control groups.
    nsenter --net=/run/netns/$docker_ns dockerd --data-root "$work/docker" \
        --exec-root "$work/docker-exec" -H "$DOCKER_HOST" -p "$work/docker.pid" \
        >"$work/docker.log" 2>&1 &
    for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
    docker swarm init --advertise-addr 10.98.0.1 >/dev/null
    mkdir "$work/root"
    cp /bin/busybox "$work/root/"
    tar -C "$work/root" -c . | docker import -c 'CMD ["/busybox","sleep","1d"]' - bench:1 >/dev/null
    docker save -o "$work/image.tar" bench:1
}

start_shoal() {
    lab up --hosts 1 >"$work/lab.log" 2>&1
    lab ctl init --advertise-addr 10.99.0.11 >/dev/null
    lab ctl image load -i "$work/image.tar" >/dev/null
}

now() { date +%s%N; }

wait_for() { # wait_for COMMAND...: until it prints REPLICAS/REPLICAS
    local deadline=$((SECONDS + 240))
    until [ "$("$@" 2>/dev/null)" = "$replicas/$replicas" ]; do
        [ $SECONDS -lt $deadline ] || { echo "never: $*" >&2; exit 1; }
        sleep 0.05
    done
}

docker_count() { docker service ls --filter name=bench --format '{{.Replicas}}'; }
shoal_count() { lab ctl service ls | awk '$2 == "bench" { print $4 }'; }

gone() { # gone COMMAND...: until it prints nothing
    local deadline=$((SECONDS + 240))
    while [ -n "$("$@" 2>/dev/null)" ]; do
        [ $SECONDS -lt $deadline ] || { echo "never gone: $*" >&2; exit 1; }
        sleep 0.2
    done
}

docker_round() {
    local start; start=$(now)
    docker service create --name bench --replicas "$replicas" --detach -q bench:1 >/dev/null 2>&1
    wait_for docker_count
    echo $((($(now) - start) / 1000000))
    docker service rm bench >/dev/null
    gone docker ps -q
}

shoal_round() {
    local start; start=$(now)
    lab ctl service create --name bench --replicas "$replicas" --detach -q bench:1 >/dev/null
    wait_for shoal_count
    echo $((($(now) - start) / 1000000))
    lab ctl service rm bench >/dev/null
}

start_docker
start_shoal
docker_ms=() shoal_ms=()
for round in $(seq "$rounds"); do
    shoal_ms+=("$(shoal_round)")
    docker_ms+=("$(docker_round)")
    echo "round $round: shoal ${shoal_ms[-1]} ms, docker ${docker_ms[-1]} ms"
done
python3 - "$replicas" "${shoal_ms[*]}" "${docker_ms[*]}" <<'PY'
import random, statistics, sys
replicas, ours, theirs = sys.argv[1], *([int(x) for x in a.split()] for a in sys.argv[2:4])
random.seed(1)
median = statistics.median
ratios = sorted(median(random.choices(theirs, k=len(theirs))) / median(random.choices(ours, k=len(ours)))
                for _ in range(2000))
print(f"{replicas} replicas: shoal p50 {median(ours)} ms, docker p50 {median(theirs)} ms, "
      f"shoal is {median(theirs) / median(ours):.1f} times faster "
      f"(95% interval {ratios[50]:.1f} to {ratios[1949]:.1f}, n={len(ours)})")
PY
