package scenario

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// asker asks device-api each 10 ms, until the file is gone, and prints when it was
// answered, in microseconds.
const asker = `trap "" PIPE
touch /run/asking
while [ -e /run/asking ]; do
	if { exec 3<>/dev/tcp/127.0.0.1/9080; } 2>/dev/null; then
		printf 'GET /health HTTP/1.0\r\n\r\n' >&3 2>/dev/null
		read -r -t 2 _ code _ <&3 && [ "$code" = 200 ] && echo "${EPOCHREALTIME/./}"
		exec 3>&-
	fi
	read -r -t 0.01 <>/dev/zero 2>/dev/null || :
done`

// Downtime updates a device n times, and restarts its service n times, while a
// client asks it. For each it says the longest time without an answer.
func Downtime(ctx context.Context, d *machine.Device, n int) (updates, restarts []time.Duration) {
	start(ctx, d, v11)
	for i := range n {
		v := machine.Version{Name: fmt.Sprintf("1.2.%d", i), Release: int64(3 + i)}
		updates = append(updates, longestSilence(ctx, d, func() { try.Check(d.Installs(ctx, v, bootcheck.ExitDone)) }))
		restarts = append(restarts, longestSilence(ctx, d, func() { try.Get(d.Must(ctx, "systemctl", "restart", "device-api.service")) }))
	}
	return updates, restarts
}

// longestSilence is how long device-api gave no answer at most while do ran.
func longestSilence(ctx context.Context, d *machine.Device, do func()) time.Duration {
	var answers string
	done := make(chan error, 1)
	go func() {
		var err error
		answers, err = d.Must(ctx, "bash", "-c", asker)
		done <- err
	}()
	try.Check(d.WaitShell(ctx, "the client", "[ -e /run/asking ]"))
	time.Sleep(100 * time.Millisecond) // some answers before
	do()
	time.Sleep(100 * time.Millisecond) // and after
	try.Get(d.Must(ctx, "rm", "/run/asking"))
	try.Check(<-done)
	var last, longest int64
	for word := range strings.FieldsSeq(answers) {
		at, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			try.Failf("the client printed %q: %w", word, err)
		}
		if last > 0 {
			longest = max(longest, at-last)
		}
		last = at
	}
	if longest == 0 {
		try.Failf("device-api answered less than twice: %q", answers)
	}
	return time.Duration(longest) * time.Microsecond
}
