package follow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// InhibitFile, in the run directory, holds every order that is not forced: the version is
// downloaded and waits. Its first line says why, for status.
const InhibitFile = "inhibit"

// inhibited is why no version may be activated now; empty: one may. A lock of
// systemd-inhibit(1) on the shutdown holds it, too, and what cannot be looked at, which is
// the error of the call.
func (f *Follower) inhibited(ctx context.Context) string {
	name := filepath.Join(f.Run, InhibitFile)
	if _, err := os.Lstat(name); err != nil {
		var why string
		if errors.Is(err, fs.ErrNotExist) {
			why, err = systemd.Inhibited(ctx)
		}
		if err != nil {
			f.result = fmt.Errorf("cannot see what is inhibited: %w", err)
			return f.result.Error()
		}
		if why != "" {
			return "inhibited by " + clip(why, 200)
		}
		return ""
	}
	data, _ := bootcheck.ReadRegular(name, 4<<10)
	line, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if line = clip(line, 200); line == "" {
		return "inhibited by " + name
	}
	return "inhibited: " + line
}
