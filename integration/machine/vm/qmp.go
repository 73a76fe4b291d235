package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// qmp is QEMU's control connection (docs/interop/qmp-spec.rst of QEMU).
type qmp struct {
	conn    net.Conn
	onEvent func(name string, data json.RawMessage)
	closed  chan struct{}

	mu    sync.Mutex
	next  int
	calls map[int]chan qmpMessage
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class, Desc string
	} `json:"error"`
	ID    int             `json:"id"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

var errQMPClosed = errors.New("QEMU closed its control connection")

// newQMP takes over conn. onEvent is called by the reader: it must not call back.
func newQMP(conn net.Conn, onEvent func(string, json.RawMessage)) *qmp {
	q := &qmp{conn: conn, onEvent: onEvent, closed: make(chan struct{}), calls: make(map[int]chan qmpMessage)}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.closed)
	for dec := json.NewDecoder(q.conn); ; {
		var m qmpMessage
		if err := dec.Decode(&m); err != nil {
			return
		}
		switch {
		case m.Event != "":
			q.onEvent(m.Event, m.Data)
		case m.ID != 0:
			q.mu.Lock()
			answer := q.calls[m.ID]
			delete(q.calls, m.ID)
			q.mu.Unlock()
			if answer != nil {
				answer <- m
			}
		}
	}
}

// call carries out a command and puts what it returns into result, if not nil.
// The first command of a connection has to be qmp_capabilities.
func (q *qmp) call(ctx context.Context, command string, args, result any) error {
	answer := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.next++
	id := q.next
	q.calls[id] = answer
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, args, id})
	if err == nil {
		_, err = q.conn.Write(append(line, '\n'))
	}
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("QMP %s: %s: %s", command, m.Error.Class, m.Error.Desc)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Return, result)
	case <-q.closed:
		return fmt.Errorf("QMP %s: %w", command, errQMPClosed)
	case <-ctx.Done():
		return fmt.Errorf("waited for QEMU's answer to %s: %w", command, ctx.Err())
	}
}
