#!/usr/bin/env bash
# Makes a release for any static web server: packs and signs a directory into
# OUT/VERSION.ota, makes patches to it from the last three releases in OUT, where they
# save something, in OUT/VERSION.ota.from, and writes OUT/SHA256SUMS and OUT/index.json,
# which say what is there. The same input gives the same bytes. What is published is never changed.
#
# usage: make_release.sh --dir TREE --version V --model M --key NAME.key --out OUT [options]
#        make_release.sh --dir TREE --version V --model M --sign-with COMMAND --pub NAME.pub --out OUT [options]
#   --model M          the device it is for; may be repeated
#   --release N        counts up with each release, devices refuse a lower one
#                      (default: one more than the highest in OUT)
#   --not-after DATE   devices refuse it later: 2027-12-31
#   --service UNIT     a systemd service that starts from it; may be repeated
#   --exclude GLOB, --allow GLOB, --allow-link GLOB
#                      as for ota-bundle create; may be repeated
#   --sbom FILE        what TREE is made of, CycloneDX or SPDX in JSON
#   --sign-with C      C signs, see ota-bundle help sign; with another program or time the bytes may differ
#   --password-file F  the first line of F is the key's password
#   --pub NAME.pub     check the bundle with this key (default: the one beside the secret key, if it is there)
#   --factory V        make a patch from version V in OUT, too: the factory version of the devices
#   --channel FILE     then list it in the channel FILE, below OUT, at --percent N (default 0)
#   --channel-key K    which the channel key K signs
#   --no-patches       make none; with --sign-with there are none, they need --key
#   --level L          fast, default, best or max (default best)
#   --programs DIR     where ota-bundle is (default: where the PATH says, then bin/ of this checkout)
#   --dry-run          only say what would be done
#
# The order is safe for a server that serves OUT meanwhile: the patches, the bundle, the checksums,
# the index, the channel; each gets its name when it is intact. A copy of OUT goes in the same order.
#
# Exit codes: 0 done, or published already with the same bytes; 1 failed; 2 usage;
# 4 refused: published with other content, a release that is not higher, a directory
# that cannot be packed; 7 no space.
set -eu
umask 022 # a web server reads what is published

here=$(cd "$(dirname "$0")/.." && pwd)
dir='' version='' key='' out='' release='' password='' pub='' level='' not_after='' programs='' dry='' with='' factory='' patches=3 channel='' channel_key='' percent=0
models=() more=()

usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
# die CODE ERROR [ADVICE]
die() { echo "error: $2" >&2; [ $# -lt 3 ] || echo "try: $3" >&2; exit "$1"; }
misused() { die 2 "$1" "$0 --help"; }

while [ $# -gt 0 ]; do
    case $1 in
    --dir | --version | --model | --key | --out | --release | --password-file | --pub | --sign-with | --level | --not-after | --service | --exclude | --allow | --allow-link | --sbom | --programs | --factory | --channel | --channel-key | --percent)
        [ $# -ge 2 ] || misused "$1 needs a value"
        ;;
    esac
    case $1 in
    --dir) dir=$2; shift ;;
    --version) version=${2#v}; shift ;;
    --model) models+=(--model "$2"); shift ;;
    --key) key=$2; shift ;;
    --out) out=${2%/}; shift ;;
    --release) release=$2; shift ;;
    --password-file) password=$2; shift ;;
    --pub) pub=$2; shift ;;
    --sign-with) with=$2; shift ;;
    --level) level=$2; shift ;;
    --not-after) not_after=$2; shift ;;
    --service | --exclude | --allow | --allow-link | --sbom) more+=("$1" "$2"); shift ;;
    --programs) programs=$2; shift ;;
    --factory) factory=${2#v}; shift ;;
    --channel) channel=$2; shift ;;
    --channel-key) channel_key=$2; shift ;;
    --percent) percent=$2; shift ;;
    --no-patches) patches=0 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    *) misused "unknown option $1" ;;
    esac
    shift
done
if [ -n "$with" ]; then key=$with patches=0; [ -n "$pub" ] || misused "--sign-with needs --pub"; fi
for o in dir version key out; do
    [ -n "${!o}" ] || misused "--$o is missing"
done
[ ${#models[@]} -gt 0 ] || misused "--model is missing"
[ -z "$channel$channel_key" ] || { [ -n "$channel" ] && [ -n "$channel_key" ]; } || misused "--channel and --channel-key need each other"
case $version in *[!A-Za-z0-9._+-]*) misused "--version $version: letters, digits and ._+- only" ;; esac
case $release in *[!0-9]*) misused "--release $release is not a number" ;; esac

bundle=${programs:+$programs/}ota-bundle
if [ -z "$programs" ] && ! command -v ota-bundle >/dev/null; then
    case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=armv7 ;; esac
    bundle=$here/bin/$arch/ota-bundle
fi
command -v "$bundle" >/dev/null || die 1 "cannot make a release: $bundle is not there" "make build, or --programs DIR"
[ -d "$dir" ] || die 1 "cannot pack $dir: it is not a directory" "name the directory that the version consists of"
[ -z "$factory" ] || [ -r "$out/$factory.ota" ] || die 1 "cannot make a patch: $out/$factory.ota is not there" "publish version $factory first"
[ -n "$with" ] || [ -r "$key" ] || die 1 "cannot sign: $key cannot be read" "ota-bundle keygen NAME makes a key"
if [ -z "$pub" ] && [ -e "${key%.key}.pub" ]; then pub=${key%.key}.pub; fi
[ -z "$channel" ] || [ -r "$channel" ] || die 1 "cannot list the bundle: $channel cannot be read" "ota-bundle channel init makes it"
[ -z "$channel" ] || [ -r "$channel_key" ] || die 1 "cannot sign the channel: $channel_key cannot be read"
[ -z "$pub" ] || [ -r "$pub" ] || die 1 "cannot check the bundle: $pub cannot be read" "name the NAME.pub of the key"

# said FILE KEY: what a bundle says of itself.
said() { "$bundle" inspect "$1" | awk -v key="$2" '$1 == key { print $2; exit }'; }

# A release number says which of two is newer, so no two may have the same one.
final=$out/$version.ota highest=0
for f in "$out"/*.ota; do
    if [ ! -e "$f" ] || [ "$f" = "$final" ]; then continue; fi
    n=$(said "$f" release)
    [ -n "$n" ] || die 1 "cannot read what is published: $f is not a bundle" "remove it from $out"
    [ "$n" -le "$highest" ] || highest=$n
done
if [ -e "$final" ]; then
    : "${release:=$(said "$final" release)}"
elif [ -n "$release" ] && [ "$release" -le "$highest" ]; then
    die 4 "cannot publish version $version as release $release: release $highest is published, and devices that have it would refuse this one" "--release $((highest + 1))"
fi
: "${release:=$((highest + 1))}"

if [ -n "$dry" ]; then
    echo "would pack and sign $dir as version $version, release $release"
    if [ -e "$final" ]; then echo "would compare it with $final, which is published"; else echo "would write $final, $out/SHA256SUMS and $out/index.json"; fi
    exit
fi

mkdir -p "$out"
# A run holds the lock of its directory: one without a holder was left by a run that was
# killed. The lock of OUT is for the moment in which a new one has no holder yet.
exec 8<"$out"
if command -v flock >/dev/null && flock 8; then
    for left in "$out"/.release.*/; do
        if [ -d "$left" ] && exec 9<"$left" && flock -n 9; then rm -rf "$left"; fi
    done
fi
work=$(mktemp -d "$out/.release.XXXXXX")
exec 9<"$work"
if command -v flock >/dev/null; then flock 9 || true; fi
exec 8<&-
trap 'rm -rf "$work"' EXIT
args=(create --dir "$dir" --version "$version" "${models[@]}" --release "$release" -o "$work/$version.ota" "${more[@]}")
if [ -n "$with" ]; then args+=(--unsigned); else args+=(--key "$key"); fi
[ -z "$password" ] || args+=(--password-file "$password")
[ -z "$not_after" ] || args+=(--not-after "$not_after")
[ -z "$level" ] || args+=(--level "$level")
"$bundle" "${args[@]}" >/dev/null
[ -z "$with" ] || "$bundle" sign --with "$with" --pub "$pub" "$work/$version.ota" >/dev/null
[ -z "$pub" ] || "$bundle" verify --key "$pub" "$work/$version.ota" >/dev/null

if [ -e "$final" ] && ! cmp -s "$work/$version.ota" "$final"; then
    die 4 "cannot publish version $version: it is published with other content, key or flags" "give the new content a version of its own: devices that have this one would refuse it"
fi
# from: what a device may run that installs this, the newest releases first.
from=()
while read -r _ f && [ "$patches" -gt 0 ]; do
    if [ ${#from[@]} -lt "$patches" ] || [ "$f" = "$out/$factory.ota" ]; then from+=("$f"); fi
done < <(for f in "$out"/*.ota; do
    n=0
    [ ! -e "$f" ] || [ "$f" = "$final" ] || n=$(said "$f" release)
    [ "$n" -eq 0 ] || [ "$n" -ge "$release" ] || echo "$n $f"
done | sort -rn)
for f in "${from[@]}"; do
    args=(patch --json --key "$key" "$f" "$work/$version.ota")
    [ -z "$password" ] || args+=(--password-file "$password")
    "$bundle" "${args[@]}" >"$work/patch.json" 2>/dev/null || die 1 "cannot make the patch from $f" "ota-bundle patch $f $final says why, or --no-patches"
    number() { sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$work/patch.json"; }
    made=$(sed -n 's/^ *"file": "\(.*\)",*$/\1/p' "$work/patch.json")
    if [ "$(number patch_bytes)" -ge "$(number frame_bytes)" ]; then
        rm "$made"
    elif ! cmp -s "$made" "$final.from/${made##*/}"; then
        mkdir -p "$final.from"
        mv "$made" "$final.from/"
        echo "$final.from/${made##*/}"
    fi
done
chmod 0644 "$work/$version.ota"
if [ -e "$final" ]; then
    echo "$final is published already, with the same bytes"
else
    mv "$work/$version.ota" "$final"
    echo "$final"
fi

# place NAME: give it its name when it is intact, unless it says the same already.
place() {
    chmod 0644 "$work/$1"
    if cmp -s "$work/$1" "$out/$1"; then return; fi
    mv -f "$work/$1" "$out/$1"
    echo "$out/$1"
}
(LC_ALL=C && cd "$out" && sha256sum -- *.ota) >"$work/SHA256SUMS"
place SHA256SUMS
"$bundle" index "$out" >"$work/index.json"
place index.json
sync -f "$out"
# Last: what a device reads in it is there.
if [ -n "$channel" ] && ! "$bundle" channel inspect --json "$channel" | grep -q "\"$(said "$final" digest)\""; then
    "$bundle" channel add --key "$channel_key" --percent "$percent" "$channel" "$final"
fi
