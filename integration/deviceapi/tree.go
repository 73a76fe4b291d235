package deviceapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/integration/try"
)

// Package is what debian.Program builds to get the binary of a Tree.
const Package = "./integration/deviceapi/cmd/device-api"

// Unit is the text of device-api.service.
//
//go:embed device-api.service
var Unit string

// State is the directory of reports.jsonl: beside the version store, because what the
// updater said before a power cut is looked at after it.
const State = "/data/device-api"

// Tree writes an intact version of binary, the program of Package, into the directory dir,
// which it makes, ready for `ota-bundle create --dir`. config is how it behaves, the zero
// value is good. The same arguments give the same bytes. Files are 0644, the binary and the
// directories 0755. Of the files in lib/, shared.dat is the same in each version and
// version.txt is not; payload is that many bytes that do not compress and are different in
// each version, if it is not 0.
func Tree(dir, version string, binary []byte, config Config, payload int) (err error) {
	defer try.End(&err)
	config.Version = version
	text := try.Get(json.MarshalIndent(config, "", "  "))
	files := map[string][]byte{
		"bin/device-api":      binary,
		"etc/device-api.json": append(text, '\n'),
		"lib/version.txt":     []byte(version + "\n"),
		"lib/shared.dat":      bytes.Repeat([]byte("the same in each version\n"), 4<<10),
		"lib/empty":           {},
		"lib/tope/1/core.so":  bytes.Repeat([]byte("core of "+version+"\n"), 1<<10),
	}
	if payload > 0 {
		files["lib/payload"] = noise(version, payload)
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		try.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		mode := os.FileMode(0o644)
		if name == "bin/device-api" {
			mode = 0o755
		}
		try.Check(os.WriteFile(path, data, mode))
		try.Check(os.Chmod(path, mode)) // what the umask took
	}
	link := filepath.Join(dir, "lib", "core.so")
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink("tope/1/core.so", link)
}

// noise is n bytes that depend on seed alone.
func noise(seed string, n int) []byte {
	var key [32]byte
	copy(key[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}
