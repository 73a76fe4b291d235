#!/usr/bin/env bash
# Installs what the tests need of the system, on Debian and Ubuntu.
#
# usage: scripts/packages.sh [--list]
#   --list   only print the names of the packages that are missing
#
# As root it installs them with apt. Otherwise it says what to install, and
# fails, when something is missing. It can be run any number of times.
set -eu

# program or file -> the package that has it
needed() {
    cat <<LIST
qemu-system-x86_64 qemu-system-x86
qemu-system-aarch64 qemu-system-arm
qemu-storage-daemon qemu-system-common
mkfs.erofs erofs-utils
mke2fs e2fsprogs
mkfs.xfs xfsprogs
mkfs.btrfs btrfs-progs
debugfs e2fsprogs
dpkg-deb dpkg
xz xz-utils
zstd zstd
curl curl
tar tar
minisign minisign
shellcheck shellcheck
lintian lintian
mandoc mandoc
busybox busybox
dash dash
systemd-analyze systemd
/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
LIST
}

missing() {
    needed | while read -r program package; do
        command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || [ -x "/sbin/$program" ] ||
            [ -e "$program" ] || echo "$package"
    done | sort -u
}

case "${1-}" in
--list) missing; exit ;;
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
"") ;;
*) echo "error: unknown argument $1" >&2; exit 2 ;;
esac

packages=$(missing | tr '\n' ' ')
[ -n "$packages" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: missing: $packages" >&2
    echo "error: install them first: sudo apt-get install --no-install-recommends $packages" >&2
    exit 1
fi
echo "installing $packages"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words
if ! { apt-get -q update && apt-get -qy install --no-install-recommends $packages; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: apt-get could not install $packages" >&2
    exit 1
fi
