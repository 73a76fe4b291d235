package applier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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
