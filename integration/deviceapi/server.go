package deviceapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/tope-ota/ota/integration/try"
)

// maxReport limits a report, in bytes; the updater's are below 1 KiB.
const maxReport = 64 << 10

// Main is the program. It returns the exit code when ctx ends (0) or when it
// cannot, or is not meant to, continue (1).
func Main(ctx context.Context, stderr io.Writer) int {
	if err := serve(ctx, stderr); err != nil {
		fmt.Fprintln(stderr, "device-api:", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, stderr io.Writer) (err error) {
	defer try.End(&err)
	c := try.Get(configOf(try.Get(os.Executable())))
	s := &server{config: c, journal: journal{path: State + "/reports.jsonl"}, stderr: stderr, dies: make(chan error, 1)}
	return s.run(ctx)
}

type server struct {
	config  *Config
	journal journal
	stderr  io.Writer
	asked   atomic.Int32 // for /health
	dies    chan error   // why run must end
}

var errMeant = errors.New("exits because it is meant to")

func (s *server) run(ctx context.Context) (err error) {
	defer try.End(&err)
	addr := "127.0.0.1:9080"
	if s.config.now() == Exit {
		return errMeant
	}
	if s.config.now() == WrongPort {
		addr = "127.0.0.1:0"
	}
	l := try.Get(net.Listen("tcp", addr))
	fmt.Fprintf(s.stderr, "device-api %s answers on %s\n", s.config.Version, l.Addr())
	web := &http.Server{Handler: s.handler(), BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- web.Serve(l) }()
	defer web.Close()

	watchdog := try.Get(daemon.SdWatchdogEnabled(false))
	tick := time.NewTicker(beat(watchdog))
	defer tick.Stop()
	ready := false
	for start := time.Now(); ; {
		switch b := s.config.now(); {
		case b == Exit, b == ExitAfter && time.Since(start).Seconds() >= s.config.After:
			return errMeant
		case !ready && b != NeverReady:
			try.Check(notify(daemon.SdNotifyReady + "\nSTATUS=version " + s.config.Version))
			ready = true
		case watchdog > 0 && b != Hang:
			try.Check(notify(daemon.SdNotifyWatchdog))
		}
		select {
		case err := <-served:
			return err
		case err := <-s.dies:
			return err
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// beat is how often the loop goes round: often enough for a version to turn bad
// within a second, and four times in what systemd waits for a ping.
func beat(watchdog time.Duration) time.Duration {
	if watchdog > 0 {
		return min(watchdog/4, 500*time.Millisecond)
	}
	return 500 * time.Millisecond
}

func notify(state string) error {
	_, err := daemon.SdNotify(false, state) // without systemd there is no socket
	return err
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]string{"status": "ok", "version": s.config.Version}
		code := http.StatusOK
		asked := s.asked.Add(1)
		switch s.config.now() {
		case DiesAsked:
			if asked == 2 {
				s.dies <- errMeant
				<-r.Context().Done()
				return
			}
		case Redirects:
			http.Redirect(w, r, "/well", http.StatusFound)
			return
		case NeverAnswers:
			<-r.Context().Done()
			return
		case HealthEmpty, NotHTTP:
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			if s.config.now() == NotHTTP {
				fmt.Fprintln(conn, "SSH-2.0-device-api")
			}
			conn.Close()
			return
		case HealthHuge:
			w.Header().Set("Content-Type", "application/json")
			part := bytes.Repeat([]byte(" "), 1<<20)
			for range 1 << 10 {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		case Health500:
			code = http.StatusInternalServerError
			answer["status"] = "error"
		case HealthOld:
			answer["version"] = s.config.OldVersion
		}
		reply(w, code, answer)
	})
	mux.HandleFunc("GET /well", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok", "version": s.config.Version})
	})
	mux.HandleFunc("POST /api/v1.0/ota/report", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
		var object map[string]any
		if err == nil {
			err = json.Unmarshal(body, &object)
		}
		if err != nil || object == nil {
			http.Error(w, fmt.Sprintf("a report is a JSON object: %v", err), http.StatusBadRequest)
			return
		}
		if err := s.journal.add(Received{time.Now(), s.config.Version, body}); err != nil {
			fmt.Fprintln(s.stderr, "device-api: cannot keep a report:", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}
