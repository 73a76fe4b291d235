package applier

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/tope-ota/ota/applier/screen"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// A progressServer answers screens, which ask also while device-api is restarted:
//
//	GET /api/v1.0/progress    the install: {"stage","progress","message","error","schema"}
//	GET /                     a page for the device's own screen: package screen
//	GET /api/v1.0/screen      what that page shows
//
// systemd holds the socket (ota-progress.socket, 127.0.0.1:12315), starts the
// program at the first connection, and keeps the connections that come while none
// runs. So the program may end whenever it is not asked, and loses none: it first stops
// accepting, then answers the connections that it has accepted, then ends.
type progressServer struct {
	screen screen.Device
	idle   time.Duration // without a connection, after which serve returns
	limit  time.Duration // for a connection, to ask and to read the answer
	log    io.Writer
}

const (
	progressPath = "/api/v1.0/progress"
	screenPath   = "/api/v1.0/screen"
	pagePath     = "/"
	idleDefault  = 30 * time.Second
	connLimit    = 2 * time.Second
	requestMax   = 8 << 10 // request line and headers, in bytes: what a browser sends is 1 KiB
)

// serveProgress serves the sockets that systemd passed. configErr is what was wrong
// with the configuration: a screen is better served by the defaults than not at all.
func serveProgress(ctx context.Context, cfg *config.Config, configErr error, idle time.Duration, log io.Writer) error {
	s := &progressServer{screen: screen.Device{Root: cfg.Root, Run: cfg.Run}, idle: idle, limit: connLimit, log: log}
	if configErr != nil {
		fmt.Fprintf(log, "ota-apply: %v; looking at %s\n", configErr, s.progressFile())
	}
	listeners, err := passedListeners()
	if err != nil {
		return err
	}
	s.serve(ctx, listeners)
	return nil
}

func (s *progressServer) progressFile() string { return filepath.Join(s.screen.Run, "progress.json") }

// passedListeners are the sockets that systemd passed: of the loopback interface,
// or other hosts could connect.
func passedListeners() ([]net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	if len(listeners) == 0 {
		return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot serve the progress: systemd passed no socket").
			WithAdvice("`systemctl enable --now ota-progress.socket` starts it at the first connection")
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

// serve answers until there was no connection for s.idle or ctx ends, and returns
// when every accepted connection has its answer.
func (s *progressServer) serve(ctx context.Context, listeners []net.Listener) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var answering sync.WaitGroup
	connected, quiet := 0, time.AfterFunc(s.idle, stop)
	server := &http.Server{
		Handler:                      s,
		DisableGeneralOptionsHandler: true,
		ReadTimeout:                  s.limit,
		WriteTimeout:                 s.limit,
		MaxHeaderBytes:               requestMax,
		ErrorLog:                     log.New(s.log, "ota-apply: ", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			switch state {
			case http.StateNew:
				answering.Add(1)
				connected++
				quiet.Stop()
			case http.StateClosed:
				if connected--; connected == 0 {
					quiet.Reset(s.idle)
				}
				answering.Done()
			}
		},
	}
	server.SetKeepAlivesEnabled(false)
	var accepting sync.WaitGroup
	for _, l := range listeners {
		accepting.Go(func() { _ = server.Serve(l) }) // it ends with an error
		defer context.AfterFunc(ctx, func() { l.Close() })()
	}
	// What was accepted is counted by then, and answered. What was not stays in the
	// kernel, for the next run. Not Shutdown: that cuts an unfinished request.
	accepting.Wait()
	answering.Wait()
}

// ServeHTTP answers one request. It changes nothing, and nothing of it is used but its
// method and path, and the language of a request for the page.
func (s *progressServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	refuse := func(status int) { http.Error(w, http.StatusText(status), status) }
	switch {
	case !loopbackHost(req.Host):
		// A page from elsewhere, whose host's name was made to lead here.
		refuse(http.StatusMisdirectedRequest)
	case req.URL.Path != progressPath && req.URL.Path != screenPath && req.URL.Path != pagePath:
		refuse(http.StatusNotFound)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(http.StatusMethodNotAllowed)
	case req.ContentLength != 0:
		refuse(http.StatusRequestEntityTooLarge)
	case req.URL.Path == pagePath:
		screen.ServePage(w, req)
	case req.URL.Path == screenPath:
		answer(w, s.screen.State())
	default:
		answer(w, struct {
			bootcheck.Operation
			Schema int `json:"schema"`
		}{bootcheck.ReadOperation(s.progressFile()), bootcheck.OutputSchema})
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
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
