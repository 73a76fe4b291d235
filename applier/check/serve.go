// Package check carries out the health checks that need the network or start a
// program, and sends the reports of the guardian to device-api. It runs in
// ota-health@.service, which can do both and cannot write the store; see
// health.Socket for its clients.
//
//	serve.go   one request, one answer
//	http.go    an address answers
//	script.go  a program agrees
package check

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
)

// readLimit bounds how long a client takes to write its request, or to read the
// answer.
const readLimit = 10 * time.Second

// Serve carries out the request on conn and writes the answer. The end of the
// connection ends the request.
func Serve(ctx context.Context, conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(readLimit))
	line, err := bufio.NewReader(io.LimitReader(conn, health.MaxLine)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("cannot read a request: %w", err)
	}
	var r health.Request
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("cannot read a request: %w", err)
	}
	conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		conn.Read(make([]byte, 1))
		cancel()
	}()
	answer := Do(ctx, r)
	if ctx.Err() != nil {
		return nil // its caller is gone
	}
	line, err = json.Marshal(answer)
	if err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(readLimit))
	_, err = conn.Write(append(line, '\n'))
	return err
}

// Do carries out r. It returns when r is done, its time is over or ctx ended.
func Do(ctx context.Context, r health.Request) health.Answer {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	var a health.Answer
	switch {
	case r.HTTP != "":
		a = address(ctx, r.HTTP, r.Version)
	case filepath.IsAbs(r.Script):
		a = script(ctx, r.Script, r.Version)
	case r.Report != "":
		a = report(ctx, r.Report, r.Body)
	default:
		a = health.Answer{Error: "nothing is asked for", CannotRun: true}
	}
	a.Late = a.Error != "" && errors.Is(ctx.Err(), context.DeadlineExceeded)
	// What a version says is in it, and the answer is one line of limited length.
	a.Error, a.Note = health.OneLine(a.Error), health.OneLine(a.Note)
	a.Output = bootcheck.Printable(a.Output)
	return a
}
