#!/bin/sh
# Tries the atomic switch on the disk of the version store: in a scratch directory,
# which is removed again, the link .active is replaced by one rename, repeatedly,
# as the programs do it, while readers resolve current and read two files behind it.
# It prints how long a switch takes with the start of ln and mv, a write that is
# synced, and whether a reader ever saw nothing or a mixture of two versions.
#
# usage: test_symlink_switch.sh [options]
#   --dir DIR        try it below DIR (default: the version store)
#   --rounds N       how often (default 300)
#   --readers N      how many readers (default 2)
#   --json           one JSON object
#   --config FILE    the configuration, instead of /etc/ota/ota.toml
#   --programs DIR   where the programs are (default: where the PATH says)
#   --dry-run        only say what would be done
#
# Exit codes: 0 no reader saw anything wrong; 1 failed; 2 usage; 5 a reader saw nothing
# or a mixture: no version store may be on this file system.
set -eu

dir='' config='' programs='' dry='' json='' rounds=300 readers=2

usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
# die CODE ERROR [ADVICE]
die() { code=$1; echo "error: $2" >&2; [ $# -lt 3 ] || echo "try: $3" >&2; exit "$code"; }
misused() { die 2 "$1" "$0 --help"; }

while [ $# -gt 0 ]; do
    case $1 in
    --dir | --rounds | --readers | --config | --programs) [ $# -gt 1 ] || misused "$1 needs a value" ;;
    esac
    case $1 in
    --dir) dir=$2; shift ;;
    --config) config=$2; shift ;;
    --programs) programs=$2; shift ;;
    --rounds) rounds=$2; shift ;;
    --readers) readers=$2; shift ;;
    --json) json=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    *) misused "unknown option $1" ;;
    esac
    shift
done
# number OPTION VALUE MAX
number() {
    case $2 in '' | *[!0-9]* | ???????*) misused "$1 $2: want a number from 1 to $3" ;; esac
    { [ "$2" -ge 1 ] && [ "$2" -le "$3" ]; } || misused "$1 $2: want a number from 1 to $3"
}
number --rounds "$rounds" 100000
number --readers "$readers" 64

if [ -z "$dir" ]; then
    guardian=${programs:+$programs/}ota-guardian
    command -v "$guardian" >/dev/null 2>&1 ||
        die 1 "cannot ask for the version store: $guardian is not there" "scripts/install.sh installs it; --programs DIR names another directory"
    [ -z "$config" ] || export OTA_CONFIG="$config"
    dir=$("$guardian" config root)
fi
[ -d "$dir" ] || die 1 "cannot try the switch in $dir: it is not a directory" "setup_symlinks.sh makes the store; --dir DIR names another directory on its disk"
if [ -n "$dry" ]; then
    echo "would make a scratch store below $dir, switch it, and remove it"
    exit
fi
# What a run that was killed a day ago left.
find "$dir" -maxdepth 1 -name '.ota-switch-test-*' -mtime +0 -exec rm -rf {} +

scratch=$(cd "$dir" && pwd)/.ota-switch-test-$$
mkdir "$scratch"
trap 'touch "$scratch/stop" 2>/dev/null; wait; rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
i=1
for v in 1.0.0 1.1.0; do
    mkdir -p "$scratch/v$v" "$scratch/.generations/$i"
    echo "$v" >"$scratch/v$v/first"
    echo "$v" >"$scratch/v$v/second"
    ln -s "../../v$v" "$scratch/.generations/$i/current"
    i=$((i + 1))
done
ln -s .generations/1 "$scratch/.active"
ln -s .active/current "$scratch/current"

# look N is reader N: cd resolves the links once, as the start of a service does.
look() {
    looks=0 wrong=0 old=0 new=0 a='' b=''
    while [ ! -e "$scratch/stop" ]; do
        looks=$((looks + 1))
        if cd -P "$scratch/current" 2>/dev/null && read -r a <first && read -r b <second && [ "$a" = "$b" ]; then
            case $a in 1.0.0) old=1 ;; *) new=1 ;; esac
        else
            wrong=$((wrong + 1))
        fi
    done
    echo "$looks $wrong $old $new" >"$scratch/seen.$1"
}
uptime() { read -r up _ </proc/uptime && echo "$up"; }

n=1
while [ "$n" -le "$readers" ]; do
    look "$n" &
    n=$((n + 1))
done
began=$(uptime) n=0
while [ "$n" -lt "$rounds" ]; do
    n=$((n + 1))
    ln -s ".generations/$((n % 2 + 1))" "$scratch/.active.new"
    mv -T "$scratch/.active.new" "$scratch/.active"
done
switched=$(uptime)
touch "$scratch/stop"
wait
syncing=$(uptime) n=0
while [ "$n" -lt "$rounds" ]; do
    n=$((n + 1))
    dd if=/dev/zero of="$scratch/file" bs=4096 count=1 conv=fsync 2>/dev/null
done
cat "$scratch"/seen.* | awk -v rounds="$rounds" -v readers="$readers" -v json="$json" \
    -v began="$began" -v switched="$switched" -v syncing="$syncing" -v synced="$(uptime)" '
    { looks += $1; wrong += $2; old += $3; new += $4 }
    END {
        versions = (old > 0) + (new > 0)
        change = (switched - began) * 1000 / rounds
        durable = (synced - syncing) * 1000 / rounds
        if (json) {
            printf "{\"schema\": 1, \"rounds\": %d, \"figures\": [{\"name\": \"switch\", \"mean_ns\": %d}, {\"name\": \"fsync of 4 KiB\", \"mean_ns\": %d}],\n", rounds, change * 1e6, durable * 1e6
            printf " \"seen\": {\"readers\": %d, \"switches\": %d, \"reads\": %d, \"versions\": %d, \"wrong\": %d}}\n", readers, rounds, looks, versions, wrong
        } else {
            printf "one switch, with the start of two programs  %8.2f ms\n", change
            printf "fsync of 4 KiB, with the start of one       %8.2f ms\n", durable
            printf "%d switches under %d readers: %d looks, %d versions seen, %d wrong\n", rounds, readers, looks, versions, wrong
        }
        exit wrong > 0 ? 5 : 0
    }' || {
    [ $? -ne 5 ] || die 5 "a reader saw nothing or a mixture of two versions" "do not put a version store on this file system"
    exit 1
}
