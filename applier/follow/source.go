package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/bootcheck"
)

// A Source is a server that says what should run. Its methods do not try again by
// themselves; an error may be a *StatusError.
type Source interface {
	// Name is the address of the device at the server, without secrets. Actions of one
	// name mean nothing to another.
	Name() string
	// Ask asks what should run. memory is that of the newest Answer that had one, perhaps of
	// a process before, or of another source; nil: there was none.
	Ask(ctx context.Context, memory json.RawMessage) (*Answer, error)
	// Tell delivers m. The error is ErrUnwanted if the server will never take it.
	Tell(ctx context.Context, m *Message) error
	// Attributes tells the server what the device is and runs. installed is what the
	// server calls the current version; nil: it is not known.
	Attributes(ctx context.Context, a Attributes, installed *Installed) error
}

// Errors of a Source.
var (
	// ErrUnwanted: the server will never take that message, so it is dropped.
	ErrUnwanted = errors.New("not wanted")
	// ErrDenied: an operator has to do something at the server or to the token before
	// another poll can succeed, so the next one is a long time away.
	ErrDenied = errors.New("denied")
)

// A StatusError is an answer that is none of 2xx.
type StatusError struct {
	Code  int
	After time.Duration // of Retry-After; 0: none
	Kind  error         // ErrUnwanted, ErrDenied, another of the source, or nil: it may pass
}

// NewStatusError is resp as an error that may pass.
func NewStatusError(resp *http.Response) *StatusError {
	return &StatusError{Code: resp.StatusCode, After: min(fetch.RetryAfter(resp.Header), 7*24*time.Hour)}
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Code, http.StatusText(e.Code))
}
func (e *StatusError) Unwrap() error { return e.Kind }

// Send sends req and reads the answer, at most max bytes and one more. Whether its status is
// the right one is for the caller to say. An error has ExitDownloadFailed, and the hint of a
// file of the configuration that cannot be used.
func Send(client *http.Client, req *http.Request, max int64) (resp *http.Response, body []byte, err error) {
	if resp, err = client.Do(req); err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(io.LimitReader(resp.Body, max+1)) // to its end, so that the connection serves again
		if resp.StatusCode/100 != 2 {
			err = nil // what it says is not needed
		}
	}
	if err != nil {
		return nil, nil, bootcheck.Errorf(bootcheck.ExitDownloadFailed, "", "%w", fetch.Reason(err)).WithAdvice("%s", bootcheck.Advice(err))
	}
	return resp, body, nil
}

// An Answer is what a server says to a poll.
type Answer struct {
	Sleep      time.Duration // until the next poll; 0: the server does not say, or nothing usable
	Orders     []Order
	Attributes bool // the server asks for the attributes

	// Exact: Sleep is not varied, as it differs between devices already.
	Exact bool
	// UnchangedDays is how many days of power the server has said the same; nil: not counted.
	UnchangedDays *int
	// Memory is what the source must not forget: it is on the disk before an order is taken.
	// nil: nothing new.
	Memory json.RawMessage
}

// A Kind is what an order asks for.
type Kind int

// Kinds of orders.
const (
	KindInstall Kind = iota // run a version
	KindConfirm             // say whether Action may become an install
	KindCancel              // stop Action
)

// An Order is what a server asks for.
type Order struct {
	Kind    Kind
	Action  string   // the server's name of it, opaque; of a cancel, that of the install to stop
	Cancel  string   // of a cancel: its own name
	Name    string   // what the server calls the software
	Version string   // what the server calls its version; the bundle says the one that counts
	URL     string   // of the bundle
	Content string   // the same for the same bundle, see Done; empty: not known
	Mirrors []string // further addresses of the same bundle; the tries go round
	// Manifest is the digest of the manifest, sha256:HEX: no other bundle is taken. Empty: any
	// that an install takes.
	Manifest string
	Problem  string // why this device cannot do it; empty: it can try

	Stage    bool   // it may be downloaded now
	Activate bool   // it may be activated now
	Forced   bool   // an inhibitor does not hold it
	Why      string // why Activate is false
}

// An Outcome is what a message says.
type Outcome string

// Outcomes. The first two are sent once and may be lost; the others are kept until the
// server has them.
const (
	Proceeding Outcome = "proceeding"
	Resumed    Outcome = "resumed"
	Downloaded Outcome = "downloaded" // it is in the store; the action continues
	Done       Outcome = "done"       // confirmed
	Failed     Outcome = "failed"
	Cancelled  Outcome = "cancelled" // the cancel was obeyed
	Rejected   Outcome = "rejected"  // the cancel was not
	Confirmed  Outcome = "confirmed" // of KindConfirm
	Denied     Outcome = "denied"
)

// A Message is what a server is told of an action.
type Message struct {
	Action  string   `json:"action"`
	Cancel  string   `json:"cancel,omitempty"` // with Cancelled and Rejected
	Outcome Outcome  `json:"outcome"`
	Code    int      `json:"code"` // an exit code of ota-apply
	Percent int      `json:"percent,omitempty"`
	Details []string `json:"details"`
}

// Bounds of a message: hawkBit takes 50 details, and 1000 messages an action.
const (
	maxDetails  = 50
	maxDetail   = 500 // bytes
	maxProgress = 36  // messages an action that are not its end
)

// Installed is what the server calls a version that was confirmed.
type Installed struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest,omitempty"` // of the version
}
