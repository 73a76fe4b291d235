package metrics

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// releaseFile is the file of the run directory that tells which version runs.
const releaseFile = "release"

// Release is the content of the release file as things are now.
func (d *Publisher) Release() ([]byte, error) {
	f, err := d.gather()
	if err != nil {
		return nil, err
	}
	return f.releaseText(), nil
}

// publishRelease replaces the file if it would say something else. It makes no
// run directory: systemd makes it for our units (RuntimeDirectory=).
func (d *Publisher) publishRelease(f *facts) error {
	name := filepath.Join(d.cfg.Run, releaseFile)
	text := f.releaseText()
	if is, err := bootcheck.ReadRegular(name, 64<<10); err == nil && bytes.Equal(is, text) {
		return nil
	}
	if err := bootcheck.ReplaceFile(name, text, 0o644, false); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// releaseText is KEY="value" lines that a shell can read (os-release(5)). All keys
// are always there.
func (f *facts) releaseText() []byte {
	r := f.record
	none := &bootcheck.Ref{}
	current, previous, factory := cmp.Or(r.Current, none), cmp.Or(r.Previous, none), cmp.Or(r.Factory, none)
	var b bytes.Buffer
	for _, line := range [][2]string{
		{"VERSION", current.Version},
		{"RELEASE", strconv.FormatInt(f.release, 10)},
		{"DIGEST", current.Digest},
		{"PHASE", string(r.Phase)},
		{"MODEL", f.cfg.Model},
		{"PREVIOUS", previous.Version},
		{"FACTORY", factory.Version},
	} {
		b.WriteString("OTA_" + line[0] + `="` + shellEscape.Replace(strings.ToValidUTF8(line[1], "\uFFFD")) + "\"\n")
	}
	return b.Bytes()
}

// shellEscape is for what stands between double quotes.
var shellEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`", "\n", " ")
