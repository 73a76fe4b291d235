// Package watchdog is what the hardware watchdog says of itself, which PID 1 owns:
// nothing here opens it, since that arms it.
package watchdog

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// Device is the hardware watchdog that PID 1 owns.
const Device = "/sys/class/watchdog/watchdog0"

// CardReset is the bit of a watchdog's bootstatus that says it reset the
// machine: WDIOF_CARDRESET, linux/watchdog.h.
const CardReset = 0x20

// Warning compares the hardware watchdog at device with what systemd was asked for
// (RuntimeWatchdogSec=; 0: nothing). Empty: it is as it should be. A device that
// cannot do a time-out gets none at all, and nothing but its state tells.
func Warning(device string, asked time.Duration) string {
	if asked == 0 {
		return ""
	}
	if _, err := os.Stat(device); err != nil {
		return fmt.Sprintf("systemd was asked for a hardware watchdog of %s and there is none", asked)
	}
	name := "the hardware watchdog"
	if identity := Value(device, "identity"); identity != "" {
		name += " (" + identity + ")"
	}
	if state := Value(device, "state"); state != "" && state != "active" {
		return fmt.Sprintf("%s is %s: it may not be able to do the %s that systemd was asked for", name, state, asked)
	}
	seconds, err := strconv.Atoi(Value(device, "timeout"))
	if err != nil {
		return "" // this driver does not say
	}
	if given := time.Duration(seconds) * time.Second; given < asked {
		return fmt.Sprintf("%s gives %s, systemd was asked for %s", name, given, asked)
	}
	return ""
}

// bootStatus are the bits of a watchdog's bootstatus in words: WDIOF_* of
// linux/watchdog.h. Those that are left out say what a device can do and not why
// a boot ended.
var bootStatus = []struct {
	bit  uint64
	word string
}{
	{CardReset, "the watchdog reset the machine"},
	{0x01, "it was too hot"},                  // WDIOF_OVERHEAT
	{0x02, "a fan failed"},                    // WDIOF_FANFAULT
	{0x04, "external relay 1"},                // WDIOF_EXTERN1
	{0x08, "external relay 2"},                // WDIOF_EXTERN2
	{0x10, "the supply voltage was too low"},  // WDIOF_POWERUNDER
	{0x40, "the supply voltage was too high"}, // WDIOF_POWEROVER
}

// Words says in one clause why the last boot ended, as far as a
// watchdog's bootstatus tells; empty: it does not.
func Words(status uint64) string {
	var words []string
	for _, b := range bootStatus {
		if status&b.bit != 0 {
			words = append(words, b.word)
		}
	}
	return strings.Join(words, ", ")
}

// Value is one of the files of a device, without what is not printable; empty: it
// does not say.
func Value(device, name string) string {
	data, err := os.ReadFile(filepath.Join(device, name))
	if err != nil {
		return ""
	}
	return bootcheck.OneLine(string(data))
}
