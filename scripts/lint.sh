#!/usr/bin/env bash
# Everything that looks at the code without running it. Run from anywhere.
#
# usage: scripts/lint.sh
# shellcheck disable=SC2317 # the functions below are called through step
set -eu
cd "$(dirname "$0")/.."

failed=0
step() { # name, command...
    local name=$1
    shift
    if "$@"; then echo "ok    $name"; else echo "FAIL  $name"; failed=1; fi
}

formatted() {
    local files
    files=$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l)
    [ -z "$files" ] || { echo "not formatted:" "$files"; return 1; }
}

# The layout is the map of the project: what stands at the top is decided.
layout() {
    local other
    other=$(git ls-files -co --exclude-standard | cut -d/ -f1 | sort -u | grep -v '^\.' |
        grep -vxE 'guardian|applier|bootcheck|units|scripts|integration|docs|go\.mod|go\.sum|Makefile|README\.md|LICENSE' || true)
    [ -z "$other" ] || { echo "does not belong at the top:" "$other"; return 1; }
    # A file of the product is read in one go.
    other=$(git ls-files -co --exclude-standard 'applier/*.go' 'bootcheck/*.go' 'guardian/*.go' | grep -v '_test\.go$' |
        xargs wc -l | awk '$1 > 450 && $2 != "total" { print $2 }')
    [ -z "$other" ] || { echo "longer than 450 lines:" "$other"; return 1; }
}

# The version of staticcheck is pinned by a go.mod of its own, so that it is no
# dependency of the product.
staticcheck() { go tool -modfile=.lint/go.mod staticcheck ./...; }

# The units as they are installed, with the programs that they start.
units() {
    local root
    root=$(mktemp -d)
    scripts/install.sh --destdir "$root" --example >/dev/null && scripts/verify_units.sh "$root"
    local code=$?
    rm -rf "$root"
    return "$code"
}

step gofmt formatted
step layout layout
step "go vet" go vet ./...
step "go vet for 32 bits" env GOOS=linux GOARCH=arm GOARM=7 go vet ./bootcheck/... ./guardian/... ./applier/...
step staticcheck staticcheck
step shellcheck shellcheck scripts/ota scripts/*.sh scripts/package/postinst scripts/package/prerm scripts/package/postrm .ci/run
step "systemd-analyze verify" units
step words go test ./integration/docs -run 'TestWords$'
exit $failed
