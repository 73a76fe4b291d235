#!/usr/bin/env bash
# Runs a command whose temporary files are in memory (TMPDIR). A sync costs nothing
# there, and syncs are most of the time of tests that install versions; what they are
# for, the tests below integration/ show on real file systems. Where memory cannot be
# used, the command runs with the TMPDIR that is set.
#
# usage: scripts/in_memory.sh COMMAND...
set -eu

case "${1-}" in
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
'' | -*) echo "usage: scripts/in_memory.sh COMMAND..." >&2; exit 2 ;;
esac

# One directory for all runs of a user: go test runs a package again when TMPDIR is
# another. What a run that was killed has left goes after two hours.
memory=/dev/shm dir=/dev/shm/ota-test-$(id -u)
clean() {
    find "$dir" -mindepth 1 -maxdepth 1 -mmin +120 -exec rm -rf {} +
    rmdir "$dir" 2>/dev/null || true
}

# The tests write up to 600 MB, some at once. In containers the directory is often small
# and noexec; tmpfs before Linux 6.0 has no immutable files.
usable() {
    [ "$(stat -f -c %T "$memory" 2>/dev/null)" = tmpfs ] || return 1
    [ "$(df --output=avail -k "$memory" | tail -n 1)" -gt $((2 << 20)) ] || return 1
    mkdir -m 711 "$dir" 2>/dev/null || true
    [ -d "$dir" ] && [ -O "$dir" ] && [ ! -L "$dir" ] && chmod 711 "$dir" || return 1
    trap clean EXIT
    local program status=0
    program=$(mktemp "$dir/program-XXXXXX") || return 1
    printf '#!/bin/sh\n' >"$program" && chmod +x "$program" && "$program" 2>/dev/null || status=1
    if [ "$(id -u)" = 0 ]; then
        chattr +i "$program" 2>/dev/null && chattr -i "$program" || status=1
    fi
    rm -f "$program"
    return "$status"
}
if usable; then
    TMPDIR=$dir "$@"
else
    echo "in_memory.sh: $memory is not usable: temporary files are in ${TMPDIR:-/tmp}, which is slower" >&2
    "$@"
fi
