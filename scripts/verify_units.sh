#!/usr/bin/env bash
# Lets systemd-analyze read the units that scripts/install.sh put below a directory.
# It puts stand-ins there for what belongs to the system and to the application.
#
# usage: scripts/verify_units.sh DIR
set -eu

dir=${1:?usage: scripts/verify_units.sh DIR}
for unit in basic boot-complete multi-user network network-online shutdown sockets sysinit time-set time-sync timers; do
    unit=$unit.target
    [ -e "$dir/usr/lib/systemd/system/$unit" ] ||
        printf '[Unit]\nDescription=stand-in\n' >"$dir/usr/lib/systemd/system/$unit"
done
app=$dir/opt/tope/versions/current/bin/device-api
mkdir -p "${app%/*}"
printf '#!/bin/sh\n' >"$app"
chmod 0755 "$app"
# --root makes paths and programs those below the directory.
messages=$(systemd-analyze verify --man=no --root="$dir" "$dir"/usr/lib/systemd/system/*.{service,timer,socket} 2>&1) || {
    echo "$messages"
    exit 1
}
# It warns of unknown settings without failing.
[ -z "$messages" ] || { echo "$messages"; exit 1; }

# The sandbox: 0 is nothing allowed, 10 everything.
loose=0
for unit in ota-guardian ota-confirm ota-recover ota-factory ota-verify ota-progress ota-install ota-follow ota-health@1; do
    case $unit in
    ota-install) limit=1.8 ;; # it has the network
    ota-follow) limit=2.0 ;; # it, too
    ota-health@1) limit=2.4 ;; # scripts of others need more
    *) limit=1.0 ;;
    esac
    unit=$unit.service
    figure=$(systemd-analyze security --no-pager --offline=yes --root="$dir" "$unit" | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
    if [ -z "$figure" ] || [ "$(echo "$figure" | tr -d .)" -gt "$(echo "$limit" | tr -d .)" ]; then
        echo "$unit: exposure ${figure:-unknown}, want at most $limit (systemd-analyze security $unit)"
        loose=1
    fi
done
exit $loose
