#!/usr/bin/env bash
# Runs a command whose temporary files are in memory (TMPDIR), and removes them when it
# ends. A sync there costs nothing, which is most of the time of tests that install
# versions; what syncs are for, the tests below integration/ show on real file systems.
# Where there is no such directory, the command runs with the TMPDIR that is set.
#
# usage: scripts/in_memory.sh COMMAND...
set -eu

case "${1-}" in
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
'' | -*) echo "usage: scripts/in_memory.sh COMMAND..." >&2; exit 2 ;;
esac

# The tests write up to 600 MB, some at once. In containers the directory is often small
# and noexec; tmpfs before Linux 6.0 has no immutable files.
memory=/dev/shm
usable() {
    [ "$(stat -f -c %T "$memory" 2>/dev/null)" = tmpfs ] || return 1
    [ "$(df --output=avail -k "$memory" | tail -n 1)" -gt $((2 << 20)) ] || return 1
    dir=$(mktemp -d "$memory/ota-test-XXXXXX" 2>/dev/null) || return 1
    trap 'rm -rf "$dir"' EXIT
    printf '#!/bin/sh\n' >"$dir/program" && chmod +x "$dir/program" && "$dir/program" 2>/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then
        chattr +i "$dir/program" 2>/dev/null && chattr -i "$dir/program" || return 1
    fi
    rm "$dir/program"
}
if usable; then
    TMPDIR=$dir "$@"
else
    echo "in_memory.sh: $memory is not usable: temporary files are in ${TMPDIR:-/tmp}, which is slower" >&2
    "$@"
fi
