package metricstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/machine/debian"
)

// A server is a real Prometheus, that of Debian, with samples of a time that is over. It
// scrapes nothing: it is written to, and asked what Grafana would ask.
type server struct {
	url    string
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan struct{}
	client *http.Client
}

// startPrometheus starts one with its data in dir, and returns when it answers. Close ends it.
func startPrometheus(ctx context.Context, dir string) (*server, error) {
	tools, err := debian.Tools(ctx, "prometheus")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte("global: {}\n"), 0o644); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, output: new(bytes.Buffer), ended: make(chan struct{}), client: &http.Client{Transport: &http.Transport{}}}
	s.cmd = exec.CommandContext(ctx, filepath.Join(tools, "usr/bin/prometheus"),
		"--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--web.enable-remote-write-receiver",
		// The samples are of long ago, and all of them stay in memory.
		"--storage.tsdb.retention.time=100y", "--storage.tsdb.min-block-duration=4d", "--storage.tsdb.max-block-duration=4d")
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 10 * time.Second
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.cmd.Wait()
		close(s.ended)
	}()
	for {
		response, err := s.client.Get(s.url + "/-/ready")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case <-s.ended:
			return nil, fmt.Errorf("prometheus ended before it was ready:\n%s", s.output)
		case <-ctx.Done():
			s.Close()
			return nil, fmt.Errorf("prometheus did not become ready: %w\n%s", ctx.Err(), s.output)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freeAddress is one on which nobody listens. Somebody else may be faster: then
// Prometheus ends, and says so.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Close ends the server.
func (s *server) Close() {
	s.cmd.Process.Kill() // its data is not needed any more
	<-s.ended
	s.client.CloseIdleConnections()
}

// A result is what a query gives for one set of labels.
type result struct {
	Labels map[string]string
	Points []point // one, of an instant query
}

// query asks for one moment.
func (s *server) query(ctx context.Context, expr string, at time.Time) ([]result, error) {
	return s.ask(ctx, "query", url.Values{"query": {expr}, "time": {stamp(at)}})
}

// queryRange asks for a time, step by step.
func (s *server) queryRange(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]result, error) {
	return s.ask(ctx, "query_range", url.Values{"query": {expr}, "start": {stamp(from)}, "end": {stamp(to)}, "step": {fmt.Sprint(step.Seconds())}})
}

func stamp(t time.Time) string { return fmt.Sprint(t.Unix()) }

func (s *server) ask(ctx context.Context, what string, args url.Values) ([]result, error) {
	request, err := http.NewRequestWithContext(ctx, "GET", s.url+"/api/v1/"+what+"?"+args.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Status, Error string
		Warnings      []string
		Data          struct {
			ResultType string
			Result     []struct {
				Metric map[string]string
				Value  point
				Values []point
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", response.Status, body, err)
	}
	if answer.Status != "success" {
		return nil, errors.New(answer.Error)
	}
	if len(answer.Warnings) > 0 {
		return nil, fmt.Errorf("a warning: %q", answer.Warnings)
	}
	var all []result
	for _, r := range answer.Data.Result {
		if answer.Data.ResultType == "vector" {
			r.Values = []point{r.Value}
		}
		all = append(all, result{Labels: r.Metric, Points: r.Values})
	}
	return all, nil
}

// point is [seconds, "value"].
type point struct {
	At    time.Time
	Value float64
}

func (p *point) UnmarshalJSON(data []byte) error {
	var seconds float64
	var value string
	if err := json.Unmarshal(data, &[]any{&seconds, &value}); err != nil {
		return err
	}
	p.At = time.UnixMilli(int64(seconds * 1000)).UTC()
	_, err := fmt.Sscan(value, &p.Value)
	return err
}
