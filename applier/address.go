package applier

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// An address can hold a secret: a password, or the signature that opens a presigned
// one. Every user of the device can read command lines (/proc/PID/cmdline). So
// install also reads its address from stdin or from a file.

// maxAddress bounds what is read, bytes.
const maxAddress = 60 << 10

// fromStdin is the address that says: read it from stdin.
const fromStdin = "-"

// readAddress returns what install has to install: c.arg, or the first line of
// stdin or of the file of --url-file.
func (c *command) readAddress(ctx context.Context) (string, error) {
	if c.urlFile == "" && c.arg != fromStdin {
		return c.arg, nil
	}
	type answer struct {
		address string
		err     error
	}
	read := make(chan answer, 1)
	go func() { // stdin can be a terminal, the file a FIFO
		name, f := "stdin", os.Stdin
		if c.urlFile != "" {
			name = fmt.Sprintf("%q", c.urlFile)
			var err error
			if f, err = os.Open(c.urlFile); err != nil {
				read <- answer{err: fmt.Errorf("cannot read the address: %w", err)}
				return
			}
			defer f.Close()
		}
		address, err := addressLine(f)
		if err != nil {
			err = bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, "cannot read the address from %s: %w", name, err)
		}
		read <- answer{address, err}
	}()
	select {
	case a := <-read:
		return a.address, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// addressLine reads the line with the address, and no more: the other end can stay
// open. Its errors show nothing of what it read.
func addressLine(r io.Reader) (string, error) {
	text, err := bufio.NewReader(io.LimitReader(r, maxAddress+1)).ReadString('\n')
	address := strings.TrimSpace(text)
	switch {
	case err != nil && err != io.EOF:
		return "", err
	case len(text) > maxAddress:
		return "", fmt.Errorf("it is longer than %d bytes", maxAddress)
	case !strings.HasPrefix(address, "/") && !strings.Contains(address, "://"):
		// Of another file this is no address, and an error that quotes it tells a secret.
		return "", errors.New("its first line is neither an address nor an absolute path")
	}
	return address, nil
}

// addressFrom returns the address that command, of sh, prints. It runs as the caller's user, never
// in installUnit, whose sandbox is not for it. Its stderr is ours.
func addressFrom(ctx context.Context, command string, stderr io.Writer) (string, error) {
	ctx, stop := context.WithTimeoutCause(ctx, time.Minute, errors.New("it does not end within a minute"))
	defer stop()
	var out firstBytes
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, stderr, time.Second
	// One that leaves a program behind, which holds stdout, has ended all the same.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeDownloadFailed,
			"the command of --url-from gives no address: %w", cmp.Or(context.Cause(ctx), err)).
			WithAdvice("run it by hand, as root, and see what it prints")
	}
	address, err := addressLine(&out.Buffer)
	if err != nil || !isHTTP(address) {
		return "", bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed,
			"the first line that the command of --url-from prints does not begin with http:// or https://")
	}
	return address, nil
}

// firstBytes keeps as much of what is written as addressLine looks at.
type firstBytes struct{ bytes.Buffer }

func (b *firstBytes) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), maxAddress+1-b.Len())])
	return len(p), nil
}

func isHTTP(address string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(address), "://")
	return scheme == "http" || scheme == "https"
}
