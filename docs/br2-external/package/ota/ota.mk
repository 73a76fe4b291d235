# The commit or tag that you tested.
OTA_VERSION = v1.0.0
OTA_LICENSE = Apache-2.0
OTA_LICENSE_FILES = LICENSE
OTA_SITE = $(call github,tope-ota,ota,$(OTA_VERSION))
OTA_GOMOD = github.com/tope-ota/ota
# Static programs of Go alone.
OTA_GO_ENV = CGO_ENABLED=0
# What --version says.
OTA_LDFLAGS = -X $(OTA_GOMOD)/bootcheck/cli.Version=$(OTA_VERSION:v%=%)
OTA_BUILD_TARGETS = guardian/cmd/ota-guardian applier/cmd/ota-apply applier/cmd/ota-bundle
OTA_INSTALL_BINS = ota-guardian ota-apply ota-bundle

# Units, drop-ins and the sample configuration. Buildroot enables units itself
# (systemctl preset-all). The store is on the disk for data.
define OTA_INSTALL_INIT_SYSTEMD
	cd $(@D) && bash scripts/install.sh --destdir $(TARGET_DIR) --bin $(@D)/bin \
		--service device-api.service --no-enable
	rm -rf $(TARGET_DIR)/opt/tope
endef

$(eval $(golang-package))
