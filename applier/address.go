package applier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// An address can hold a secret: a password, or the signature that opens a presigned
// one. Every user of the device can read command lines (/proc/PID/cmdline) and the
// properties of units (`systemctl show`). So install also reads its address, from
// stdin or from a file, and hands it to its unit through a pipe.

// maxAddress bounds what is read or handed over, bytes. A pipe takes 64 KiB before
// it is read.
const maxAddress = 60 << 10

// fromStdin is the address that says: read it from stdin.
const fromStdin = "-"

// proxyVariables are those of the environment that a download reads. They can hold
// a password, too.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

// readAddress returns what install has to install: c.arg, or the first line of
// stdin or of the file of --url-file. In the unit, what stdin says of the
// environment is put there.
func (c *command) readAddress(ctx context.Context) (string, error) {
	if c.urlFile == "" && c.arg != fromStdin {
		return c.arg, nil
	}
	type answer struct {
		lines []string
		err   error
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
		lines, err := addressLines(f, os.Getenv(inUnit) != "" && c.urlFile == "")
		if err != nil {
			err = bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, "cannot read the address from %s: %w", name, err)
		}
		read <- answer{lines, err}
	}()
	select {
	case a := <-read:
		if a.err != nil {
			return "", a.err
		}
		for _, line := range a.lines[1:] {
			if name, value, _ := strings.Cut(line, "="); slices.Contains(proxyVariables, name) {
				os.Setenv(name, value)
			}
		}
		return a.lines[0], nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// addressLines reads the line with the address, which a human may have written, or
// all that hand wrote. Its errors show nothing of what it read.
func addressLines(r io.Reader, handed bool) (lines []string, err error) {
	r = io.LimitReader(r, maxAddress+1)
	var text string
	if handed {
		var all []byte
		all, err = io.ReadAll(r)
		text = string(all)
		lines = strings.Split(text, "\n")
	} else {
		// No more than that line: the other end can stay open.
		if text, err = bufio.NewReader(r).ReadString('\n'); err == io.EOF {
			err = nil
		}
		lines = []string{strings.TrimSpace(text)}
	}
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxAddress:
		return nil, fmt.Errorf("it is longer than %d bytes", maxAddress)
	case !strings.HasPrefix(lines[0], "/") && !strings.Contains(lines[0], "://"):
		// Of another file this is no address, and an error that quotes it tells a secret.
		return nil, errors.New("its first line is neither an address nor an absolute path")
	}
	return lines, nil
}

// hand returns a pipe from which readAddress in another process reads address, and
// the proxies of the environment.
func hand(address string) (*os.File, error) {
	if strings.Contains(address, "\n") {
		return nil, bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, "the address has more than one line")
	}
	text := address + "\n"
	for _, name := range proxyVariables {
		if v := os.Getenv(name); v != "" && !strings.Contains(v, "\n") {
			text += name + "=" + v + "\n"
		}
	}
	if len(text) > maxAddress {
		return nil, bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, "the address, with the proxies of the environment, is longer than %d bytes", maxAddress)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.WriteString(text)
	if err = errors.Join(err, w.Close()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
