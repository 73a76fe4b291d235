// Package deviceapi is the application of the test machines: a small real
// device-api that is made in as many versions as a test needs, good and bad.
//
// There is one binary. What version it is and in which way it is bad stands in
// etc/device-api.json of the version's tree, two levels above the binary:
//
//	v1.2.0/bin/device-api        the program
//	v1.2.0/etc/device-api.json   Config
//	v1.2.0/lib/…                 some content and a symbolic link
//
// A running program continues being the version it was started from, also when
// the link `current` changes.
//
// It answers on 127.0.0.1:9080:
//
//	GET  /health                 200 {"status":"ok","version":"1.2.0"}
//	POST /api/v1.0/ota/report    204; 400 for what is no JSON object
package deviceapi

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/integration/try"
)

// Behave is a way in which a version behaves.
type Behave string

const (
	OK           Behave = ""
	Exit         Behave = "exit"               // exits with 1 at its start
	ExitAfter    Behave = "exit-after"         // becomes ready, and exits with 1 After seconds later
	Health500    Behave = "health-500"         // answers /health with 500
	HealthOld    Behave = "health-old-version" // answers /health as if it were OldVersion
	Hang         Behave = "hang"               // becomes ready and then never pings the watchdog; /health is fine
	NeverReady   Behave = "never-ready"        // never tells systemd that it is ready; /health is fine
	NeverAnswers Behave = "never-answers"      // takes connections and never answers /health
	HealthEmpty  Behave = "health-empty"       // takes connections and closes them without an answer to /health
	HealthHuge   Behave = "health-huge"        // answers /health with 1 GB
	NotHTTP      Behave = "not-http"           // answers /health with what is no HTTP
	Redirects    Behave = "redirects"          // sends a client that asks for /health to an address that is well
	WrongPort    Behave = "wrong-port"         // answers, and well, on another port
	DiesAsked    Behave = "dies-asked"         // exits with 1 when it is asked for /health the second time
)

// Config is the content of etc/device-api.json.
type Config struct {
	Version string `json:"version"`
	Behave  Behave `json:"behave,omitempty"`

	// BadIfExists makes a version that turns bad, and good again: while this file
	// exists, the version behaves as BadBehave says.
	// Behave must be OK. A version that is running notices within a second.
	BadIfExists string `json:"bad_if_exists,omitempty"`
	BadBehave   Behave `json:"bad_behave,omitempty"`

	After      float64 `json:"after,omitempty"`       // ExitAfter: seconds from ready to exit
	OldVersion string  `json:"old_version,omitempty"` // HealthOld: what it says
}

// now is how the version behaves at this moment.
func (c *Config) now() Behave {
	if c.BadIfExists == "" {
		return c.Behave
	}
	if _, err := os.Lstat(c.BadIfExists); err != nil {
		return OK
	}
	return c.BadBehave
}

// configOf reads the configuration of the version that holds the binary exe.
func configOf(exe string) (_ *Config, err error) {
	defer try.End(&err)
	path := filepath.Join(filepath.Dir(filepath.Dir(exe)), "etc", "device-api.json")
	text := try.Get(os.ReadFile(path))
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, &fs.PathError{Op: "parse", Path: path, Err: err}
	}
	return &c, nil
}
