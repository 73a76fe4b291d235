#!/bin/sh
# Makes the version store of a device, or makes one of what another updater left:
# directories v1.0.0, v1.1.0 and plain links current, previous, factory. No version is
# moved, and it gets a manifest and nothing else. Then it makes the links through which
# other programs and units find what the current version has. Running it again changes nothing.
#
# usage: setup_symlinks.sh [options]
#   --bin NAME[=PATH]      /usr/local/bin/NAME leads to STORE/current/PATH (default bin/NAME); may be repeated
#   --service NAME[=PATH]  /opt/tope/services/NAME leads to STORE/current/PATH (default services/NAME); may be repeated
#                          Without --bin and --service: a link of each kind for each of `services` in the
#                          configuration, where the current version has bin/NAME or services/NAME
#   --bin-dir DIR          instead of /usr/local/bin
#   --service-dir DIR      instead of /opt/tope/services
#   --store-only           make or adopt the store, and no links outside it
#   --root DIR             the store, instead of the configured one (/opt/tope/versions)
#   --config FILE          the configuration, instead of /etc/ota/ota.toml
#   --destdir DIR          everything is below DIR: an image of a device
#   --programs DIR         where ota-guardian is (default: where the PATH says)
#   --dry-run              only say what would be done
#
# A link that leads into the store is replaced, in one step. Anything else that is in
# the place of a link is left alone and nothing at all is done.
#
# Exit codes: 0 done, or already so; 1 failed; 2 usage; 3 busy; 4 refused: something
# is in the way, or what another updater left cannot be adopted.
set -eu

bins='' services='' bin_dir=/usr/local/bin service_dir=/opt/tope/services
store_only='' root='' config='' destdir='' programs='' dry=''

usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
# die CODE ERROR [ADVICE]
die() { code=$1; echo "error: $2" >&2; [ $# -lt 3 ] || echo "try: $3" >&2; exit "$code"; }
misused() { die 2 "$1" "$0 --help"; }
absolute() { case $2 in /*) ;; *) misused "$1 must be an absolute path, not $2" ;; esac; }
named() {
    case $2 in
    *' '* | *'
'* | *[\'\"\\]* | /* | */ | '' | =* | *= | *=/* | *..* | -*) misused "$1 takes NAME or NAME=PATH, with PATH from the version's directory, not '$2'" ;;
    esac
    case ${2%%=*} in */*) misused "$1: '${2%%=*}' is not the name of a file" ;; esac
}

while [ $# -gt 0 ]; do
    case $1 in
    --bin | --service | --bin-dir | --service-dir | --root | --config | --destdir | --programs)
        [ $# -ge 2 ] || misused "$1 needs a value"
        ;;
    esac
    case $1 in
    --bin) named --bin "$2"; bins="$bins $2"; shift ;;
    --service) named --service "$2"; services="$services $2"; shift ;;
    --bin-dir) absolute "$1" "$2"; bin_dir=${2%/}; shift ;;
    --service-dir) absolute "$1" "$2"; service_dir=${2%/}; shift ;;
    --root) absolute "$1" "$2"; root=${2%/}; shift ;;
    --config) config=$2; shift ;;
    --destdir) absolute "$1" "$2"; destdir=${2%/}; shift ;;
    --programs) programs=$2; shift ;;
    --store-only) store_only=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    *) misused "unknown option $1" ;;
    esac
    shift
done

guardian=${programs:+$programs/}ota-guardian
command -v "$guardian" >/dev/null 2>&1 ||
    die 1 "cannot set up the store: $guardian is not there" "scripts/install.sh installs it; --programs DIR names another directory"
if [ -z "$destdir" ] && [ -z "$dry" ] && [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    die 1 "cannot set up this device: its files belong to root" "run it as root, or give a --destdir"
fi
if [ -z "$config" ] && [ -n "$destdir" ]; then
    config=$destdir/etc/ota/ota.toml
    # An empty one, and not this machine's.
    [ -e "$config" ] || { config=$(mktemp) && trap 'rm -f "$config"' EXIT; }
fi

# ask COMMAND...: what the guardian says, with the configuration that counts.
ask() {
    if [ -n "$config" ]; then "$guardian" "$@" --config "$config"; else "$guardian" "$@"; fi
}
if [ -z "$root" ]; then root=$(ask config root); fi
store=$destdir$root

# normal PATH: without "." and "..", as text.
normal() {
    (
        set -f
        IFS=/ out=''
        for part in $1; do
            case $part in
            '' | .) ;;
            ..) out=${out%/*} ;;
            *) out=$out/$part ;;
            esac
        done
        echo "$out"
    )
}

# state LINK TARGET: "ok", "missing", "ours" (it leads into the store), or why it is in the way.
state() {
    if [ -L "$destdir$1" ]; then
        is=$(readlink "$destdir$1")
        if [ "$is" = "$2" ]; then echo ok; return; fi
        case $is in
        /*) leads=$(normal "$is") ;;
        *) leads=$(normal "${1%/*}/$is") ;;
        esac
        case $leads in
        "$root"/*) echo ours ;;
        *) echo "it is a link to $is" ;;
        esac
    elif [ -e "$destdir$1" ]; then
        echo "it is not a link"
    else
        echo missing
    fi
}

# Everything in the way is found before anything is changed.
plan='' blocked='' tab=$(printf '\t')
want() { # LINK PATH
    target=$root/current/$2
    s=$(state "$1" "$target")
    case $s in
    ok | missing | ours) plan="$plan$s$tab$1$tab$target
" ;;
    *) echo "error: cannot make $destdir$1: $s, and not into $root" >&2; blocked=1 ;;
    esac
}
plan_links() {
    for b in $bins; do
        case $b in *=*) want "$bin_dir/${b%%=*}" "${b#*=}" ;; *) want "$bin_dir/$b" "bin/$b" ;; esac
    done
    for s in $services; do
        case $s in *=*) want "$service_dir/${s%%=*}" "${s#*=}" ;; *) want "$service_dir/$s" "services/$s" ;; esac
    done
    [ -z "$blocked" ] || die 4 "nothing was changed" "move away what is in the way, or leave that name out"
}
if [ -z "$store_only" ] && [ -z "$bins$services" ]; then
    for unit in $(ask config services); do
        name=${unit%.service}
        [ ! -e "$store/current/bin/$name" ] || bins="$bins $name"
        [ ! -e "$store/current/services/$name" ] || services="$services $name"
    done
fi
[ -n "$store_only" ] || plan_links

if [ -z "$dry" ]; then
    mkdir -p "${store%/*}"
    ask adopt --root "$store"
else
    ask adopt --dry-run --root "$store"
fi

changed=''
# replace LINK TARGET: in one step: the name always leads somewhere.
replace() {
    new=${1%/*}/.${1##*/}.new
    rm -f "$new"
    ln -s "$2" "$new"
    # Without -T a link to a directory would get the new one inside that directory.
    mv -fT "$new" "$1" 2>/dev/null || { ln -sfn "$2" "$1" && rm -f "$new"; }
    changed=1
}
make_links() {
    while IFS=$tab read -r s link target; do
        [ -n "$s" ] || continue
        if [ "$s" = ok ]; then
            echo "$destdir$link leads to $target already"
        elif [ -n "$dry" ]; then
            echo "would make $destdir$link -> $target"
        else
            mkdir -p "$destdir${link%/*}"
            replace "$destdir$link" "$target"
            echo "$destdir$link -> $target"
        fi
        if [ -e "$store/current" ] && [ ! -e "$store${target#"$root"}" ]; then
            echo "note: the current version has no ${target#"$root"/current/}: the link leads nowhere until one brings it" >&2
        fi
    done <<LINKS
$plan
LINKS
}
make_links
if [ -n "$changed" ]; then sync; fi
