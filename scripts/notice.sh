#!/usr/bin/env bash
# Prints the licences of everything that is linked into the programs: this project's
# modules and Go's standard library. `make notice` keeps the output in docs/NOTICE, and
# the package has it as its copyright file.
#
# usage: scripts/notice.sh
set -eu

case "${1-}" in
"") ;;
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
*) echo "error: unknown argument $1" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."

cat <<TEXT
The programs of https://github.com/tope-ota/ota are under the Apache License,
Version 2.0 (file LICENSE). These modules and Go's standard library are linked
into them:
TEXT
{
    echo "Go - $(go env GOROOT)"
    go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' \
        ./guardian/cmd/ota-guardian ./applier/cmd/ota-apply ./applier/cmd/ota-bundle | sort -u
} | while read -r module version dir; do
    printf "\n%s\n%s\n\n" "----------------------------------------------------------------------" "$(echo "$module $version" | sed 's/ -$//')"
    find "$dir" -maxdepth 1 -type f \( -iname 'LICEN[CS]E*' -o -iname 'COPYING*' -o -iname 'NOTICE*' \) | LC_ALL=C sort | while read -r file; do
        sed 's/\r$//; s/[[:space:]]*$//' "$file"
    done
done | cat -s
