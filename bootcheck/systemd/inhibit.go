package systemd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// inhibitors is where logind keeps a file for each lock.
const inhibitors = "/run/systemd/inhibit"

// Inhibited is the reason of a program that holds a shutdown back, as `systemd-inhibit` does;
// empty: none does, or there is no logind. Locks that only delay a shutdown do not count.
// While logind does not say which locks there are, the error does.
func Inhibited(ctx context.Context) (why string, err error) {
	// Without a lock nothing is asked: this is called every few seconds.
	if files, err := os.ReadDir(inhibitors); errors.Is(err, fs.ErrNotExist) || err == nil && len(files) == 0 {
		return "", nil
	} else if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m := &Manager{system: systemBus}
	return m.inhibited(ctx)
}

func (m *Manager) inhibited(ctx context.Context) (why string, err error) {
	const logind, path = "org.freedesktop.login1", "/org/freedesktop/login1"
	err = m.once(ctx, func(b *bus) error {
		// a(ssssuu): what is held back, the holder, why, mode, UID, PID
		answer, err := b.callTo(logind, path, logind+".Manager", "ListInhibitors")
		if err != nil || len(answer) == 0 {
			return err
		}
		all, _ := answer[0].([]any)
		for _, one := range all {
			lock, _ := one.([]any)
			if slices.Contains(strings.Split(str(lock, 0), ":"), "shutdown") && strings.HasPrefix(str(lock, 3), "block") {
				why = str(lock, 1) + ": " + str(lock, 2)
				return nil
			}
		}
		return nil
	})
	return why, err
}
