package applier

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// A progressServer answers one question, for a screen that polls while device-api
// is restarted: how does the install get on?
//
//	GET /api/v1.0/progress    {"stage","progress","message","error"}
//
// systemd holds the socket (ota-progress.socket, 127.0.0.1:12315), starts the
// program at the first connection, and keeps the connections that come while none
// runs. So the program may end whenever nobody asks, and loses none: it first stops
// accepting, then answers whoever it has accepted, then ends.
//
// Each connection is for one request, within connLimit and requestMax.
// A request changes nothing, and nothing of it is used but its method and path.
//
// Not net/http's server: with HTTP/2 and all that is 330 KB of the program, and it
// cannot wait for a connection that was accepted and is not yet known to it. Its
// parser, which the client side has linked already, reads the requests.
type progressServer struct {
	file  string        // progress.json
	idle  time.Duration // without a connection, after which serve returns
	limit time.Duration // for a connection, from accept to answer
	logf  func(format string, args ...any)
}

const (
	progressPath = "/api/v1.0/progress"
	idleDefault  = 30 * time.Second

	connLimit  = 2 * time.Second        // for a connection, from accept to answer
	closeLimit = 500 * time.Millisecond // for the client to close it then
	connsMax   = 64                     // at a time; one more, and the oldest that has no answer yet is closed
	requestMax = 8 << 10                // request line and headers, in bytes: what a browser sends is 1 KiB
)

// serveProgress serves the sockets that systemd passed. configErr is what was wrong
// with the configuration: a screen is better served by the defaults than not at all.
func serveProgress(ctx context.Context, cfg *config.Config, configErr error, idle time.Duration, log io.Writer) error {
	s := &progressServer{
		file: filepath.Join(cfg.Run, "progress.json"),
		idle: idle, limit: connLimit,
		logf: func(format string, args ...any) { fmt.Fprintf(log, "ota-apply: "+format+"\n", args...) },
	}
	if configErr != nil {
		s.logf("%v; looking at %s", configErr, s.file)
	}
	listeners, err := passedListeners()
	if err != nil {
		return err
	}
	s.serve(ctx, listeners)
	return nil
}

// passedListeners are the sockets that systemd passed: of the loopback interface,
// or this would be a service for everybody.
func passedListeners() ([]net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	if len(listeners) == 0 {
		return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot serve the progress: systemd passed no socket").
			WithAdvice("`systemctl enable --now ota-progress.socket` starts it when somebody asks")
	}
	for _, l := range listeners {
		if l == nil {
			return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot serve the progress: a socket that was passed is not one that listens for connections").
				WithAdvice("it takes ListenStream= in ota-progress.socket, and Accept=no")
		}
		if addr, ok := l.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
			return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot serve the progress on %s: only the loopback interface is served", l.Addr()).
				WithAdvice("correct ListenStream= in ota-progress.socket")
		}
	}
	return listeners, nil
}

// serve answers until nobody asked for s.idle or ctx ends, and returns when
// everybody who was accepted has an answer.
func (s *progressServer) serve(ctx context.Context, listeners []net.Listener) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	quiet := &quiet{after: s.idle, then: stop}
	quiet.end() // nobody is here yet
	var waiting waiting
	var accepting, answering sync.WaitGroup
	for _, l := range listeners {
		// What was accepted is answered; what was not stays in the kernel, for the
		// next run.
		defer context.AfterFunc(ctx, func() { l.Close() })()
		accepting.Go(func() {
			for ctx.Err() == nil {
				conn, err := l.Accept()
				if err != nil {
					s.failed(ctx, err)
					continue
				}
				quiet.begin()
				waiting.add(conn)
				answering.Go(func() {
					defer quiet.end()
					defer waiting.remove(conn)
					s.answer(conn)
				})
			}
		})
	}
	accepting.Wait()
	answering.Wait()
}

// waiting are the connections that are not answered yet, the oldest first. A client
// that connects and says nothing, however often, keeps nobody else from an answer.
type waiting struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (w *waiting) add(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns = append(w.conns, conn); len(w.conns) > connsMax {
		w.conns[0].Close()
		w.conns = w.conns[1:]
	}
}

func (w *waiting) remove(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = slices.DeleteFunc(w.conns, func(c net.Conn) bool { return c == conn })
}

// failed waits a moment after an error of Accept, of which most pass: no more files
// or memory. If it does not pass, nobody is served, and that ends the program.
func (s *progressServer) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // closed because of that
	}
	s.logf("cannot serve the progress, trying again: %v", err)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

// quiet calls then when nobody has been here for after.
type quiet struct {
	after time.Duration
	then  func()

	mu    sync.Mutex
	here  int
	timer *time.Timer
}

func (q *quiet) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.here++
	q.timer.Stop()
}

func (q *quiet) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.here = max(q.here-1, 0); q.here == 0 {
		if q.timer != nil {
			q.timer.Stop()
		}
		q.timer = time.AfterFunc(q.after, q.then)
	}
}

// answer reads one request from conn, answers it and closes conn.
func (s *progressServer) answer(conn net.Conn) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(s.limit)); err != nil {
		return
	}
	head := &io.LimitedReader{R: conn, N: requestMax}
	req, err := http.ReadRequest(bufio.NewReader(head))
	var reply reply
	switch {
	case err == nil:
		reply = s.reply(req)
	case head.N <= 0:
		reply = refuse(http.StatusRequestHeaderFieldsTooLarge)
	case errors.Is(err, io.EOF) || errors.As(err, new(net.Error)):
		return // it said nothing, or not all of it in time
	default:
		reply = refuse(http.StatusBadRequest)
	}
	if _, err := conn.Write(reply.bytes(req != nil && req.Method == http.MethodHead)); err != nil {
		return
	}
	// A close with something unread would reset the connection, and the client
	// might lose its answer.
	if c, ok := conn.(*net.TCPConn); ok && c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(closeLimit)) == nil {
		io.CopyN(io.Discard, conn, 64<<10)
	}
}

// A reply is all that is ever said.
type reply struct {
	status      int
	contentType string
	body        string
	allow       string
}

func refuse(status int) reply {
	return reply{status: status, contentType: "text/plain; charset=utf-8", body: http.StatusText(status) + "\n"}
}

// reply is what req is answered.
func (s *progressServer) reply(req *http.Request) reply {
	switch {
	case req.ProtoMajor != 1 || req.ProtoAtLeast(1, 1) && req.Host == "":
		return refuse(http.StatusBadRequest)
	case !loopbackHost(req.Host):
		// A page from elsewhere, whose host's name was made to lead here.
		return refuse(http.StatusMisdirectedRequest)
	case req.URL.Path != progressPath:
		return refuse(http.StatusNotFound)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		r := refuse(http.StatusMethodNotAllowed)
		r.allow = "GET, HEAD"
		return r
	case req.ContentLength != 0:
		return refuse(http.StatusRequestEntityTooLarge)
	}
	body, err := json.Marshal(bootcheck.ReadOperation(s.file))
	if err != nil {
		return refuse(http.StatusInternalServerError) // cannot be: strings and a number
	}
	return reply{status: http.StatusOK, contentType: "application/json", body: string(body) + "\n"}
}

// loopbackHost reports whether host, of a request, is this machine's loopback
// interface; empty: a client of HTTP/1.0 names none.
func loopbackHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return host == "" || strings.EqualFold(name, "localhost") || ip != nil && ip.IsLoopback()
}

// bytes are those on the wire.
func (r reply) bytes(headOnly bool) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n",
		r.status, http.StatusText(r.status), r.contentType, len(r.body))
	if r.allow != "" {
		fmt.Fprintf(&b, "Allow: %s\r\n", r.allow)
	}
	b.WriteString("\r\n")
	if !headOnly {
		b.WriteString(r.body)
	}
	return []byte(b.String())
}
