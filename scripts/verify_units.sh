#!/usr/bin/env bash
# Lets systemd-analyze read the units that scripts/install.sh put below a folder.
#
# usage: scripts/verify_units.sh DIR
set -eu

dir=${1:?usage: scripts/verify_units.sh DIR}
# Units of the system that ours name, which a bare folder does not have.
for unit in boot-complete.target multi-user.target shutdown.target network.target; do
    [ -e "$dir/usr/lib/systemd/system/$unit" ] ||
        printf '[Unit]\nDescription=stand-in\n' >"$dir/usr/lib/systemd/system/$unit"
done
# --root makes paths and programs those below the folder.
messages=$(systemd-analyze verify --man=no --root="$dir" "$dir"/usr/lib/systemd/system/*.service 2>&1) || {
    echo "$messages"
    exit 1
}
# It warns of unknown settings without failing.
[ -z "$messages" ] || { echo "$messages"; exit 1; }
