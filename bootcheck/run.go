package bootcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// The run directory is in memory, so a reboot empties it. Which program writes what there:
//
//	boot-seen             guardian, install   this boot was seen: Boot
//	fallback.json         guardian            why it rolled back, which a full disk had no room for (prepared.go)
//	watching.json         confirm             how far a trial has come: Watching
//	factory-check         guardian, install   what the last look at the factory version found: FactoryCheck
//	progress.json         install             how far it has come: Install
//	install-request.json  install             what it is to do, for its unit (applier/unit.go)
//	follow.json           follow              what a server asks for: Following
//	release               all                 which version is current, for a fleet's tools (package metrics)
//
// No decision reads one of them but the first two.

// keep replaces the file name of run by v in JSON, unless it says the same; run is made if
// it is missing.
func keep(run, name string, v any) (changed bool, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(run, 0o755); err != nil {
		return false, err
	}
	data = append(data, '\n')
	file := filepath.Join(run, name)
	if is, err := ReadRegular(file, maxKept); err == nil && bytes.Equal(is, data) {
		return false, nil
	}
	return true, ReplaceFile(file, data, 0o644, false)
}

// kept reads into v what keep wrote. false: there is no such file, or it cannot be read,
// which is no error. run empty: there is none.
func kept(run, name string, v any) bool {
	data, err := ReadRegular(filepath.Join(run, name), maxKept)
	return run != "" && err == nil && json.Unmarshal(data, v) == nil
}

// forget removes the file name of run, if it is there.
func forget(run, name string) error {
	if err := os.Remove(filepath.Join(run, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// maxKept bounds what is read of such a file, bytes.
const maxKept = 64 << 10

// A FactoryCheck is what the last look at the files of the factory version found in this
// boot.
type FactoryCheck struct {
	Version string `json:"version"`
	Damage  string `json:"damage"` // one line for an operator; empty: every byte is right
}

const factoryCheckFile = "factory-check"

// maxFlag bounds the damage that is kept, bytes. Three paths may be as long.
const maxFlag = 2 << 10

// Keep lets Status and the metrics say what was found until the next boot.
func (c FactoryCheck) Keep(run string) error {
	c.Damage = Clip(OneLine(c.Damage), maxFlag)
	_, err := keep(run, factoryCheckFile, c)
	return err
}

// ReadFactoryCheck is what was found of factory; nil: it was not looked at. factory nil, as
// the record is lost: of any version.
func ReadFactoryCheck(run string, factory *Ref) *FactoryCheck {
	c := new(FactoryCheck)
	if !kept(run, factoryCheckFile, c) || factory != nil && c.Version != factory.Version {
		return nil
	}
	return c
}
