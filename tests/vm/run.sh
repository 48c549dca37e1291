#!/usr/bin/env bash
# run.sh [SUITE[:TEST]...]: tests on another kernel: Debian's, in a virtual machine that sees this one's
# files, read-only. Without hardware virtualisation all of them take about a quarter of an hour. Needs
# root, for apt.
#
# What it shows that a development machine may not have: control groups of version 2 alone, the kernel's own
# WireGuard, and its links of all kinds (ipvlan, VLANs).
#
#   runtime     containers
#   tunnel      the tunnel by the kernel's WireGuard
#   process     the tunnel by a process
#   network     networks, ports and what attackers do to them
#   cluster     three whole hosts whose tunnels are the kernel's
#
# TARGET_DIR   what cargo builds into (target)
# VM_SECONDS   how long the machine may run (2400)
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$PWD
work=$(realpath -m "${TARGET_DIR:-target}")/vm
packages=(cpio kmod qemu-system-x86)
# To see this machine's files; the kernel loads whatever else is used by itself.
modules=(virtio_pci virtio_rng 9pnet_virtio 9p overlay)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "vm: installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Debian's newest kernel; unpacked, not installed.
kernel() {
    local package
    package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
    [ -e "$work/$package" ] && return
    echo "vm: fetching $package"
    rm -rf "$work" && mkdir -p "$work/packages"
    (cd "$work/packages" && apt-get download -qq "$package" 2>/dev/null)
    dpkg-deb -x "$work"/packages/linux-image-*.deb "$work/kernel"
    depmod -b "$work/kernel" "$(ls "$work/kernel/lib/modules")"
    touch "$work/$package"
}

initramfs() {
    local tree=$work/initramfs module file
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,modules,proc,sys,dev,host,scratch,root}
    cp /bin/busybox "$tree/bin/"
    install -m 755 tests/vm/init "$tree/init"
    for module in "${modules[@]}"; do
        modprobe -d "$work/kernel" -S "$version" --show-depends "$module" | awk '/^insmod/ { print $2 }'
    done | awk '!seen[$0]++' | while read -r file; do
        cp "$file" "$tree/modules/"
        basename "$file" >>"$tree/modules/order"
    done
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs.gz"
}

fail() {
    echo "vm: $*" >&2
    exit 1
}

# The program that these cargo arguments name.
program() {
    cargo test --locked --quiet "$@" --no-run --message-format json-render-diagnostics |
        sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

# suite NAME FILTER DIRECTORY ENVIRONMENT CARGO-ARGUMENT...: a suite's tests one by one, each in a process of its
# own: those that are named, else those that the filter lets pass.
suite() {
    local name=$1 filter=$2 directory=$3 environment=$4 one program known tests
    shift 4
    for one in "${asked[@]}"; do
        [ "${one%%:*}" = "$name" ] || continue
        program=$(program "$@")
        [ -n "$program" ] || fail "there is no test program of $name"
        known=$("$program" --list | sed -n 's/: test$//p')
        # Who asks for a test that there is not would else be told that it passed.
        if [ "$one" = "$name" ]; then
            tests=$(grep -E "$filter" <<<"$known") || fail "suite $name has no tests like $filter"
        else
            tests=$(grep -Fx "${one#*:}" <<<"$known") || fail "suite $name has no test ${one#*:}"
        fi
        echo "suite '$name' '$directory' '$environment' '$program' '${tests//$'\n'/ }'"
    done
}

script() {
    cat <<'END'
export TMPDIR=/tmp CI=true RUST_BACKTRACE=0
failed=0
suite() {
    local test
    cd "$2" || exit 1
    for test in $5; do
        if env $3 timeout -k 5 300 "$4" --exact "$test" --test-threads=1 >/tmp/said 2>&1; then
            echo "PASS $1 $test"
        else
            echo "FAIL $1 $test"
            failed=1
            tail -30 /tmp/said
        fi
    done
}
END
    suite runtime . "$root/agent" "" -p shoal-agent --test runtime
    suite tunnel . "$root/agent" SHOAL_TEST_TUNNEL=kernel -p shoal-agent --test tunnel
    suite process . "$root/agent" "" -p shoal-agent --test tunnel
    suite network ^root_tests:: "$root/agent/network" SHOAL_TEST_LINKS=all -p shoal-agent-network --lib
    # By default: what takes the tunnel. All of them on emulated processors would take hours.
    suite cluster '^(overlay|published)::' "$root/tests" "" -p shoal-tests --test e2e
    echo 'exit $failed'
}

asked=("$@")
[ ${#asked[@]} -gt 0 ] || asked=(runtime tunnel process network cluster)
for one in "${asked[@]}"; do
    case ${one%%:*} in
    runtime | tunnel | process | network | cluster) ;;
    *) echo "vm: no suite $one: expected runtime, tunnel, process, network or cluster" >&2; exit 2 ;;
    esac
done

kernel
version=$(ls "$work/kernel/lib/modules")
initramfs
script >"$work/script"
echo "vm: Linux $version, cgroup v2 alone: ${asked[*]}"
timeout "${VM_SECONDS:-2400}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 \
    -nographic -no-reboot -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all vm.dir=$work" \
    -device virtio-rng-pci \
    -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap" \
    </dev/null 2>&1 | sed -u 's/\r//g' | tee "$work/console.log" | grep --line-buffered -aE '^(PASS|FAIL) |^ |panicked' || true
grep -aq '^VM-ENDED 0$' "$work/console.log" && echo "vm: all passed" && exit 0
echo "vm: failed; everything it said is in $work/console.log" >&2
exit 1
