package deviceapi

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// Received is a report that device-api got.
type Received struct {
	Time    time.Time       `json:"time"`    // when it came, by the guest's clock
	Version string          `json:"version"` // the device-api that received it
	Raw     json.RawMessage `json:"report"`  // as it was sent
}

// Report is what the updater says in a report.
type Report struct {
	Stage    string  `json:"stage"`
	Progress float64 `json:"progress"`
	Message  string  `json:"message"`
	Error    string  `json:"error"`
}

// journal is the file of reports, a line each.
type journal struct {
	mu   sync.Mutex
	path string
}

// add appends r. When it returns nil the report survives a power cut.
func (j *journal) add(r Received) (err error) {
	defer try.End(&err)
	line := try.Get(json.Marshal(r))
	j.mu.Lock()
	defer j.mu.Unlock()
	try.Check(os.MkdirAll(filepath.Dir(j.path), 0o755))
	f := try.Get(os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644))
	defer f.Close()
	// The newline comes first: a line that a power cut left half does not swallow
	// the one after it.
	try.Get(f.Write(append([]byte("\n"), line...)))
	try.Check(f.Sync())
	d := try.Get(os.Open(filepath.Dir(j.path)))
	defer d.Close()
	return d.Sync()
}
