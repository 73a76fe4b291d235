package applier

import (
	"io"
	"os"
	"strings"
	"testing"
)

// TestAddressLine holds what a human may write, and that a pipe that stays open is
// not waited for.
func TestAddressLine(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"https://host.example/x", "https://host.example/x"},
		{"https://host.example/x\r\nanything", "https://host.example/x"},
		{"  https://host.example/x \n", "https://host.example/x"},
		{"", ""}, {"\n", ""}, {"-\n", ""}, {"root:secret:1", ""}, {strings.Repeat("x", maxAddress+1), ""},
	} {
		address, err := addressLine(strings.NewReader(row.text))
		if (err == nil) != (row.want != "") || address != row.want {
			t.Errorf("addressLine(%.40q) = %.40q, %v, want %q", row.text, address, err, row.want)
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
	if address, err := addressLine(r); err != nil || address != "https://host.example/x" {
		t.Errorf("addressLine of an open pipe = %q, %v", address, err)
	}
}

// A command may leave a program behind, as one that starts an agent of its credentials.
func TestAddressOfACommandThatLeavesAProgram(t *testing.T) {
	t.Parallel()
	const want = "http://u.example/1.ota"
	got, err := addressFrom(t.Context(), "echo "+want+"; sleep 60 &", io.Discard)
	if err != nil || got != want {
		t.Errorf("addressFrom = %q, %v; want %q", got, err, want)
	}
}
