#!/usr/bin/env bash
# Installs the programs, the scripts for a device, the units and a sample
# configuration, and enables the units. It can be run any number of times; a configuration that is there is
# never changed, and the versions of the application are never touched.
#
# usage: scripts/install.sh [options]
#   --prefix DIR     where programs and units go (default /usr)
#   --destdir DIR    put everything below DIR, for an image or a package (default: this machine)
#   --bin DIR        the directory with ota-guardian, ota-apply and ota-bundle, beside which are man/ and
#                    completions/ (default: bin/ARCH of this checkout, built if it is missing)
#   --store DIR      the version store (default: that of an ota.toml that is there, else
#                    /opt/tope/versions); another one than that of an ota.toml is refused
#   --service UNIT   a service that starts from the store; may be repeated (default device-api.service)
#   --example        also install (or uninstall) device-api.service.example as device-api.service
#   --no-enable      install, but do not enable the units
#   --uninstall      remove what this script installed; configuration, keys and versions stay
#   --purge          with --uninstall: remove /etc/ota too
#   --dry-run        only say what would be done
#   --list WHICH     only print the names of units: those that are enabled, or that are started at once
set -eu
umask 022 # every user runs what is installed, and no other one changes it

here=$(cd "$(dirname "$0")/.." && pwd)
prefix=/usr destdir='' bin='' store='' services='' example='' enable=1 action=install list='' purge='' dry=''

die() { echo "error: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
absolute() {
    case $2 in
    *[!-A-Za-z0-9._/+@~]*) die "$1 may hold letters, digits and ._/+@~- only: $2" ;;
    /*) ;;
    *) die "$1 must be an absolute path, not $2" ;;
    esac
}

while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --destdir | --bin | --store | --service | --list)
        [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
        ;;
    esac
    case $1 in
    --prefix) prefix=$2; shift ;;
    --destdir) destdir=${2%/}; shift ;;
    --bin) bin=$2; shift ;;
    --store) store=$2; shift ;;
    --service)
        case $2 in
        */* | *' '*) die "$2 is not the name of a unit" ;;
        *.service) services="$services $2" ;;
        *) services="$services $2.service" ;;
        esac
        shift ;;
    --example) example=1 ;;
    --list)
        case $2 in
        enabled | started) action=list list=$2 ;;
        *) die "--list takes enabled or started, not $2" ;;
        esac
        shift ;;
    --no-enable) enable='' ;;
    --uninstall) action=uninstall ;;
    --purge) purge=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    *) echo "error: unknown option $1 (--help lists them)" >&2; exit 2 ;;
    esac
    shift
done
: "${services:=device-api.service}"
[ -z "$purge" ] || [ "$action" = uninstall ] || { echo "error: --purge needs --uninstall" >&2; exit 2; }
absolute --prefix "$prefix"
# What is configured already continues. The programs use that store, and the units guard
# and write the one that is asked for: they must be the same.
default=/opt/tope/versions
named=''
case $store in ?*/) store=${store%/} ;; esac
if [ -f "$destdir/etc/ota/ota.toml" ]; then
    named=$(sed -n "s/^[[:space:]]*root[[:space:]]*=[[:space:]]*[\"']\([^\"']*\)[\"'].*/\1/p" "$destdir/etc/ota/ota.toml" | head -n 1)
    : "${named:=$default}"
    if [ "$action" = install ] && [ -n "$store" ] && [ "$store" != "${named%/}" ]; then
        die "$destdir/etc/ota/ota.toml has the store $named, not $store: change its root first, or leave out --store"
    fi
fi
: "${store:=${named:-$default}}"
absolute --store "$store"
case $destdir in '' | /*) ;; *) die "--destdir must be an absolute path, not $destdir" ;; esac
if [ -z "$destdir" ] && [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then
    die "this machine's files belong to root: run it as root, or give a --destdir"
fi

# Where systemd looks: below /usr and /usr/local, and in /etc.
case $prefix in
/usr | /usr/local) units=$destdir$prefix/lib/systemd/system conf=$destdir$prefix/lib ;;
*) units=$destdir/etc/systemd/system conf=$destdir/etc ;;
esac
manager=$conf/systemd/system.conf.d/50-ota-watchdog.conf
panic=$conf/sysctl.d/50-ota-panic.conf
preset=$conf/systemd/system-preset/50-ota.preset
catalog=$destdir$prefix/lib/systemd/catalog/ota.catalog
managed='ota-guardian.service ota-confirm.service ota-recover.service ota-factory.service ota-verify.service ota-verify.timer ota-health.socket ota-health@.service ota-progress.socket ota-progress.service ota-install.service ota-follow.service'
enabled='ota-guardian.service ota-confirm.service ota-factory.service ota-verify.timer ota-health.socket ota-progress.socket'
# The others do their work at boot; these work from now on.
started='ota-verify.timer ota-health.socket ota-progress.socket'
programs='ota-guardian ota-apply ota-bundle'
pages='ota-guardian.8 ota-apply.1 ota-bundle.1 ota.toml.5 ota.7'
# What an operator or an image build runs on the device: not in the way of the PATH.
tools='setup_symlinks.sh create_factory_version.sh verify_setup.sh test_symlink_switch.sh'
manual=$destdir$prefix/share/man
completions=$destdir$prefix/share/bash-completion/completions
fish=$destdir$prefix/share/fish/vendor_completions.d
zsh=$destdir$prefix/share/zsh/vendor-completions
lib=$destdir$prefix/lib/ota

run() {
    if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi
}

# place SOURCE TARGET MODE [EDIT]: the file with this installation's paths in it, and
# what sed's EDIT makes of it, replaced as a whole.
place() {
    if [ -n "$dry" ]; then echo "would write $2"; return; fi
    mkdir -p "$(dirname "$2")"
    sed "s#/usr/bin/ota-#$prefix/bin/ota-#g; s#/opt/tope/versions#$store#g; ${4-}" "$1" >"$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
    echo "$2"
}

# as_is SOURCE TARGET MODE: the file as it is.
as_is() {
    if [ -n "$dry" ]; then echo "would write $2"; return; fi
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2" # a program that runs keeps its old file
    echo "$2"
}

# sd ARGUMENTS: systemctl for this machine or for the image.
sd() {
    command -v systemctl >/dev/null || { echo "note: no systemctl here; do it on the device: systemctl $*" >&2; return 0; }
    if [ -n "$destdir" ]; then run systemctl --quiet --root="$destdir" "$@"; else run systemctl --quiet "$@"; fi
}

# live: this is about the system that runs.
live() { [ -z "$destdir" ] && [ -d /run/systemd/system ]; }

# unmasked UNITS: those of them that the administrator did not mask.
unmasked() {
    for u; do
        [ "$(readlink "$destdir/etc/systemd/system/$u")" = /dev/null ] || echo "$u"
    done
}

reload() {
    if live; then
        run systemctl daemon-reload
        run journalctl --update-catalog
    fi
}

# configured is the EDIT of the configuration: what this installation does not have as by default.
configured() {
    local list=''
    for s in $services; do list="$list, \"$s\""; done
    [ "$store" = "$default" ] || echo "s#^\#root = .*#root = \"$store\"#"
    [ "$services" = device-api.service ] || echo "s#^\#services = .*#services = [${list#, }]#"
}

find_programs() {
    [ -z "$bin" ] || return 0
    case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    arm*) arch=armv7 ;;
    *) die "no programs for $(uname -m): build them and name their directory with --bin" ;;
    esac
    bin=$here/bin/$arch
    if [ ! -x "$bin/ota-guardian" ] && [ -z "$dry" ]; then
        command -v go >/dev/null || die "$bin/ota-guardian is missing: run make build, or name the directory with --bin"
        make -s -C "$here" "build-$arch" man >&2
    fi
}

install_all() {
    find_programs
    for p in $programs; do
        [ -n "$dry" ] || [ -f "$bin/$p" ] || die "$bin/$p is missing: run make build, or name the right directory with --bin"
    done
    for p in $programs; do
        as_is "$bin/$p" "$destdir$prefix/bin/$p" 0755
    done
    as_is "$here/scripts/ota" "$destdir$prefix/bin/ota" 0755
    docs=$(dirname "$bin")
    if [ -n "$dry" ] || [ -e "$docs/completions/_ota" ]; then
        for p in $pages; do
            as_is "$docs/man/$p" "$manual/man${p##*.}/$p" 0644
        done
        for p in $programs ota; do
            as_is "$docs/completions/$p" "$completions/$p" 0644
            as_is "$docs/completions/$p.fish" "$fish/$p.fish" 0644
            as_is "$docs/completions/_$p" "$zsh/_$p" 0644
        done
    else
        echo "note: without the manual, which is not in $docs: make man makes it" >&2
    fi
    for t in $tools; do
        as_is "$here/scripts/$t" "$lib/$t" 0755
    done
    for u in $managed; do
        place "$here/units/$u" "$units/$u" 0644
    done
    for s in $services; do
        place "$here/units/device-api.service.d/50-ota.conf" "$units/$s.d/50-ota.conf" 0644
    done
    if [ -n "$example" ]; then
        place "$here/units/device-api.service.example" "$units/device-api.service" 0644
    fi
    place "$here/units/system.conf.d/50-ota-watchdog.conf" "$manager" 0644
    place "$here/units/sysctl.d/50-ota-panic.conf" "$panic" 0644
    place "$here/units/system-preset/50-ota.preset" "$preset" 0644
    place "$here/units/ota.catalog" "$catalog" 0644
    run mkdir -p "$destdir/etc/ota/keys" "$destdir/etc/ota/checks.d/required" "$destdir/etc/ota/checks.d/wanted" "$destdir$store"
    if [ ! -e "$destdir/etc/ota/ota.toml" ]; then
        place "$here/units/ota.toml.example" "$destdir/etc/ota/ota.toml" 0644 "$(configured)"
    fi
    reload
    if [ -n "$enable" ]; then
        # shellcheck disable=SC2046,SC2086 # lists of units
        sd enable $(unmasked $enabled)
        # shellcheck disable=SC2046,SC2086 # lists of units
        if live; then run systemctl start $(unmasked $started); fi
    fi
}

uninstall_all() {
    if live && [ -e "$units/ota-progress.socket" ]; then
        # shellcheck disable=SC2086 # a list of units
        run systemctl stop $started ota-progress.service ota-follow.service
    fi
    for u in $enabled ota-follow.service; do
        if [ -e "$units/$u" ]; then sd disable "$u"; fi
    done
    for u in $managed; do run rm -f "$units/$u"; done
    for d in "$units"/*.service.d; do
        if [ -e "$d/50-ota.conf" ]; then
            run rm -f "$d/50-ota.conf"
            run rmdir --ignore-fail-on-non-empty "$d"
        fi
    done
    run rm -f "$manager" "$panic" "$preset" "$catalog"
    for p in $programs ota; do run rm -f "$destdir$prefix/bin/$p" "$completions/$p" "$fish/$p.fish" "$zsh/_$p"; done
    for p in $pages; do run rm -f "$manual/man${p##*.}/$p"; done
    for t in $tools; do run rm -f "$lib/$t"; done
    if [ -d "$lib" ]; then run rmdir --ignore-fail-on-non-empty "$lib"; fi
    if [ -n "$example" ]; then run rm -f "$units/device-api.service"; fi
    if [ -n "$purge" ]; then run rm -rf "$destdir/etc/ota"; fi
    reload
    echo "the versions in $destdir$store stay"
}

list_all() {
    if [ "$list" = enabled ]; then echo "$enabled"; else echo "$started"; fi
}

"${action}_all"
