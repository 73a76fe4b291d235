package main

// A part is one `go test` of a tier.
type part struct {
	name string
	env  []string
	args []string // of go test
}

// The stories that say what the programs are for, in a container; the one with power
// cuts at any moment of an install is in deep.
const eight = "^TestContainer$/.*/^(a_|an_|power_cuts_before|the_new|no_other)"

// inGuest are tests that TestInContainer runs in the machine that it starts.
const inGuest = "^Test(Guest.*|Nobody|Reboot)$"

// tiers are made of these parts. Deep is what check leaves out: it comes after it.
// Nightly is all.
var tiers = map[string][]part{
	"check": {
		{"every step of an update killed; samples", []string{"OTA_TESTS=check"}, []string{"-p", "2", "./integration/crash/..."}},
		{"eight stories on systemd 252 and 257", []string{"OTA_SUITES=bookworm,trixie"}, []string{"./integration/scenario", "-run", eight}},
		{"power cuts of a virtual machine", nil, []string{"./integration/scenario", "-run", "^TestVM$/.*/^power_cuts_before"}},
		{"ROLLBACK and DEPLOYMENT, every command", nil, []string{"./integration/docs", "-run", "^TestDocuments$/^documents$/^(ROLLBACK|DEPLOYMENT)"}},
	},
	"deep": {
		{"34 bad versions on systemd 252 and 257", []string{"OTA_SUITES=bookworm,trixie"}, []string{"./integration/scenario", "-run", "^TestBadVersions$"}},
		{"crash suite", []string{"OTA_TESTS=deep"}, []string{"-p", "2", "./integration/crash/..."}},
		{"stories on systemd 247 and 260", []string{"OTA_SUITES=bullseye,forky"}, []string{"./integration/scenario", "-run", "^TestContainer$"}},
		{"units, package on four releases of Debian", []string{"OTA_SUITES=all"}, []string{"./integration/systemdtest", "./integration/debtest", "-skip", inGuest}},
		{"virtual machines, arm64, the other stories", nil, []string{"./integration/scenario", "-skip", "^(TestContainer|TestBadVersions)$|^TestVM$/.*/^power_cuts_before"}},
		{"documents, every command", nil, []string{"./integration/docs", "-skip", "^TestDocuments$/^documents$/^(ROLLBACK|DEPLOYMENT)"}},
		{"file systems, machines, scripts, metrics, registries, the page", nil, []string{"-p", "1", "./integration/filesystems", "./integration/machine/...", "./integration/metricstest", "./integration/registrytest", "./integration/s3test", "./integration/compattest", "./integration/fleet/...", "./integration/screens", "./integration/screen", "./integration/scriptstest", "./integration/switchtest", "./integration/setuptest", "./integration/cmd/..."}},
	},
	"nightly": {
		{"crash suite", []string{"OTA_TESTS=nightly"}, []string{"-p", "1", "./integration/crash/..."}},
		{"stories, bad versions, virtual machines, arm64", []string{"OTA_TESTS=nightly", "OTA_SUITES=all"}, []string{"./integration/scenario"}},
		{"units, package, documents, file systems", []string{"OTA_TESTS=nightly", "OTA_SUITES=all"}, []string{"-p", "1", "./integration/systemdtest", "./integration/debtest", "./integration/docs", "./integration/filesystems",
			"./integration/machine/...", "./integration/metricstest", "./integration/registrytest", "./integration/s3test", "./integration/compattest", "./integration/fleet/...", "./integration/screens", "./integration/screen", "./integration/scriptstest", "./integration/switchtest", "./integration/setuptest", "./integration/cmd/...", "-skip", inGuest}},
		{"unit tests, nothing made smaller", []string{"OTA_TESTS=nightly"}, []string{"./applier/...", "./bootcheck/...", "./guardian/...", "./docs/..."}},
	},
}

// timeouts are those of a tier's go test: it is never reached but by what hangs.
var timeouts = map[string]string{"check": "30m", "deep": "75m", "nightly": "24h"}
