package applier

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// TestHand holds that the process in the unit gets the very address and the proxies,
// and nothing that an address could smuggle in besides.
func TestHand(t *testing.T) {
	for _, name := range proxyVariables {
		t.Setenv(name, "")
	}
	t.Setenv("https_proxy", "http://joe:secret@proxy.example:3128")
	t.Setenv("TOKEN", "x")
	for _, address := range []string{"https://joe:secret@host.example/x?sig=a+b%20c", "/a folder/ with spaces ", "/-", "/\r"} {
		r, err := hand(address)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := addressLines(r, true)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(lines, "|"), address+"|https_proxy=http://joe:secret@proxy.example:3128|"; got != want {
			t.Errorf("hand(%q) gave %q, want %q", address, got, want)
		}
	}
	for _, address := range []string{"http://host.example/\nHTTP_PROXY=http://evil.example", "http://host.example/" + strings.Repeat("x", maxAddress)} {
		if _, err := hand(address); bootcheck.Exit(err) != bootcheck.ExitUsage || strings.Contains(err.Error(), "host.example") {
			t.Errorf("hand(%.30q) = %v, want exit %d without the address", address, err, bootcheck.ExitUsage)
		}
	}
}

// TestAddressLines holds what a human may write, and that a pipe that stays open is
// not waited for.
func TestAddressLines(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"https://host.example/x", "https://host.example/x"},
		{"https://host.example/x\r\nanything", "https://host.example/x"},
		{"  https://host.example/x \n", "https://host.example/x"},
		{"", ""}, {"\n", ""}, {"-\n", ""}, {"root:secret:1", ""}, {strings.Repeat("x", maxAddress+1), ""},
	} {
		lines, err := addressLines(strings.NewReader(row.text), false)
		if (err == nil) != (row.want != "") || err == nil && lines[0] != row.want {
			t.Errorf("addressLines(%.40q) = %.40q, %v, want %q", row.text, lines, err, row.want)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := io.WriteString(w, "https://host.example/x\n"); err != nil {
		t.Fatal(err)
	}
	if lines, err := addressLines(r, false); err != nil || lines[0] != "https://host.example/x" {
		t.Errorf("addressLines of an open pipe = %q, %v", lines, err)
	}
}
