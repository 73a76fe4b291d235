#!/usr/bin/env bash
# Runs every fuzz target of the checkout, one after the other: each takes all cores.
# What it finds is kept below testdata/fuzz, for `make test` to repeat.
#
# usage: scripts/fuzz.sh TIME
#   TIME   for each target, as go test's -fuzztime: 30s
#
# When the time of a run is up, Go before 1.27 may call that a failure of the target,
# with nothing but "context deadline exceeded" (go.dev/issue/75804). That alone, with
# no input written, is what a target without faults looks like then:
# it is said, and the next one continues. Anything else ends this with 1.
set -eu -o pipefail

case "${1-}" in
-h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit ;;
[0-9]*) time=$1 ;;
*) echo "usage: scripts/fuzz.sh TIME" >&2; exit 2 ;;
esac
[ $# = 1 ] || { echo "error: unknown argument $2" >&2; exit 2; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# only_time_up: what the failed run printed is the time that was up, and nothing else.
only_time_up() {
    [ "$(sed -n '/^--- FAIL: /,/^FAIL$/p' "$log" | sed '1d; $d' | tr -d ' \n')" = contextdeadlineexceeded ] &&
        ! grep -q 'Failing input written to' "$log"
}

targets=$(grep -rHo '^func Fuzz[A-Za-z]*' --include='*_test.go' . | sort) || true
[ -n "$targets" ] || { echo "error: no fuzz target below $PWD" >&2; exit 1; }
while IFS=: read -r file func <&3; do
    func=${func#func }
    echo "$(dirname "$file") $func"
    # Without a bound, Go spends a minute on making each interesting input shorter,
    # which is all there is.
    go test "$(dirname "$file")" -run '^$' -fuzz "^$func\$" -fuzztime "$time" -fuzzminimizetime 100x 2>&1 </dev/null | tee "$log" && continue
    only_time_up || { echo "error: $func failed" >&2; exit 1; }
    echo "$func: no fault found; Go called the end of its time a failure (go.dev/issue/75804)"
done 3<<<"$targets"
