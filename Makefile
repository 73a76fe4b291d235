# TOP.E OTA: what can be done here. `make` alone lists it.
#
# Everything that CI runs is a target; nothing is hidden in CI files. Targets
# that need packages of the system install them when they may (root), and
# otherwise say exactly which to install.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export CGO_ENABLED := 0

ifndef VERSION
VERSION := $(shell scripts/version.sh)
endif
# The time of everything that is made: that of the commit.
export SOURCE_DATE_EPOCH ?= $(shell scripts/version.sh --time 2>/dev/null || echo 0)

# Small, static and reproducible: no paths of the build machine, no symbols, and
# of git only what --version says.
# The collector of Go before 1.26 is 16 KB smaller, and these programs collect little;
# later releases no longer have it.
BUILD := GOEXPERIMENT=$(if $(findstring go1.26,$(shell go env GOVERSION)),nogreenteagc) go build -trimpath -buildvcs=false -ldflags '-s -w -X github.com/tope-ota/ota/bootcheck/cli.Version=$(VERSION) -X github.com/tope-ota/ota/bootcheck.builtAt=$(SOURCE_DATE_EPOCH)'

# The guardian is read from flash at every boot, before anything else starts.
# Without inlining it is 7 % smaller; it spends its time in SHA-256, which is
# assembly, and in system calls.
GUARDIAN_FLAGS := -gcflags=all=-l
# The same of what in ota-apply waits for the network or for people: 330 KB; HTTP/2, which one
# file from one server gains nothing by, would be 520 KB. What it hashes and unpacks with is
# as fast as it can be.
PATIENT := net/... mime/... vendor/... crypto/tls crypto/x509 encoding/asn1 math/big text/... fmt flag \
	github.com/BurntSushi/toml/... github.com/godbus/... \
	$(addprefix github.com/tope-ota/ota/,applier/doctor applier/follow/... applier/screen bootcheck/config bootcheck/metrics)
APPLIER_FLAGS := $(PATIENT:%=-gcflags=%=-l) -tags nethttpomithttp2

# Where the binaries go.
BIN ?= bin

PROCESSORS := amd64 arm64 armv7

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(PROCESSORS:%=build-%) man ## static binaries for amd64, arm64 and armv7 into bin/, and their manual

build-amd64: env := GOARCH=amd64
build-arm64: env := GOARCH=arm64
build-armv7: env := GOARCH=arm GOARM=7
.PHONY: $(PROCESSORS:%=build-%)
$(PROCESSORS:%=build-%): build-%:
	@mkdir -p '$(BIN)/$*'
	GOOS=linux $(env) $(BUILD) $(GUARDIAN_FLAGS) -o '$(BIN)/$*/' ./guardian/cmd/ota-guardian
	GOOS=linux $(env) $(BUILD) $(APPLIER_FLAGS) -o '$(BIN)/$*/' ./applier/cmd/ota-apply ./applier/cmd/ota-bundle

# For this machine: what cross-builds asks for must not hold for the generator.
.PHONY: man
man: ## the manual pages and the completion for bash, from the usage texts, into bin/
	GOOS= GOARCH= GOARM= go run ./docs/man -o '$(BIN)' -version '$(VERSION)' -date "$$(date -u -d @$$SOURCE_DATE_EPOCH +%F)"

.PHONY: demo
demo: packages-demo ## the main job in 3 minutes: a device in a VM updates, and survives bad versions and power cuts
	@go run ./integration/cmd/demo

.PHONY: screen
screen: packages ## the pictures of docs/SCREEN.md, of the page for the device's screen in a real browser
	go test ./integration/screen -count=1 -run TestStates -update

.PHONY: fleet
fleet: ## the follower and a real gooseBit, from PyPI, another server of the API that the other tests have a server of
	OTA_GOOSEBIT=$$(scripts/packages.sh fleet) && export OTA_GOOSEBIT && go vet -tags goosebit ./integration/fleet && \
		go test -tags goosebit ./integration/fleet -count=1 -v -run TestGooseBit

.PHONY: cast
cast: packages-demo ## the demo once more, recorded as docs/demo.svg
	@go run ./integration/cmd/demo -cast docs/demo.svg

.PHONY: shell
shell: packages-demo ## a prompt on a device in a container: the package, a first version, three to install; as root
	@go run ./integration/cmd/shell

# The tiers, each of which comes after the ones before it. What each is made of, and
# what it leaves to the next one: integration/cmd/tests/parts.go.
.PHONY: check
check: packages test ## before a change is sent: 12 minutes on two idle cores
	@go run ./integration/cmd/tests check

.PHONY: deep
deep: packages fuzz ## what check leaves out, 30 minutes: four releases of Debian, arm64, file systems; CI runs both
	@go run ./integration/cmd/tests deep

.PHONY: nightly
nightly: packages fleet ## all of it, nothing sampled, which takes hours; its table is for `make counts`
	@go run ./integration/cmd/tests nightly
	scripts/fuzz.sh 10m

# BASE is what the change is compared with.
.PHONY: precommit
precommit: ## the tier that the change since BASE (origin/main) asks for
	scripts/precommit.sh $(BASE)

.PHONY: counts
counts: ## the table of the last nightly (or deep, or check) into docs/RELIABILITY.md
	@go run ./integration/cmd/tests counts docs/RELIABILITY.md

# Four packages at a time, as many tests wait for a timer or a child. For
# integration/docs -short means without machines.
.PHONY: test
test: ## the tests that need neither root nor QEMU, in 90 s on two idle cores
	scripts/in_memory.sh go test -p 4 -parallel 8 $$(go list ./... | grep -v /integration/) \
		./integration/machine ./integration/machine/agent/... ./integration/deviceapi/...
	go test -short ./integration/docs

# How long each fuzz target runs.
FUZZTIME ?= 5s

.PHONY: fuzz
fuzz: ## parsers of what comes from outside, on made-up input, FUZZTIME each
	scripts/fuzz.sh $(FUZZTIME)

# FLOW, POINT, SEED, ERRNO (EIO, ...) and ON=1 (and every later call), or BY and SECOND (a second kill), make one
# point once more, with its log: `go test ./integration/crash -args -help` has the flags.
CRASH = $(if $(FLOW),-crash.flow=$(FLOW)) $(if $(POINT),-crash.point=$(POINT))
CRASH_POINT = $(if $(READ),-crash.read) $(if $(ERRNO),-crash.errno=$(ERRNO)) $(if $(ON),-crash.on) \
	$(if $(BY),-crash.by=$(BY)) $(if $(SECOND),-crash.second=$(SECOND)) $(if $(PROCS),-crash.procs=$(PROCS))
CRASH_SEED = $(if $(SEED),-crash.seed=$(SEED))

.PHONY: crash
crash: packages ## killed at every system call, cut at every block write: deep's part; with FLOW= POINT= one point, with its log
ifdef RECORDING # that a failure of the block replay left
	go test ./integration/crash/blocks -count=1 -run TestRecording -v -crash.recording=$(abspath $(RECORDING)) $(CRASH) $(CRASH_SEED)
else ifdef FS # block replay, of ext4, xfs or btrfs
	go test ./integration/crash/blocks -count=1 -run TestPowerCuts -v -crash.fs=$(FS) $(CRASH) $(CRASH_SEED)
else ifdef POINT
	go test ./integration/crash -count=1 -run TestPoint -v $(CRASH) $(CRASH_POINT)
else
	go test -p 2 -count=1 -timeout 30m ./integration/crash/...
endif

.PHONY: lint
lint: packages-lint ## gofmt, go vet, staticcheck, shellcheck, systemd-analyze verify
	scripts/lint.sh

.PHONY: bench
bench: packages packages-bench ## installs and updates against curl | zstd | tar, ostree and rsync; sizes, the switch, the downtime; then Go's benchmarks
	go run ./integration/cmd/bench
	go test -run '^$$' -bench . -benchmem $$(go list ./... | grep -v /integration)

.PHONY: bench-small
bench-small: packages ## install and update with 64 to 512 MiB, 1 and 4 slow cores, a slow disk, and on armv7; as root
	@go run ./integration/cmd/bench -only machines

.PHONY: bench-boot
bench-boot: packages ## what the guardian adds to a boot, against /bin/true on the same machine
	@go run ./integration/cmd/bench -only boot -runs 10

.PHONY: packages packages-demo packages-lint packages-bench
packages: ## what the tests need of the system (apt, when root; else it says what is missing)
	@scripts/packages.sh
packages-demo packages-lint packages-bench: packages-%:
	@scripts/packages.sh $*

.PHONY: install
install: ## this machine's binaries, units and configuration (DESTDIR and PREFIX count)
	scripts/install.sh --destdir "$(DESTDIR)" --prefix "$(or $(PREFIX),/usr)"

# STORE, SERVICES and MAINTAINER count too: scripts/package.sh --help.
.PHONY: deb
deb: ## Debian packages for amd64, arm64 and armhf, bin/ota_VERSION_ARCH.deb
	@BIN='$(BIN)' VERSION='$(VERSION)' scripts/package.sh $(DEB_ARCHES)

.PHONY: rpm apk ipk image
rpm apk ipk image: ## the same as rpm, apk or ipk; image: ota-bundle as a container image
	@BIN='$(BIN)' VERSION='$(VERSION)' scripts/package.sh --format $@ $(DEB_ARCHES)

.PHONY: release
release: ## everything that is published, built twice and compared, into bin/release; KEY=NAME.key signs it
	@KEY='$(KEY)' PASSWORD_FILE='$(PASSWORD_FILE)' scripts/release.sh '$(BIN)/release'

.PHONY: notice
notice: ## docs/NOTICE: the licences of what is linked into the programs
	@scripts/notice.sh >docs/NOTICE.new && mv docs/NOTICE.new docs/NOTICE

.PHONY: clean
clean: ## remove bin/ and the cache of the test machines
	rm -rf bin .cache
