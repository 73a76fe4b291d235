#!/usr/bin/env bash
# Installs what the tests need of the system, on Debian and Ubuntu.
#
# usage: scripts/packages.sh [--list] [demo|lint|bench|all]
#        scripts/packages.sh fleet
#   --list   only print the names of the packages that are missing
#   demo     what `make demo` needs: a virtual machine
#   lint     what `make lint` needs
#   bench    what `make bench` compares with
#   all      what all tests need, if nothing is said
#   fleet    gooseBit, from PyPI, in a virtual environment, whose name it prints
#
# As root it installs them with apt. Otherwise it says what to install, and
# fails, when something is missing. It can be run any number of times.
set -eu

list=
[ "${1-}" != --list ] || { list=1; shift; }
case "${1-}" in
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
demo | lint | bench | all) purpose=$1 ;;
fleet)
    wanted=$(dirname "$0")/../integration/fleet/goosebit/requirements.txt
    dir=${XDG_CACHE_HOME:-$HOME/.cache}/ota-goosebit
    if ! cmp -s "$wanted" "$dir/requirements.txt"; then
        rm -rf "$dir"
        python3 -m venv "$dir" >&2
        "$dir/bin/pip" install -q --disable-pip-version-check -r "$wanted" >&2
        cp "$wanted" "$dir/requirements.txt"
    fi
    echo "$dir"
    exit
    ;;
"") purpose=all ;;
*) echo "error: unknown argument $1" >&2; exit 2 ;;
esac

# program or file -> the package that has it, and what less than all tests needs it;
# no test needs what is for bench
needed() {
    cat <<LIST
qemu-system-x86_64 qemu-system-x86 demo
qemu-system-aarch64 qemu-system-arm
qemu-storage-daemon qemu-system-common
mkfs.erofs erofs-utils demo
mke2fs e2fsprogs demo
mkfs.xfs xfsprogs
mkfs.btrfs btrfs-progs
debugfs e2fsprogs
dpkg-deb dpkg demo
xz xz-utils demo
depmod kmod demo
zstd zstd demo
curl curl
tar tar
minisign minisign
softhsm2-util softhsm2
pkcs11-tool opensc
shellcheck shellcheck lint
lintian lintian
rpm rpm
mandoc mandoc
busybox busybox
fish fish
zsh zsh
chromium-headless-shell chromium-headless-shell
/usr/share/fonts/truetype/wqy fonts-wqy-microhei
dash dash
systemd-analyze systemd lint
/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring demo
ostree ostree bench
rsync rsync bench
LIST
}

missing() {
    needed | while read -r program package for; do
        [ "$purpose" = "${for:-all}" ] || { [ "$purpose" = all ] && [ "$for" != bench ]; } || continue
        command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || [ -x "/sbin/$program" ] ||
            [ -e "$program" ] || echo "$package"
    done | sort -u
}

[ -z "$list" ] || { missing; exit; }

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
