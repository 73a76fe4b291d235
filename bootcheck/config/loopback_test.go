package config

import (
	"strings"
	"testing"
)

func TestLoopback(t *testing.T) {
	for _, good := range []string{
		"http://127.0.0.1:9080/health", "http://127.0.0.1", "http://127.255.1.2:1/", "http://[::1]:80/x?y",
		"http://localhost:65535", "HTTP://LOCALHOST/",
	} {
		if addrs, err := Loopback(good); err != nil || len(addrs) == 0 {
			t.Errorf("Loopback(%q) = %v, %v", good, addrs, err)
		}
	}
	for _, bad := range []string{
		"", "127.0.0.1:80", "/health", "http:127.0.0.1", "http:///health", "https://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/",
		"unix:///run/x", "http://169.254.169.254/", "http://10.0.0.1/", "http://0.0.0.0/", "http://[::]/",
		"http://[::ffff:127.0.0.1]/", "http://[::1%25lo]/", "http://2130706433/", "http://127.1/", "http://0x7f.0.0.1/", "http://0177.0.0.1/",
		"http://example.com/", "http://localhost.example.com/", "http://127.0.0.1.example.com/", "http://localhost./",
		"http://u:p@127.0.0.1/", "http://127.0.0.1@example.com/", "http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:x/",
		"http://127.0.0.1/\r\nHost: evil", "http://127.0.0.1 evil/", "http://127.0.0.1:80\n/", "http://127.0.0.1/x?q=a b", "http://127.0.0.1/?ü",
	} {
		if _, err := Loopback(bad); err == nil {
			t.Errorf("Loopback(%q): no error, want a refusal", bad)
		} else if !strings.Contains(err.Error(), "cannot use") || strings.Contains(err.Error(), "\n") {
			t.Errorf("Loopback(%q) = %v, want one line that says what cannot be used", bad, err)
		}
	}
}
