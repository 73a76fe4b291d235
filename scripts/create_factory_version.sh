#!/bin/sh
# Makes the factory version of a device, its last fallback: signed, every byte checked,
# read-only (0555, 0444). Running it again changes nothing.
#
# usage: create_factory_version.sh [--current] [options]        the current version
#        create_factory_version.sh --bundle FILE [options]      a bundle that the device trusts
#        create_factory_version.sh --dir DIR --version V --key NAME.key [options]
#                                                               a directory, packed and signed here
#   --version V        the version's name. With --current: sign a copy of the current version under this name, for
#                      one that was adopted from another updater, which is not signed
#   --key FILE         the secret key that signs (ota-bundle keygen); the device must trust its NAME.pub
#   --password-file F  the first line of F is the key's password
#   --model M          what the version is for (default: model in the configuration)
#   --release N        counts up with each release; devices refuse a lower one
#                      (default: the lowest that this device takes)
#   --replace          another version is factory: this one takes its place
#   --root DIR         the version store, instead of the configured one
#   --config FILE      the configuration, instead of /etc/ota/ota.toml
#   --programs DIR     where the programs are (default: where the PATH says)
#   --dry-run          only say what would be done
#
# A bundle or a directory is not confirmed on this device: the caller answers for
# it. On a device without any version it becomes the current one too, on trial. A key
# that signs for other devices should not be on this one: make the bundle elsewhere
# (make_release.sh) and use --bundle.
#
# Exit codes: those of ota-apply and ota-guardian. 0 done, or already so; 1 failed;
# 2 usage; 3 busy; 4 refused; 5 damaged; 7 no space.
set -eu

from='' source='' version='' key='' password='' model='' release='' replace=''
root='' config='' programs='' dry='' work=''

usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
# die CODE ERROR [ADVICE]
die() { code=$1; echo "error: $2" >&2; [ $# -lt 3 ] || echo "try: $3" >&2; exit "$code"; }
misused() { die 2 "$1" "$0 --help"; }
source_is() { [ -z "$from" ] || misused "--current, --bundle and --dir exclude each other"; from=$1 source=${2-}; }

while [ $# -gt 0 ]; do
    case $1 in
    --bundle | --dir | --version | --key | --password-file | --model | --release | --root | --config | --programs)
        [ $# -ge 2 ] || misused "$1 needs a value"
        ;;
    esac
    case $1 in
    --current) source_is current ;;
    --bundle) source_is bundle "$2"; shift ;;
    --dir) source_is dir "$2"; shift ;;
    --version) version=${2#v}; shift ;;
    --key) key=$2; shift ;;
    --password-file) password=$2; shift ;;
    --model) model=$2; shift ;;
    --release) release=$2; shift ;;
    --replace) replace=1 ;;
    --root) root=$2; shift ;;
    --config) config=$2; shift ;;
    --programs) programs=$2; shift ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    *) misused "unknown option $1" ;;
    esac
    shift
done
: "${from:=current}"
case $from in
dir) if [ -z "$version" ] || [ -z "$key" ]; then misused "--dir needs --version and --key"; fi ;;
bundle) [ -z "$version$key$model$release" ] || misused "a bundle has its version, model, release and signature already" ;;
current) [ -z "$version" ] || [ -n "$key" ] || misused "--version with the current version needs --key: a copy of it is signed" ;;
esac

for p in ota-guardian ota-apply ota-bundle; do
    command -v "${programs:+$programs/}$p" >/dev/null 2>&1 ||
        die 1 "cannot make a factory version: ${programs:+$programs/}$p is not there" "scripts/install.sh installs it; --programs DIR names another directory"
done
guardian=${programs:+$programs/}ota-guardian apply=${programs:+$programs/}ota-apply bundle=${programs:+$programs/}ota-bundle
[ -z "$config" ] || export OTA_CONFIG="$config"
: "${root:=$("$guardian" config root)}"

# status NAME: current, previous or factory; empty: none.
status() { "$guardian" status --root "$root" | awk -v name="$1" '$1 == name && $2 != "none" { print $2 }'; }
current=$(status current)
factory=$(status factory)

# may_be NAME: refuse to put another version in the place of the last fallback.
may_be() {
    if [ -n "$factory" ] && [ "$factory" != "$1" ] && [ -z "$replace" ]; then
        die 4 "cannot make version $1 the factory version: version $factory is" "--replace, if that one may go; it stays in the store as long as there is room"
    fi
}

if [ "$from" = current ] && [ -z "$key" ]; then
    [ -n "$current" ] || die 1 "cannot make the factory version: no version is installed" "$0 --bundle FILE"
    may_be "$current"
    if [ -n "$dry" ]; then
        "$guardian" verify --root "$root" current
        echo "would make version $current, which runs, the factory version"
        exit
    fi
    "$guardian" factory create --root "$root" || exit
    exec "$guardian" factory verify --root "$root"
fi

# From here on there is a bundle, or one is made.
clean() { [ -z "$work" ] || rm -rf "$work"; }
trap clean EXIT
trap 'exit 1' HUP INT TERM

file=$source
if [ "$from" != bundle ]; then
    if [ "$from" = current ]; then
        [ -n "$current" ] || die 1 "cannot sign the current version: no version is installed" "$0 --dir DIR"
        source=$(readlink -f "$root/current") # its directory has another name after a repair
        : "${version:=$current-factory}"
    fi
    [ -d "$source" ] || die 1 "cannot pack $source: it is not a directory" "name the directory that a version consists of"
    [ -r "$key" ] || die 1 "cannot sign: $key cannot be read" "name the NAME.key that ota-bundle keygen wrote"
    : "${model:=$("$guardian" config model)}"
    [ -n "$model" ] || die 2 "cannot pack $source: no model is configured" "--model M, and set model in the configuration"
    may_be "$version"
    if [ -n "$dry" ]; then
        echo "would pack and sign $source as version $version for $model"
    else
        # Beside the versions: a directory of the system's /tmp is small, and not ours.
        rm -rf "$root"/.factory-bundle.* || : # what cannot be deleted does no harm
        work=$(mktemp -d "$root/.factory-bundle.XXXXXX")
        file=$work/$version.ota
        set -- create --dir "$source" --version "$version" --model "$model" --key "$key" -o "$file"
        [ "$from" != current ] || set -- "$@" --exclude .ota # the manifest of the current version
        : "${release:=$("$guardian" status --json --root "$root" | sed -n 's/.*"release_floor": *\([0-9]*\).*/\1/p')}"
        [ -z "$release" ] || set -- "$@" --release "$release"
        [ -z "$password" ] || set -- "$@" --password-file "$password"
        "$bundle" "$@"
    fi
else
    [ -f "$file" ] || die 1 "cannot read the bundle $file: it is not a file" "download it first"
    version=$("$bundle" inspect "$file" | awk '$1 == "version" { print $2 }')
    [ -n "$version" ] || die 5 "cannot read the bundle $file: it is not one" "ota-bundle create makes bundles"
    may_be "$version"
    # The signature, and every byte.
    if [ -n "$dry" ]; then "$apply" verify --root "$root" "$file"; fi
fi
if [ -n "$dry" ]; then
    [ -n "$current" ] || echo "would install version $version, which becomes current"
    echo "would make version $version the factory version"
    exit
fi
if [ -z "$current" ]; then
    "$apply" install --root "$root" "$file"
elif [ "$factory" != "$version" ] || [ "$from" != current ]; then
    "$apply" install --no-activate --root "$root" "$file"
fi
"$guardian" factory create --untried --root "$root" "$version"
"$guardian" factory verify --root "$root"
