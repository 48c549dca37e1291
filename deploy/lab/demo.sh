#!/usr/bin/env bash
# demo.sh: three hosts on this machine run examples/shop; it is reached, observed, updated, survives
# a dead host, and is removed. Needs root and what deploy/setup.sh installs.
#
# TARGET_DIR   where the programs are (target/debug)
# KEEP=1       leaves the hosts up
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${TARGET_DIR:-target/debug}
keep=${KEEP:-}
bold='' red='' green='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "demo: needs root, for network namespaces and containers: sudo make demo" >&2
    exit 1
fi

dir=$(mktemp -d /tmp/shoal-demo.XXXXXX)
chmod 755 "$dir"
lab=("$(realpath "$target")/shoal-lab" --dir "$dir/lab")
step='starting'
began=$SECONDS
finished=''

finish() {
    local code=$?
    trap - EXIT INT TERM
    if [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; then
        echo "demo: interrupted; taking everything down" >&2
    elif [ "$code" -ne 0 ]; then
        local logs=/tmp/shoal-demo-logs.$$
        mkdir -p "$logs"
        for log in "$dir"/lab/h*/agent.log "$dir"/lab/registry/log; do
            [ -f "$log" ] && cp "$log" "$logs/$(basename "$(dirname "$log")").log"
        done
        echo "${red}demo: failed while ${step} (exit $code); logs are in ${logs}${plain}" >&2
    elif [ -n "$keep" ] && [ -n "$finished" ]; then
        exit 0
    fi
    "${lab[@]}" down >&2 || code=1
    rm -rf "$dir"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() {
    step=$1
    printf '\n%s== %s%s\n' "$bold" "$1" "$plain"
}

show() { printf '%s$ %s%s\n' "$green" "$*" "$plain"; }

# Shows a shoalctl command, and runs it as on the first host.
ctl() {
    show "shoalctl $*"
    "${lab[@]}" ctl "$@"
}

page() {
    show "curl http://$1:8080/"
    "${lab[@]}" exec switch -- curl --silent --show-error --fail --max-time 5 "http://$1:8080/"
}

web_hosts() {
    "${lab[@]}" ctl service ps --filter desired-state=running --format json shop_web |
        jq -r '.[] | select(.Status.State == "running") | .NodeID' |
        while read -r node; do
            "${lab[@]}" ctl node inspect "$node" --format json | jq -r '.[0].Description.Hostname'
        done | sort
}

address() { echo "10.99.0.1${1#h}"; }

images() {
    local program
    for program in web counter visitor; do
        rustc -O --edition 2024 -C target-feature=+crt-static -C strip=symbols \
            -o "$dir/$program" "examples/shop/$program.rs"
        "${lab[@]}" push "shop-$program:1" --program "$dir/$program"
    done
    "${lab[@]}" push shop-web:2 --program "$dir/web"
}

say 'Three hosts on a switch, with a registry, each with an agent that waits'
"${lab[@]}" up --hosts 3 --programs "$target"
eval "$("${lab[@]}" env | grep -E '^export (REGISTRY|h[0-9]+)=')"

say 'The programs of examples/shop become images'
images

say 'A cluster: the first host makes it, the others join'
ctl init --advertise-addr "$h1" | sed -E "s/(SHOAL-1-[a-z0-9]{6})[a-z0-9-]+/\1.../"
token=$("${lab[@]}" ctl join-token -q worker)
for host in h2 h3; do
    show "echo ${token:0:14}... | shoalctl join --token-file - $h1   # on $host"
    echo "$token" | "${lab[@]}" ctl --host "$host" join --token-file - "$h1"
done
ready() {
    "${lab[@]}" ctl node ls --format json |
        jq -e '[.[] | select(.Status.State == "ready")] | length == 3' >/dev/null
}
for _ in $(seq 100); do ready && break; sleep 0.1; done
ctl node ls

say 'A stack: two commands'
ctl node update --label-add role=store h1
ctl stack deploy -c examples/shop/stack.yaml shop
ctl service ls
ctl stack ps shop

say 'The page, from outside: every host answers, also the one that runs no task of it'
for host in h1 h2 h3; do page "$(address "$host")"; done

say 'What the visitors saw, one on each host, asking the service by its name'
sleep 1
ctl service logs --tail 2 shop_visitor

say 'A new version, one page after the other'
show 'export VERSION=2'
export VERSION=2
ctl stack deploy -c examples/shop/stack.yaml shop
for host in h1 h2 h3; do page "$(address "$host")"; done

say 'A program in a running container'
ctl exec shop_web.1 /web healthcheck && echo 'the health check says: healthy'

victim=$(web_hosts | grep -v h1 | tail -1)
say "The plug of $victim is pulled: its page comes back elsewhere"
"${lab[@]}" kill "$victim"
dead=$(date +%s%N)
back() {
    [ "$(web_hosts | grep -cv "^$victim\$")" -ge 2 ]
}
for _ in $(seq 300); do back && break; sleep 0.1; done
back
printf '%sback after %s ms%s\n' "$bold" "$((($(date +%s%N) - dead) / 1000000))" "$plain"
ctl node ls
ctl service ps shop_web
for host in h1 h2 h3; do [ "$host" = "$victim" ] || page "$(address "$host")"; done

say "$victim comes back"
"${lab[@]}" start "$victim" >/dev/null
for _ in $(seq 200); do ready && break; sleep 0.1; done
ready
ctl node ls

if [ -n "$keep" ]; then
    finished=1
    say 'The hosts stay up'
    cat <<END
To talk to them:      eval "\$(${lab[*]} env)"; shoalctl service ls
On a host:            ${lab[*]} exec h2 -- ip address
Logs of the agents:   $dir/lab/h1/agent.log
To take them down:    ${lab[*]} down; rm -r $dir
END
    exit 0
fi

say 'All of it goes'
ctl stack rm shop
left() {
    for host in h1 h2 h3; do "${lab[@]}" inventory "$host"; done |
        grep -E '^(process|cgroup|mount) |^link (shoal|veth|br)' |
        # The host's end of the tunnel is its own as long as it is in the cluster.
        grep -v '^process shoal-agent tunnel ' || true
}
for _ in $(seq 150); do [ -z "$(left)" ] && break; sleep 0.1; done
if [ -n "$(left)" ]; then
    left >&2
    false
fi
echo 'no process, mount, control group or link of a container is left on any host'
"${lab[@]}" down
finished=1
printf '\n%sdone in %s seconds%s\n' "$bold" "$((SECONDS - began))" "$plain"
