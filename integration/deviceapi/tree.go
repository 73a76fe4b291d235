package deviceapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
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

// State is the directory in which Unit's device-api keeps reports.jsonl.
const State = "/data/device-api"

// Options say what a Tree is made of.
type Options struct {
	// Binary is the program, from Package.
	Binary []byte

	// Config is how the version behaves; the zero value is good. Its Version is
	// set by Tree.
	Config Config

	// Payload adds lib/payload, that many bytes that do not compress and are
	// different in each version; 0 adds none.
	Payload int
}

// Tree writes an intact version into the directory dir, which it makes, ready for
// `ota-bundle create --dir`. The same arguments give the same bytes. Files are
// 0644, the binary and the directories 0755. Of the files in lib/, shared.dat is the
// same in each version and version.txt is not.
func Tree(dir, version string, o Options) (err error) {
	defer try.End(&err)
	o.Config.Version = version
	if err := o.Config.check(); err != nil {
		return fmt.Errorf("cannot make device-api %s: %w", version, err)
	}
	if len(o.Binary) == 0 {
		return fmt.Errorf("cannot make device-api %s: no binary", version)
	}
	config := try.Get(json.MarshalIndent(o.Config, "", "  "))
	files := map[string][]byte{
		"bin/device-api":      o.Binary,
		"etc/device-api.json": append(config, '\n'),
		"lib/version.txt":     []byte(version + "\n"),
		"lib/shared.dat":      bytes.Repeat([]byte("the same in each version\n"), 4<<10),
		"lib/empty":           {},
		"lib/tope/1/core.so":  bytes.Repeat([]byte("core of "+version+"\n"), 1<<10),
	}
	if o.Payload > 0 {
		files["lib/payload"] = noise(version, o.Payload)
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		try.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		mode := os.FileMode(0o644)
		if name == "bin/device-api" {
			mode = 0o755
		}
		try.Check(os.WriteFile(path, data, mode))
		if err := os.Chmod(path, mode); err != nil { // what the umask took
			return err
		}
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
