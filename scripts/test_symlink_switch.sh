#!/bin/sh
# Tries the atomic switch on the disk of the version store, on a scratch store of its
# own that is removed again: what runs is not touched. It prints how long the switch
# takes (who looks sees the new version) and the commit (a power cut does not undo
# it), each with the bare system call beside it, median and 99th percentile; and
# whether readers that resolve the links all the time ever see nothing or a mixture.
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
# Exit codes: 0 nobody saw anything wrong; 1 failed; 2 usage; 5 somebody saw nothing
# or a mixture: no store may be there; 7 no space.
set -eu

dir='' config='' programs='' dry=''

usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
# die CODE ERROR [ADVICE]
die() { code=$1; echo "error: $2" >&2; [ $# -lt 3 ] || echo "try: $3" >&2; exit "$code"; }
misused() { die 2 "$1" "$0 --help"; }

set -- "$@" --end
while [ "$1" != --end ]; do
    case $1 in
    --dir | --rounds | --readers | --config | --programs)
        [ "$2" != --end ] || misused "$1 needs a value"
        ;;
    esac
    case $1 in
    --dir) dir=$2; shift ;;
    --config) config=$2; shift ;;
    --programs) programs=$2; shift ;;
    --rounds | --readers) set -- "$@" "$1" "$2"; shift ;;
    --json) set -- "$@" "$1" ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    *) misused "unknown option $1" ;;
    esac
    shift
done
shift

for p in ota-guardian ota-bundle; do
    command -v "${programs:+$programs/}$p" >/dev/null 2>&1 ||
        die 1 "cannot try the switch: ${programs:+$programs/}$p is not there" "scripts/install.sh installs it; --programs DIR names another folder"
done
[ -z "$config" ] || export OTA_CONFIG="$config"
[ -n "$dir" ] || dir=$("${programs:+$programs/}ota-guardian" config root)
[ -d "$dir" ] || die 1 "cannot try the switch in $dir: it is not a folder" "setup_symlinks.sh makes the store; --dir DIR names another folder on its disk"
if [ -n "$dry" ]; then
    echo "would make a scratch store below $dir, switch it, and remove it"
    exit
fi
# What a run that was killed a day ago left.
find "$dir" -maxdepth 1 -name '.ota-switch-test-*' -mtime +0 -exec rm -rf {} +
exec "${programs:+$programs/}ota-bundle" switch-test "$dir" "$@"
