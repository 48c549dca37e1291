#!/usr/bin/env bash
# run.sh [TEST...]: the tests of the container runtime on another kernel and another layout of control
# groups: Debian's kernel in a virtual machine with cgroup v2 alone. The machine sees this one's files,
# read-only. Without hardware virtualisation it takes about five minutes. Needs root, for apt.
#
# TARGET_DIR   what cargo builds into (target)
# VM_SECONDS   how long the machine may run (900)
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

# The tests one by one, each in a process of its own: those that are named, else all.
script() {
    local program
    program=$(cargo test --locked -p shoal-agent --test runtime --no-run --message-format json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*runtime-[^"]*\)".*/\1/p' | tail -1)
    cat <<END
cd '$root/agent'
export TMPDIR=/tmp CI=true RUST_BACKTRACE=0
failed=0
tests='$*'
[ -n "\$tests" ] || tests=\$('$program' --list 2>/dev/null | sed -n 's/: test\$//p')
for test in \$tests; do
    if timeout 120 '$program' --exact "\$test" --test-threads=1 >/tmp/said 2>&1; then
        echo "PASS \$test"
    else
        echo "FAIL \$test"
        failed=1
        tail -30 /tmp/said
    fi
done
exit \$failed
END
}

kernel
version=$(ls "$work/kernel/lib/modules")
initramfs
script "$@" >"$work/script"
echo "vm: Linux $version, cgroup v2 alone"
timeout "${VM_SECONDS:-900}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 \
    -nographic -no-reboot -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all vm.dir=$work" \
    -device virtio-rng-pci \
    -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap" \
    </dev/null 2>&1 | tr -d '\r' | tee "$work/console.log" | grep --line-buffered -aE '^(PASS|FAIL) |^ |panicked' || true
grep -aq '^VM-ENDED 0$' "$work/console.log" && echo "vm: all passed" && exit 0
echo "vm: failed; everything it said is in $work/console.log" >&2
exit 1
