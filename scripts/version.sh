#!/usr/bin/env bash
# Says the version of this checkout, which the programs and their package have:
# what git describe says, in a form that Debian sorts as it was meant.
#
#   v1.2.3 1.2.3 · v1.2.3-rc1 1.2.3~rc1 · 4 commits later 1.2.3+4.g0123456789ab
#   no tag 0~20261126.0123456789ab (the day of the commit) · no git 0~unknown
#   files that were changed since: .dirty behind it
#
# usage: scripts/version.sh [--time]
#   --time   the time of the commit instead, in seconds since 1970 (SOURCE_DATE_EPOCH)
set -eu

time=
case "${1-}" in
--time) time=1 ;;
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
"") ;;
*) echo "error: unknown argument $1" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
export GIT_CEILING_DIRECTORIES=${PWD%/*} # not the checkout that this one lies in
[ -z "$time" ] || exec git log -1 --format=%ct

described=$(git describe --tags --long --abbrev=12 --match 'v[0-9]*' 2>/dev/null) || described=''
if [ -n "$described" ]; then
    # v1.2.3-rc1-4-g0123456789ab
    commit=${described##*-} rest=${described%-*}
    since=${rest##*-} tag=${rest%-*}
    version=$(echo "${tag#v}" | tr -- - '~')
    [ "$since" = 0 ] || version=$version+$since.$commit
elif version=$(TZ=UTC git log -1 --abbrev=12 --date=format-local:%Y%m%d --format=0~%cd.%h 2>/dev/null) && [ -n "$version" ]; then
    :
else
    echo 0~unknown
    exit
fi
[ -z "$(git status --porcelain -uno)" ] || version=$version.dirty
echo "$version"
