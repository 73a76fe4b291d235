// Package config reads /etc/ota/ota.toml, the one configuration of all programs
// on the device. Every key is optional.
//
// A damaged configuration must not stop a boot, so Load returns something usable
// in every case: a value that is wrong is replaced by its default, every
// other value of the file still counts, and the error names all that was wrong.
// The guardian logs the error and continues; ota-apply, which an operator can ask
// again, refuses with exit 2.
//
//	root     = "/opt/tope/versions"
//	spool    = "/opt/tope/versions/.spool"
//	keys     = ["/etc/ota/keys"]
//	model    = "tope-x1"
//	services = ["device-api.service"]
//	keep     = 2
//	reserve  = "64MiB"
//	run      = "/run/ota"
//	reuse    = "auto"
//
//	proxy             = ""
//	ca                = []
//	client_certificate = ""
//	limit_rate        = 0
//	download_deadline = "24h"
//
//	[report]
//	url = "http://127.0.0.1:9080/api/v1.0/ota/report"
//
//	[trial]
//	hard     = 3
//	unclean  = 6
//	clean    = 10
//	deadline = "10m"
//	stable   = "60s"
//
//	[[check]]
//	name     = "device-api answers"
//	http     = "http://127.0.0.1:9080/health"
//	required = true
//	timeout  = "10s"
//
//	[follow]
//	source     = ""
//	url        = ""
//	tenant     = "DEFAULT"
//	device_id  = ""
//	token_file = "/etc/ota/follow-token"
//	parts      = ["bApp"]
//
//	[metrics]
//	file = "/run/ota/ota.prom"
package config

import (
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// DefaultPath is read when neither --config nor $OTA_CONFIG names another file.
// It need not exist.
const DefaultPath = "/etc/ota/ota.toml"

// Config is what the file says, with the defaults filled in.
type Config struct {
	Root  string // the version store; default /opt/tope/versions
	Spool string // downloads that are not finished; default <Root>/.spool

	// Keys are the public keys that may sign a bundle: files, or directories of
	// *.pub files. Default: the directory "keys" beside the configuration. No key
	// found means that every install is refused.
	Keys []string

	Model    string   // the product model that a bundle must be for; empty: bundles of every model are taken
	Services []string // units that start from the store; default device-api.service; may be empty
	Keep     int      // snapshots kept beyond current, previous and factory; default 2
	Reserve  Size     // kept free on the partition of Root, in bytes; default 64 MiB
	Run      string   // state that a reboot may lose; default /run/ota

	// Reuse says how a file that another version has comes into a new one:
	// ReuseAuto (the default) or ReuseCopy.
	Reuse string

	// Proxy is what downloads go through: "http://host:port" (https, socks5 and
	// socks5h too), NoProxy for none, or empty (the default) for what the
	// environment says in http_proxy, https_proxy and no_proxy. It may hold a
	// user and a password, which are for the proxy only.
	Proxy string

	CA []string // PEM files with the authorities that a server's certificate must come from, these and no other; default none: those of the system
	// ClientCertificate is a PEM file with a certificate of this device and its key, for servers
	// that ask for one; mode 0600. Empty (the default): there is none.
	ClientCertificate string
	LimitRate         Size          // of a download; default 0, as fast as it goes
	DownloadDeadline  time.Duration // for one download with all its tries; default 24h, 600 MB at 7 kB/s

	Report Report
	Trial  Trial

	// Checks are the [[check]] tables. When there is none: one http check,
	// "device-api answers", which counts only if something listens at its address. That every one of Services runs is checked besides.
	Checks    []Check
	ChecksDir string // scripts that are checks too; the directory "checks.d" beside the configuration

	Metrics Metrics
	Follow  Follow

	Path string // the file that was asked for, absolute, whether it could be read or not

	from map[string]string // where the values of keys come from, see Setting; default: not there
}

// How a new version takes files from others that are installed. Nothing is ever
// shared with the factory version.
const (
	// ReuseAuto shares the blocks: a clone, where the file system can (btrfs, xfs),
	// else one file with several names. A service that writes to a file of its own
	// version in place then changes it in other versions, too.
	ReuseAuto = "auto"
	// ReuseCopy copies: each version takes its whole room on the disk.
	ReuseCopy = "copy"
)

// Report says where the progress of an install goes.
type Report struct {
	URL string // on the loopback interface; "" in the file: no reports; default http://127.0.0.1:9080/api/v1.0/ota/report
}

// Trial says how many boots a version on trial survives unconfirmed, by how the
// boot before them ended, and what a confirmation takes.
type Trial struct {
	// Hard: watchdog reset, panic, reset by the guardian; default 3. Unclean: power cut; default 6,
	// users switch printers off. Clean: reboot or shutdown; default 10.
	bootcheck.BootLimits
	Deadline time.Duration // the required checks must be good by then, counted from the start of the services; default 10m
	Stable   time.Duration // and stay good for this long; default 60s, or Deadline if that is shorter
}

// Check is one [[check]] table. Exactly one of Unit, HTTP and Script is set.
type Check struct {
	Name     string
	Unit     string        // unit that must be active
	HTTP     string        // URL on the loopback interface that must answer 200
	Script   string        // program that must exit 0
	Required bool          // may roll back a version; default true
	Timeout  time.Duration // for one run; default 10s
}

// Metrics says where figures for Prometheus go.
type Metrics struct {
	// File is for node_exporter's textfile collector, and ends in .prom; empty: none.
	// On a file system in memory (below Run, say) nothing of it wears the flash.
	File string
}

// Follow says which server `ota-apply follow` asks what should run.
type Follow struct {
	Source    string   // FollowDDI or FollowChannel; empty (the default): no server is asked
	URL       string   // of the server, https://HOST or with a path before /TENANT; of a channel, its file; a proxy and authorities as for downloads
	Tenant    string   // default "DEFAULT", hawkBit's
	DeviceID  string   // the name of the device at the server; empty (the default): /etc/machine-id
	TokenFile string   // one line, "TargetToken X", "GatewayToken X" or X; mode 0600; default "follow-token" beside the configuration
	Parts     []string // the types of software module (chunk "part") that hold a bundle; default ["bApp"], hawkBit's "application"
}

// FollowDDI is the Source of an Eclipse hawkBit server, or of another with its device
// API (DDI).
const FollowDDI = "ddi"

// FollowChannel is the Source of a signed file, NAME.channel, on any web server.
const FollowChannel = "channel"

// Default is the configuration of a device whose file, at path, says nothing.
func Default(path string) *Config {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	dir := filepath.Dir(path)
	return &Config{
		Root:     "/opt/tope/versions",
		Spool:    "/opt/tope/versions/.spool",
		Keys:     []string{filepath.Join(dir, "keys")},
		Services: []string{"device-api.service"},
		Keep:     2,
		Reserve:  64 << 20,
		Run:      "/run/ota",
		Reuse:    ReuseAuto,

		CA:               []string{},
		DownloadDeadline: 24 * time.Hour,

		Report: Report{URL: "http://127.0.0.1:9080/api/v1.0/ota/report"},
		Trial: Trial{
			// 3: systemd's own example, docs/AUTOMATIC_BOOT_ASSESSMENT.md
			BootLimits: bootcheck.BootLimits{Hard: 3, Unclean: 6, Clean: 10},
			Deadline:   10 * time.Minute,
			Stable:     time.Minute,
		},
		Checks: []Check{{
			Name: "device-api answers", HTTP: "http://127.0.0.1:9080/health", Required: true, Timeout: defaultTimeout,
		}},
		ChecksDir: filepath.Join(dir, "checks.d"),
		Follow:    Follow{Tenant: "DEFAULT", TokenFile: filepath.Join(dir, "follow-token"), Parts: []string{"bApp"}},
		Path:      path,
	}
}

// IsDefault reports whether check stands in Checks because the file names none.
func (c *Config) IsDefault(check Check) bool {
	return c.from["check"] == "" && check == Default(c.Path).Checks[0]
}

// defaultTimeout is how long one run of a check may take.
const defaultTimeout = 10 * time.Second

// SetRoot moves the store to dir, for --root. The spool goes with it unless the
// file says where the spool is.
func (c *Config) SetRoot(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	c.Root = abs
	if c.from == nil {
		c.from = make(map[string]string)
	}
	if c.from["root"] = "--root"; c.from["spool"] == "" {
		c.Spool = filepath.Join(abs, ".spool")
	}
	return nil
}
