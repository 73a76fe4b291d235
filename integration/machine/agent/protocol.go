// Package agent runs programs and moves files in a test machine, over any
// two-way stream of bytes: a virtio-serial port of a virtual machine, a unix
// socket of a container. [Serve] is the guest's side, [Client] the host's.
//
// Both sides write lines of JSON. A stream of a machine that is reset tears in
// the middle of a line, and what the host wrote before the reset may be read by
// the boot after it. So:
//
//   - Whoever starts begins with an empty line, and a line that cannot be parsed
//     is skipped: the next newline puts both sides in step again.
//   - The guest's agent has a session, a random name made at its start. It says
//     hello with it, unasked at its start and as the answer to each ping. A
//     request names the session it is for and no other session carries it out:
//     a `systemctl reboot` that was still in the pipe does not reboot the next boot.
//   - A new session ends every call of the old one with [ErrGone].
//
// Requests carry an ID and are answered in any order, in pieces of at most
// pieceSize bytes, so that a big file does not block a small command.
package agent

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"sync"
)

const (
	// pieceSize is how much data one line carries, in bytes before base64.
	pieceSize = 48 << 10

	// maxLine ends the patience with a line without an end: more than a piece in
	// base64 with its frame, and than any argument list (128 KiB an argument).
	maxLine = 1 << 20
)

// request is a line from the host to the guest.
type request struct {
	To    string   `json:"to,omitempty"` // session that carries it out; empty only for a ping
	ID    uint64   `json:"id,omitempty"`
	Op    string   `json:"op"`              // ping, exec, write, read, cancel
	Nonce string   `json:"nonce,omitempty"` // ping: comes back in the hello
	Argv  []string `json:"argv,omitempty"`  // exec
	Path  string   `json:"path,omitempty"`  // write, read
	Mode  uint32   `json:"mode,omitempty"`  // write: permission bits of the file
	Data  []byte   `json:"data,omitempty"`  // write: the next piece
	Last  bool     `json:"last,omitempty"`  // write: this piece is the last
}

// reply is a line from the guest to the host.
type reply struct {
	Hello *hello `json:"hello,omitempty"`

	Session string `json:"session,omitempty"`
	ID      uint64 `json:"id,omitempty"`
	Out     []byte `json:"out,omitempty"` // the next piece of a program's stdout, or of a file
	Err     []byte `json:"err,omitempty"` // the next piece of a program's stderr
	Done    *done  `json:"done,omitempty"`
}

type hello struct {
	Session string `json:"session"`
	BootID  string `json:"boot_id"`
	Nonce   string `json:"nonce,omitempty"` // of the ping this answers; empty: unasked
}

// done is the last reply to a request.
type done struct {
	Code  int    `json:"code"`            // of a program
	Error string `json:"error,omitempty"` // why the request could not be carried out; empty: it was
	Errno int    `json:"errno,omitempty"` // of the system call that failed; 0: none did
}

// lineWriter writes whole lines, each by one Write; many may write at once.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) write(v any) error {
	line, err := encode(v)
	if err != nil {
		return err
	}
	return l.writeRaw(line)
}

func (l *lineWriter) writeRaw(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(line)
	return err
}

func encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}

// readLines hands each line that parses as a T to f, skips every other one, and
// returns the error that ended the stream.
func readLines[T any](r io.Reader, f func(T)) error {
	br := bufio.NewReaderSize(r, 128<<10)
	for {
		line, err := readLine(br)
		if err != nil {
			return err
		}
		// A terminal in between, or a kernel that prints to the port, leaves NULs
		// and carriage returns around a line that is otherwise whole.
		line = bytes.Trim(line, "\x00\r\n \t")
		if len(line) == 0 || line[0] != '{' {
			continue
		}
		var v T
		if json.Unmarshal(line, &v) == nil {
			f(v)
		}
	}
}

// readLine reads up to the next newline. A line longer than maxLine is read to
// its end and given as an empty one.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	tooLong := false
	for {
		part, err := br.ReadSlice('\n')
		if !tooLong && len(line)+len(part) > maxLine {
			tooLong, line = true, nil
		}
		if !tooLong {
			line = append(line, part...)
		}
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

func randomName() string { return rand.Text() }
