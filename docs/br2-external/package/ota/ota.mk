################################################################################
#
# ota
#
################################################################################

# The commit or tag that you tested.
OTA_VERSION = v1.0.0
OTA_SITE = $(call github,tope-ota,ota,$(OTA_VERSION))
# With the modules and the library of Go that are linked into the programs.
OTA_LICENSE = Apache-2.0, BSD-2-Clause, BSD-3-Clause, MIT
OTA_LICENSE_FILES = LICENSE docs/NOTICE
OTA_GOMOD = github.com/tope-ota/ota
# Static programs of Go alone, as `make build` makes them: without HTTP/2.
OTA_GO_ENV = CGO_ENABLED=0
OTA_TAGS = nethttpomithttp2
# What --version says.
OTA_LDFLAGS = -X $(OTA_GOMOD)/bootcheck/cli.Version=$(OTA_VERSION:v%=%)
OTA_BUILD_TARGETS = \
	guardian/cmd/ota-guardian \
	applier/cmd/ota-apply \
	applier/cmd/ota-bundle

# The services that start from the store, and where it is: as in your ota.toml.
OTA_SERVICES = device-api.service
OTA_STORE = /opt/tope/versions

# Programs, units, drop-ins and the sample configuration, as on any other system.
# Buildroot enables the units itself (systemctl preset-all). The store stays empty:
# the disk for data is mounted there, and a read-only root needs the directory for that.
define OTA_INSTALL_TARGET_CMDS
	cd $(@D) && bash scripts/install.sh --destdir $(TARGET_DIR) --bin $(@D)/bin \
		--store $(OTA_STORE) $(addprefix --service ,$(OTA_SERVICES)) --no-enable
endef

$(eval $(golang-package))
