#!/usr/bin/env bash
# Makes a release of this project: packages, programs and what they are made of, built
# twice in two directories and compared byte by byte.
#
# usage: scripts/release.sh [OUT]     (default bin/release; it must not exist)
#
# In the environment:
#   KEY            the private key (ota-bundle keygen) that signs SHA256SUMS
#   PASSWORD_FILE  its first line is the key's password
#   ARCHES         default "amd64 arm64 armhf"
#   FORMATS        default deb,rpm,apk,ipk,image
#
# In OUT: the packages; programs_VERSION_ARCH.tar.gz; NAME_VERSION_ARCH.cdx.json, the bill of
# materials of each program; provenance.json, which says from what and how it was made;
# SHA256SUMS of all of these, and with KEY its signature, SHA256SUMS.minisig.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
die() { echo "error: $1" >&2; exit 1; }
case ${1-} in
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
-*) echo "error: unknown argument $1" >&2; exit 2 ;;
esac
out=$(realpath -m "${1:-$here/bin/release}")
[ ! -e "$out" ] || die "$out exists: a release is made once"
[ -z "${KEY-}" ] || [ -r "$KEY" ] || die "$KEY cannot be read"
cd "$here"
version=$(scripts/version.sh) commit=$(git rev-parse HEAD)
case $version in *.dirty) die "there are changes that are not committed: a release is one of a commit" ;; esac
SOURCE_DATE_EPOCH=$(scripts/version.sh --time)
export SOURCE_DATE_EPOCH VERSION=$version
arches=${ARCHES:-amd64 arm64 armhf} formats=${FORMATS:-deb,rpm,apk,ipk,image}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for n in first second; do
    git clone -q --no-hardlinks "$here" "$work/$n/ota"
    git -C "$work/$n/ota" checkout -q "$commit"
    # shellcheck disable=SC2086 # a list
    (cd "$work/$n/ota" && OUT=$work/$n/out BIN=$work/$n/bin scripts/package.sh --format "$formats" $arches >"$work/log" 2>&1) || { cat "$work/log" >&2; die "the build failed"; }
    echo "the $n build is made" >&2
    for arch in $arches; do
        programs=$arch
        [ "$arch" != armhf ] || programs=armv7
        tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$work/$n/bin/$programs" -c . |
            gzip -9n >"$work/$n/out/programs_${version}_$arch.tar.gz"
        for program in ota-apply ota-guardian ota-bundle; do
            "$work/$n/ota/scripts/package.sh" --sbom "$work/$n/bin/$programs/$program" >"$work/$n/out/${program}_${version}_$arch.cdx.json"
        done
    done
done
diff -r "$work/first/out" "$work/second/out" >&2 || die "the two builds differ: nothing is released"

new=$work/first/out
# It says what this script knows, no more: who ran it, and where, is not in it.
{
    printf '{\n  "_type": "https://in-toto.io/Statement/v1",\n  "subject": [\n'
    (LC_ALL=C && cd "$new" && sha256sum -- *) | awk '{ printf "%s    {\"name\": \"%s\", \"digest\": {\"sha256\": \"%s\"}}", (NR > 1 ? ",\n" : ""), $2, $1 } END { print "" }'
    printf '  ],\n  "predicateType": "https://slsa.dev/provenance/v1",\n  "predicate": {\n    "buildDefinition": {\n'
    printf '      "buildType": "https://github.com/tope-ota/ota/blob/main/scripts/release.sh",\n'
    printf '      "externalParameters": {"version": "%s", "arches": "%s", "formats": "%s"},\n' "$version" "$arches" "$formats"
    printf '      "resolvedDependencies": [\n        {"uri": "git+https://github.com/tope-ota/ota", "digest": {"gitCommit": "%s"}},\n' "$commit"
    printf '        {"uri": "https://go.dev/dl/%s", "name": "go"}\n      ]\n    },\n' "$(go env GOVERSION)"
    printf '    "runDetails": {"builder": {"id": "https://github.com/tope-ota/ota/blob/%s/scripts/release.sh"}}\n  }\n}\n' "$commit"
} >"$work/provenance.json" # beside what it lists, or it would list itself
mv "$work/provenance.json" "$new"
(LC_ALL=C && cd "$new" && sha256sum -- *) >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" "$new"
if [ -n "${KEY-}" ]; then
    bundle=$work/first/bin/$(go env GOHOSTARCH)/ota-bundle
    [ -x "$bundle" ] || die "signing needs the programs of this machine: add $(go env GOHOSTARCH) to ARCHES"
    key=$(realpath "$KEY") password=${PASSWORD_FILE:+$(realpath "$PASSWORD_FILE")}
    (cd "$new" && "$bundle" sign --file --key "$key" ${password:+--password-file "$password"} SHA256SUMS >&2)
fi
mkdir -p "$(dirname "$out")"
mv "$new" "$out.new"
mv "$out.new" "$out"
echo "$out: version $version, built twice with the same bytes${KEY:+, signed with $KEY}"
