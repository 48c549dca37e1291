#!/usr/bin/env bash
# install.sh: puts the programs, the systemd units, the manager's user and completions in place.
# install.sh --remove: takes them away again; what the host holds (/var/lib/shoal) stays.
#
# PREFIX       where to (/usr/local)
# DESTDIR      put before everything, for packages; nothing is started or registered then
# TARGET_DIR   where the built programs are (target/release)
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
target=${TARGET_DIR:-target/release}
programs=(shoal-agent shoal-manager shoalctl)

bin=$prefix/bin
# Packages put units where they belong; what was built by hand goes where admins put theirs.
units=/etc/systemd/system
[ -z "$dest" ] || units=$prefix/lib/systemd/system
services=(shoal-agent.service shoal-containers.service)
sysusers=/etc/sysusers.d/shoal.conf
bash_file=$prefix/share/bash-completion/completions/shoalctl
zsh_file=$prefix/share/zsh/site-functions/_shoalctl
fish_file=$prefix/share/fish/vendor_completions.d/shoalctl.fish

on_this_host() { [ -z "$dest" ] && [ "$(id -u)" -eq 0 ]; }
has_systemd() { on_this_host && [ -d /run/systemd/system ]; }

if [ "${1:-}" = --remove ]; then
    # Containers outlive their agent, and nobody could stop them any more.
    if on_this_host && grep -qsx shoal-supervise /proc/[0-9]*/comm; then
        echo "install: containers run on this host: run shoalctl leave, then remove" >&2
        exit 1
    fi
    if has_systemd; then
        systemctl disable --now shoal-agent.service 2>/dev/null || true
    fi
    for program in "${programs[@]}"; do
        rm -f "$dest$bin/$program"
    done
    for service in "${services[@]}"; do
        rm -f "$dest$units/$service"
    done
    rm -f "$dest$sysusers" "$dest$bash_file" "$dest$zsh_file" "$dest$fish_file"
    if has_systemd; then
        systemctl daemon-reload
        # Refused while its file said so.
        systemctl stop shoal-containers.service 2>/dev/null || true
    fi
    echo "removed; /var/lib/shoal and the user shoal are left"
    exit 0
elif [ $# -gt 0 ]; then
    echo "install: unknown argument $1: expected --remove or nothing" >&2
    exit 2
fi

for program in "${programs[@]}"; do
    if [ ! -x "$target/$program" ]; then
        echo "install: $target/$program is not built: run make release" >&2
        exit 1
    fi
    install -D -m 755 "$target/$program" "$dest$bin/$program"
done
install -d "$dest$units"
for service in "${services[@]}"; do
    sed "s|@BINDIR@|$bin|" "deploy/systemd/$service" >"$dest$units/$service"
    chmod 644 "$dest$units/$service"
done
install -D -m 644 deploy/systemd/shoal.sysusers.conf "$dest$sysusers"
for shell in bash zsh fish; do
    file=${shell}_file
    install -d "$(dirname "$dest${!file}")"
    "$target/shoalctl" completion "$shell" >"$dest${!file}"
    chmod 644 "$dest${!file}"
done

if has_systemd; then
    systemd-sysusers "$sysusers"
    systemctl daemon-reload
    if systemctl --quiet is-active shoal-agent.service; then
        echo "installed; the agent that runs is the old one: systemctl restart shoal-agent"
        echo "(containers go on; the new agent takes them over)"
    else
        echo "installed; start it with: systemctl enable --now shoal-agent"
    fi
elif on_this_host; then
    if ! id shoal >/dev/null 2>&1; then
        useradd --system --no-create-home --home-dir /var/lib/shoal/manager --shell /usr/sbin/nologin shoal
    fi
    echo "installed; this host has no systemd, so start $bin/shoal-agent run by what it has"
else
    echo "installed below ${dest:-/}"
fi
