package deviceapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
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

// Report reads the report. What it cannot read is zero.
func (r Received) Report() Report {
	var p Report
	json.Unmarshal(r.Raw, &p)
	return p
}

// journal is the file of reports, a line each.
type journal struct {
	mu   sync.Mutex
	path string
}

// add appends r. When it returns nil the report survives a power cut.
func (j *journal) add(r Received) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	// The newline comes first: a line that a power cut left half does not swallow
	// the one after it.
	if _, err := f.Write(append([]byte("\n"), line...)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(j.path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// all is every whole report, the oldest first.
func (j *journal) all() ([]Received, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return []Received{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := []Received{}
	for br := bufio.NewReader(f); ; {
		line, err := br.ReadBytes('\n')
		var r Received
		if len(bytes.TrimSpace(line)) > 0 && json.Unmarshal(line, &r) == nil {
			all = append(all, r)
		}
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
