package metrics

import (
	"cmp"
	"encoding/json"
	"path/filepath"

	"github.com/tope-ota/ota/bootcheck"
)

// installsName is the file of the store that remembers how installs ended. A record
// would not do: most installs that fail change nothing that a generation has.
const installsName = ".installs.json"

func (d *Publisher) installsFile() string { return filepath.Join(d.store.Dir(), installsName) }

// installs are the installs of this device since figures were asked for.
type installs struct {
	Results    map[string]uint64 `json:"results"`          // how many ended with each Result
	Downloaded uint64            `json:"downloaded_bytes"` // by all of them
	Last       *Install          `json:"last,omitempty"`   // nil: there was none
}

// An Install is how one install or activation went.
type Install struct {
	Version    string             `json:"version"` // empty: it was not found out
	Result     string             `json:"result"`  // Success, or a Code of package bootcheck
	Exit       bootcheck.ExitCode `json:"exit"`
	Ended      int64              `json:"ended"`            // Unix time, seconds
	Downloaded uint64             `json:"downloaded_bytes"` // that arrived, those thrown away included
	Resumes    int                `json:"resumes"`          // how often the download continued from where it had broken off
	Seconds    map[string]float64 `json:"seconds"`          // by stage, see stages
}

// Success is the Result of an install that exits with 0.
const Success = "success"

// StageTrial is the stage of an Install that is no stage of a report: it waits for
// the guardian to decide.
const StageTrial = "judging"

// stages that take time: verified while it is unpacked, a version is in the others
// of a report's for no time at all.
var stages = []string{"downloading", "verifying", "installing", "rebooting", StageTrial}

var results = []string{Success,
	bootcheck.CodeDownloadFailed, bootcheck.CodeAddressExpired, bootcheck.CodeSizeMismatch, bootcheck.CodeHashMismatch, bootcheck.CodeSignatureInvalid,
	bootcheck.CodeInvalidManifest, bootcheck.CodeDiskFull, bootcheck.CodeDeploymentFailed,
	bootcheck.CodeRolledToPrevious, bootcheck.CodeRolledToFactory, bootcheck.CodeRollbackFailed}

// Ended counts an install that ended, and publishes that.
func (d *Publisher) Ended(last Install) error {
	if !d.on() {
		return d.Publish()
	}
	return d.locked(func() error {
		all := readInstalls(d.installsFile())
		all.Results[last.Result]++
		all.Downloaded += last.Downloaded
		all.Last = &last
		data, err := json.Marshal(all)
		if err == nil {
			err = bootcheck.ReplaceFile(d.installsFile(), append(data, '\n'), 0o644, true)
		}
		return cmp.Or(err, d.publish())
	})
}

// readInstalls reads what Ended wrote. What cannot be understood is none: then the
// counters begin again, which Prometheus takes for a counter reset.
func readInstalls(name string) *installs {
	all := &installs{}
	if data, err := bootcheck.ReadRegular(name, 64<<10); err != nil || json.Unmarshal(data, all) != nil || all.Results == nil {
		return &installs{Results: make(map[string]uint64)}
	}
	return all
}
