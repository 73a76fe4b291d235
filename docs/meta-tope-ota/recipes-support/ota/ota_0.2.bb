SUMMARY = "Updates the application and never leaves the device without one"
HOMEPAGE = "https://github.com/tope-ota/ota"
# With the modules and the library of Go that are linked into the programs.
LICENSE = "Apache-2.0 & BSD-2-Clause & BSD-3-Clause & MIT"
LIC_FILES_CHKSUM = " \
    file://src/${GO_IMPORT}/LICENSE;md5=19cbd64715b51267a47bf3750cc6a8a5 \
    file://src/${GO_IMPORT}/docs/NOTICE;md5=575bb254ece02593fd13e62455566256 \
"

GO_IMPORT = "github.com/tope-ota/ota"
SRC_URI = "git://${GO_IMPORT};protocol=https;branch=main;destsuffix=${GO_SRCURI_DESTSUFFIX}"
# The commit that you tested.
SRCREV = "0000000000000000000000000000000000000000"

inherit go-mod features_check
# Units are in ${prefix}/lib, where systemd looks.
REQUIRED_DISTRO_FEATURES:class-target = "systemd usrmerge"

GO_INSTALL = "${GO_IMPORT}/guardian/cmd/ota-guardian ${GO_IMPORT}/applier/cmd/ota-apply ${GO_IMPORT}/applier/cmd/ota-bundle"
# Static programs of Go alone. The class asks for -buildmode=pie, which needs a loader, and on
# 32-bit ARM a linker for C.
export CGO_ENABLED = "0"
GO_LINKSHARED = ""
GOBUILDFLAGS:remove = "-buildmode=pie"
# As `make build` makes them: without HTTP/2.
GOBUILDFLAGS:append = " -tags nethttpomithttp2"
# What --version says, and a date that is certainly past.
GO_EXTRA_LDFLAGS = "-X ${GO_IMPORT}/bootcheck/cli.Version=${PV} -X ${GO_IMPORT}/bootcheck.builtAt=${SOURCE_DATE_EPOCH}"
# The modules come from the proxy of Go, by the hashes of go.sum.
do_compile[network] = "1"

# The services that start from the store, and where it is: as in your ota.toml.
OTA_SERVICES ?= "device-api.service"
OTA_STORE ?= "/opt/tope/versions"

# Programs, units, drop-ins and the sample configuration, as on any other system. An image
# enables the units by their preset (systemctl preset-all). The store stays empty: the disk for
# data is mounted there, and a read-only root needs the directory for that.
do_install() {
    set --
    for s in ${OTA_SERVICES}; do set -- "$@" --service "$s"; done
    bash ${S}/src/${GO_IMPORT}/scripts/install.sh --destdir ${D} --prefix ${prefix} \
        --bin ${B}/${GO_BUILD_BINDIR} --store ${OTA_STORE} "$@" --no-enable
}
# On the machine that builds: to pack a version, and to install the first one into an image.
do_install:class-native() {
    install -d ${D}${bindir}
    install -m 0755 ${B}/${GO_BUILD_BINDIR}/ota-apply ${B}/${GO_BUILD_BINDIR}/ota-bundle ${D}${bindir}/
}

# For a device with a package manager. Not systemd.bbclass: with each upgrade it stops and
# starts all units. The stop of ota-guardian is the mark of an orderly shutdown, its start
# decides on a boot, and a version may be on trial.
OTA_ENABLED = "ota-guardian.service ota-confirm.service ota-factory.service ota-verify.timer ota-health.socket ota-progress.socket"
OTA_STARTED = "ota-verify.timer ota-health.socket ota-progress.socket"
pkg_postinst:${PN}() {
    if [ -z "$D" ]; then
        systemctl daemon-reload
        systemctl --quiet preset ${OTA_ENABLED}
        systemctl start ${OTA_STARTED} || true
    fi
}
pkg_prerm:${PN}() {
    case $1 in
    remove | 0)
        systemctl stop ${OTA_STARTED} ota-follow.service ota-progress.service ota-verify.service ota-factory.service ota-confirm.service || true
        systemctl --quiet disable ${OTA_ENABLED} ota-follow.service
        ;;
    esac
}

FILES:${PN} += "${prefix}/lib ${OTA_STORE}"
CONFFILES:${PN} = "${sysconfdir}/ota/ota.toml"
RDEPENDS:${PN}:class-target = "systemd"
BBCLASSEXTEND = "native"
