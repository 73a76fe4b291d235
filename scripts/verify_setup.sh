#!/bin/sh
# Says whether a device is set up right: programs, configuration, keys, store, record,
# file system, units and their order, watchdog, panic, clock. Each line is ok, warn (it
# works, and less well than it could) or fail (an update, a rollback or the device
# will fail because of it); what is not ok has its hint. Nothing is changed.
#
# usage: verify_setup.sh [options]
#   --json           one JSON object: {"schema":1,"ok":N,"warn":N,"fail":N,"findings":[{"check","state","found","cure"}]}, see docs/schema/doctor.json
#   --sysroot DIR    look at the image of a device below DIR, instead of at this device
#   --root DIR       the version store, instead of the configured one
#   --config FILE    the configuration, instead of /etc/ota/ota.toml
#   --programs DIR   where the programs are (default: where the PATH says)
#   --dry-run        the same: this never changes anything
#
# Exit codes: 0 nothing fails (there may be warnings); 1 something fails; 2 usage.
set -eu

programs='' json=''

usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
misused() { echo "error: $1" >&2; echo "try: $0 --help" >&2; exit 2; }

set -- "$@" --end
while [ "$1" != --end ]; do
    case $1 in
    --sysroot | --root | --config | --programs)
        [ "$2" != --end ] || misused "$1 needs a value"
        ;;
    esac
    case $1 in
    --programs) programs=$2; shift ;;
    --json) json=1; set -- "$@" "$1" ;;
    --sysroot | --root | --config) set -- "$@" "$1" "$2"; shift ;;
    --dry-run) ;;
    -h | --help) usage; exit ;;
    *) misused "unknown option $1" ;;
    esac
    shift
done
shift

# The rest is checked by a program. That it runs at all, only a shell can say.
for p in ota-guardian ota-apply; do
    code=0
    "${programs:+$programs/}$p" help >/dev/null 2>&1 || code=$?
    case $code in
    0) continue ;;
    126) found="$p cannot be run: it is not executable, or made for another machine" ;;
    127) found="$p is not there" ;;
    *) found="$p does not run: it ends with exit code $code" ;;
    esac
    cure="scripts/install.sh --bin DIR, with the programs for $(uname -m); or --programs DIR names where they are"
    if [ -n "$json" ]; then
        printf '{"schema":1,"ok":0,"warn":0,"fail":1,"findings":[{"check":"programs","state":"fail","found":"%s","cure":"%s"}]}\n' "$found" "$cure"
    else
        printf 'fail  programs  %s\n                -> %s\n0 ok, 0 warn, 1 fail\n' "$found" "$cure"
    fi
    exit 1
done
exec "${programs:+$programs/}ota-apply" doctor "$@"
