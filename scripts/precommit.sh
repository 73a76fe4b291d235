#!/usr/bin/env bash
# Runs the tests that a change asks for: the largest tier of what it touches.
#
# usage: scripts/precommit.sh [--which] [BASE]
#   --which  only print the tier
#   BASE     what the change is compared with, origin/main if it is not given; what is
#            not committed yet counts, too
set -eu

which=
case "${1-}" in
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
--which) which=1; shift ;;
-*) echo "error: unknown argument $1" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
base=${1:-origin/main}
git rev-parse -q --verify "$base^{commit}" >/dev/null || { echo "error: no commit $base: give the BASE of the change" >&2; exit 2; }

# tier of a path; the first pattern that fits counts.
tier() {
    case "$1" in
    # What a torn store or a wrong boot decision comes from.
    bootcheck/*_test.go | guardian/*_test.go | applier/*_test.go) echo test ;;
    bootcheck/store*.go | bootcheck/record*.go | bootcheck/generation.go | bootcheck/files.go | bootcheck/prepared.go | \
        bootcheck/lock*.go | bootcheck/fallback.go | bootcheck/delete.go | bootcheck/look.go | bootcheck/unknown.go | \
        guardian/*.go | applier/stage.go | applier/activate.go | applier/bundle/*.go | \
        integration/crash/*) echo deep ;;
    units/* | bootcheck/* | applier/* | integration/* | scripts/* | .ci/* | Makefile | go.mod | go.sum) echo check ;;
    docs/*.go) echo test ;;
    docs/* | README.md) echo check ;;
    *) echo test ;;
    esac
}

most='test'
for path in $(git diff --name-only "$base"... --) $(git diff --name-only HEAD --) $(git ls-files --others --exclude-standard); do
    one=$(tier "$path")
    [ -n "$which" ] || printf '%-6s %s\n' "$one" "$path"
    case "$most $one" in
    "test check" | "test deep" | "check deep") most=$one ;;
    esac
done
[ -z "$which" ] || { echo "$most"; exit; }
echo "make $most"
case "$most" in
deep) exec make check deep ;;
*) exec make "$most" ;;
esac
