package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// A link carries all bytes, and never faster than its rate and its round trips allow.
func TestLink(t *testing.T) {
	defer try.Fatal(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 250e3/16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(body) }))
	defer server.Close()
	const trip = 50 * time.Millisecond
	k := newLink(strings.TrimPrefix(server.URL, "http://"), 20e6, trip)
	defer k.Close()
	began := time.Now()
	answer := try.Get(http.Get("http://" + k.Addr().String()))
	got := try.Get(io.ReadAll(answer.Body))
	answer.Body.Close()
	if took := time.Since(began); took < 2*trip+95*time.Millisecond {
		t.Errorf("250 kB took %v, want 100 ms at 20 Mbit/s and two round trips", took)
	}
	if !bytes.Equal(got, body) {
		t.Errorf("got %d bytes, want the %d that were sent", len(got), len(body))
	}
}
