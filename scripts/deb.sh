#!/usr/bin/env bash
# Makes Debian packages: everything that scripts/install.sh installs, with scripts
# that enable the units. The same sources make the same bytes.
#
# usage: scripts/deb.sh [ARCH...]     (amd64, arm64, armhf; default all)
#
# In the environment:
#   OUT          the folder for the packages (default bin)
#   BIN          the folder of the programs, which are built there (default bin)
#   VERSION      default: scripts/version.sh
#   STORE        the version store, for devices that have it elsewhere (default /opt/tope/versions)
#   SERVICES     the services that start from it (default device-api.service)
#   MAINTAINER   "NAME <ADDRESS>", whom users of the package write to
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
die() { echo "error: $*" >&2; exit 1; }

arches=''
for arg in "$@"; do
    case $arg in
    -h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
    amd64 | arm64 | armhf) arches="$arches $arg" ;;
    *) echo "error: unknown architecture $arg: amd64, arm64 or armhf" >&2; exit 2 ;;
    esac
done
: "${arches:=amd64 arm64 armhf}"
out=$(realpath -m "${OUT:-$here/bin}") bin=$(realpath -m "${BIN:-$here/bin}")
store=${STORE:-/opt/tope/versions} services=${SERVICES:-device-api.service}
VERSION=${VERSION:-$("$here/scripts/version.sh")}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$("$here/scripts/version.sh" --time)}
MAINTAINER=${MAINTAINER:-TOP.E OTA <tope-ota@users.noreply.github.com>}
export VERSION SOURCE_DATE_EPOCH MAINTAINER CGO_ENABLED=0
case $VERSION in
[0-9]*) case $VERSION in *[!A-Za-z0-9.+~]*) die "$VERSION cannot be the version of a package" ;; esac ;;
*) die "the version of a package begins with a digit, not $VERSION" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# common replaces what every Debian has by the place where it is. The authors' own
# lines follow in the appendix.
common() {
    sed '/^ *Apache License$/,/third-party archives\.$/c\
The terms are those of the Apache License, Version 2.0, which is\
/usr/share/common-licenses/Apache-2.0 on a Debian system.'
}

# changelog is one entry: what changed is in the history of the sources.
changelog() {
    printf 'ota (%s) stable; urgency=medium\n\n' "$VERSION"
    printf '  * What changed: https://github.com/tope-ota/ota/commits\n\n'
    printf ' -- %s  %s\n' "$MAINTAINER" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
}

make -s -C "$here" man BIN="$bin" VERSION="$VERSION"
mkdir -p "$out"
for arch in $arches; do
    case $arch in
    armhf) programs=armv7 ;;
    *) programs=$arch ;;
    esac
    make -s -C "$here" "build-$programs" BIN="$bin" VERSION="$VERSION"

    stage=$work/$arch
    set --
    for s in $services; do set -- "$@" --service "$s"; done
    "$here/scripts/install.sh" --destdir "$stage" --bin "$bin/$programs" --no-enable --store "$store" "$@" >/dev/null
    # ota-apply makes the store, and a package that is removed leaves it.
    rmdir -p --ignore-fail-on-non-empty "$stage$store"
    doc=$stage/usr/share/doc/ota
    mkdir -p "$doc/examples"
    mv "$stage/etc/ota/ota.toml" "$doc/examples/"
    "$here/scripts/notice.sh" | common >"$doc/copyright"
    changelog | gzip -9n >"$doc/changelog.gz"
    install -D -m 0644 "$here/scripts/deb/lintian-overrides" "$stage/usr/share/lintian/overrides/ota"
    find "$stage/usr/share/man" -type f -exec gzip -9n {} +

    mkdir -p "$work/scripts"
    for s in postinst prerm postrm; do
        sed -e "s#@ENABLED@#$("$here/scripts/install.sh" --list enabled)#" \
            -e "s#@STARTED@#$("$here/scripts/install.sh" --list started)#" \
            -e "s#@STORE@#$store#" "$here/scripts/deb/$s" >"$work/scripts/$s"
    done
    find "$stage" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    deb=$out/ota_${VERSION}_$arch.deb
    ARCH=$arch STAGE=$stage SCRIPTS=$work/scripts GOOS='' GOARCH='' GOARM='' go -C "$here/scripts/deb" run . "$deb.new"
    mv -f "$deb.new" "$deb"
    echo "$deb ($(stat -c %s "$deb") bytes)"
done
