#!/usr/bin/env bash
# Makes packages: everything that scripts/install.sh installs, with scripts that
# enable the units. The same sources make the same bytes.
#
# usage: scripts/package.sh [--format FORMAT] [ARCH...]
#   FORMAT   deb (default), rpm, apk, ipk, or image: a container image of ota-bundle alone;
#            several with commas between them
#   ARCH     amd64, arm64, armhf; default all
#        scripts/package.sh --sbom PROGRAM     what PROGRAM is made of, CycloneDX
#
# In the environment:
#   OUT          the directory for the packages (default bin)
#   BIN          the directory of the programs, which are built there (default bin)
#   VERSION      default: scripts/version.sh
#   STORE        the version store, for devices that have it elsewhere (default /opt/tope/versions)
#   SERVICES     the services that start from it (default device-api.service)
#   MAINTAINER   "NAME <ADDRESS>", whom users of the package write to
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
die() { echo "error: $*" >&2; exit 1; }

arches='' formats=deb only=''
while [ $# -gt 0 ]; do
    arg=$1
    shift
    case $arg in
    --format)
        formats=${1-}
        case ,$formats, in
        *,,*) bad=1 ;;
        *) bad='' ;;
        esac
        for f in ${formats//,/ }; do case $f in deb | rpm | apk | ipk | image) ;; *) bad=1 ;; esac done
        [ -z "$bad" ] || { echo "error: unknown format $formats: deb, rpm, apk, ipk or image" >&2; exit 2; }
        shift
        ;;
    --sbom) only=$1; shift ;;
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

# As in a block of YAML.
summary='updates the services of a device, and never leaves it dead'
description="$summary
  ota-apply downloads a signed bundle, makes a version of it beside the one
  that runs, and makes that current with one atomic rename. ota-guardian runs
  at every boot, watches the health of the services and rolls back a version
  that fails: to the previous one, then to factory. ota-bundle makes the keys
  and the bundles."

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

# sbom PROGRAM: what it is made of (CycloneDX), from what Go writes into it.
sbom() {
    GOOS='' GOARCH='' GOARM='' GOFLAGS='-trimpath -buildvcs=false' go -C "$here/scripts/package/sbom" tool cyclonedx-gomod \
        bin -json -noserial -notimestamp -version "$VERSION" "$1" 2>"$work/log" || { cat "$work/log" >&2; die "no bill of materials of $1"; }
}

# scripted FORMAT SCRIPT: the script, with the arguments that dpkg would give it.
# shellcheck disable=SC2016 # of another shell
scripted() {
    local file=$2 args=''
    case $1-$2 in
    rpm-postinst) args='if [ "$1" = 1 ]; then set -- configure ""; else set -- configure 0; fi' ;; # how many versions there are then
    rpm-prerm | rpm-postrm) args='if [ "$1" = 0 ]; then set -- remove; else set -- upgrade; fi' ;;
    apk-postinst) args='set -- configure ""' ;;
    apk-postupgrade) args='set -- configure 0' ;;
    apk-prerm | apk-postrm) args='set -- remove' ;;
    esac
    [ "$file" != postupgrade ] || file=postinst
    sed -e "s#@ENABLED@#$("$here/scripts/install.sh" --list enabled)#" -e "s#@STARTED@#$("$here/scripts/install.sh" --list started)#" \
        -e "s#@STORE@#$store#" "$here/scripts/package/$file" | awk -v args="$args" '{ print } NR == 1 && args != "" { print args }'
}

if [ -n "$only" ]; then sbom "$(realpath "$only")"; exit; fi

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
    for program in ota-apply ota-guardian ota-bundle; do
        sbom "$bin/$programs/$program" | gzip -9n >"$doc/$program.cdx.json.gz"
    done
    install -D -m 0644 "$here/scripts/package/lintian-overrides" "$stage/usr/share/lintian/overrides/ota"
    find "$stage/usr/share/man" -type f -exec gzip -9n {} +

    find "$stage" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    for format in ${formats//,/ }; do
        mkdir -p "$work/$format"
        for s in postinst postupgrade prerm postrm; do
            scripted "$format" "$s" >"$work/$format/$s"
            touch -d "@$SOURCE_DATE_EPOCH" "$work/$format/$s"
        done
        case $arch in armhf) goarch=arm7 ;; *) goarch=$arch ;; esac
        text=$description
        [ "$format" != apk ] || text=$summary # which has one line
        file=$(DESCRIPTION=$text ARCH=$goarch STAGE=$stage SCRIPTS=$work/$format GOOS='' GOARCH='' GOARM='' go -C "$here/scripts/package" run . "$format" "$out")
        echo "$file ($(stat -c %s "$file") bytes)"
    done
done
