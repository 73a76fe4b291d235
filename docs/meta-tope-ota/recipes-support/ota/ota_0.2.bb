SUMMARY = "Updates the application and never leaves the device without one"
HOMEPAGE = "https://github.com/tope-ota/ota"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://src/${GO_IMPORT}/LICENSE;md5=19cbd64715b51267a47bf3750cc6a8a5"

GO_IMPORT = "github.com/tope-ota/ota"
SRC_URI = "git://${GO_IMPORT};protocol=https;branch=main;destsuffix=${GO_SRCURI_DESTSUFFIX}"
# The commit that you tested.
SRCREV = "0000000000000000000000000000000000000000"

inherit go-mod systemd

GO_INSTALL = "${GO_IMPORT}/guardian/cmd/ota-guardian ${GO_IMPORT}/applier/cmd/ota-apply ${GO_IMPORT}/applier/cmd/ota-bundle"
# Static programs of Go alone.
export CGO_ENABLED = "0"
GO_LINKSHARED = ""
# What --version says.
GO_EXTRA_LDFLAGS = "-X ${GO_IMPORT}/bootcheck/cli.Version=${PV}"
# The modules come from the proxy of Go, by the hashes of go.sum.
do_compile[network] = "1"

# Programs, units, drop-ins and the sample configuration, as on any other system. The
# units are enabled below, where the image knows of it.
do_install() {
    bash ${S}/src/${GO_IMPORT}/scripts/install.sh --destdir ${D} --prefix ${prefix} \
        --bin ${B}/${GO_BUILD_BINDIR} --service device-api.service --no-enable
    # The store is on the disk for data, and made there by the first install.
    rm -r ${D}/opt
}

SYSTEMD_SERVICE:${PN} = "ota-guardian.service ota-confirm.service ota-factory.service ota-verify.timer ota-health.socket ota-progress.socket"
FILES:${PN} += "${prefix}/lib"
CONFFILES:${PN} = "${sysconfdir}/ota/ota.toml"
RDEPENDS:${PN} = "systemd"
# For the programs that are called by hand on a workstation.
BBCLASSEXTEND = "native"
