package applier

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
)

// sboms prints what the versions are made of, as far as they say so in bootcheck.SBOMPath:
// in words a line each, with asJSON the object of list with the whole documents. One that
// cannot be read, or is not what was signed, is told by the error; the others are printed.
func (a *applier) sboms(versions []bootcheck.VersionStatus, asJSON bool) error {
	type version struct {
		bootcheck.VersionStatus
		SBOM json.RawMessage `json:"sbom"`
	}
	all := make([]version, len(versions))
	rows := [][]string{{"VERSION", "SBOM", "COMPONENTS", "FILE"}}
	var errs []error
	for i, v := range slices.Backward(versions) {
		text, name, err := a.sbom(v.Version)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read the SBOM of version %s: %w", v.Version, err))
		}
		all[i] = version{v, text}
		row := []string{v.Version, "-", "-", "-"}
		if text != nil {
			row = append(append(row[:1], summary(text)...), name)
		}
		rows = append(rows, row)
	}
	if asJSON {
		errs = append(errs, bootcheck.WriteJSON(a.out, map[string]any{"schema": bootcheck.OutputSchema, "versions": all}))
	} else {
		bootcheck.Table(a.out, rows)
	}
	return errors.Join(errs...)
}

// sbom is the SBOM of version, in the file name; nil: it has none, or no manifest that can
// be used, which list says.
func (a *applier) sbom(version string) (text json.RawMessage, name string, err error) {
	snapshot, err := a.store.Snapshot(version)
	if err != nil {
		return nil, "", nil
	}
	for _, e := range snapshot.Manifest.Entries {
		if e.Path != bootcheck.SBOMPath || e.Type != bootcheck.TypeFile {
			continue
		}
		text, err = bootcheck.ReadSnapshotFile(snapshot.Dir, e.Path, bootcheck.MaxSBOM)
		if sum := sha256.Sum256(text); err == nil && hex.EncodeToString(sum[:]) != e.SHA256 {
			err = bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "%s: sha256 %x, want %s", e.Path, sum, e.SHA256)
		} else if err == nil && !json.Valid(text) {
			err = fmt.Errorf("%s is not JSON", e.Path)
		}
		if err != nil {
			text = nil
		}
		return text, filepath.Join(snapshot.Dir, e.Path), err
	}
	return nil, "", nil
}

// summary is the format of an SBOM, and how many components it has.
func summary(text []byte) []string {
	var bill struct {
		Format     string     `json:"bomFormat"`
		Version    string     `json:"specVersion"`
		SPDX       string     `json:"spdxVersion"`
		Components []struct{} `json:"components"` // of CycloneDX
		Packages   []struct{} `json:"packages"`   // of SPDX 2
	}
	if json.Unmarshal(text, &bill) != nil || bill.Format+bill.SPDX == "" {
		return []string{"JSON", "-"}
	}
	format := bill.Format + " " + bill.Version
	return []string{bootcheck.OneLine(cmp.Or(bill.SPDX, format)), fmt.Sprint(len(bill.Components) + len(bill.Packages))}
}
