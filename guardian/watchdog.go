package guardian

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// watchdogDevice is the hardware watchdog that PID 1 owns. A variable for the tests.
var watchdogDevice = "/sys/class/watchdog/watchdog0"

// watchdogWarning compares the hardware watchdog with what systemd was asked for
// (RuntimeWatchdogSec=; 0: nothing). Empty: it is as it should be. A device that
// cannot do a time-out gets none at all, and nothing but its state tells.
func watchdogWarning(asked time.Duration) string {
	if asked == 0 {
		return ""
	}
	if _, err := os.Stat(watchdogDevice); err != nil {
		return fmt.Sprintf("systemd was asked for a hardware watchdog of %s and there is none", asked)
	}
	if state := watchdogValue("state"); state != "" && state != "active" {
		return fmt.Sprintf("the hardware watchdog is %s: it may not be able to do the %s that systemd was asked for", state, asked)
	}
	seconds, err := strconv.Atoi(watchdogValue("timeout"))
	if err != nil {
		return "" // this driver does not say
	}
	if given := time.Duration(seconds) * time.Second; given < asked {
		return fmt.Sprintf("the hardware watchdog gives %s, systemd was asked for %s", given, asked)
	}
	return ""
}

func watchdogValue(name string) string {
	data, err := os.ReadFile(filepath.Join(watchdogDevice, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
