package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// TestCast: each line is in the picture once, with any content, and the picture is XML.
func TestCast(t *testing.T) {
	defer try.Fatal(t)
	var c cast
	for _, s := range []string{"line 1\nline", " 2\n", "\n", "          A <chapter> & more\n", "          $ ota status\n", strings.Repeat("ä", 200) + "\n"} {
		fmt.Fprint(&c, s)
	}
	if len(c.lines) != 6 || c.lines[1] != "line 2" || c.at[0] >= c.at[5] {
		t.Fatalf("lines %q at %v", c.lines, c.at)
	}
	file := filepath.Join(t.TempDir(), "x.svg")
	try.Check(c.save(file))
	text := try.Get(os.ReadFile(file))
	shown := ""
	for d := xml.NewDecoder(strings.NewReader(string(text))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("no XML: %v", err)
		}
		if data, ok := token.(xml.CharData); ok {
			shown += string(data)
		}
	}
	for _, line := range []string{"line 1", "line 2", "A <chapter> & more", "$ ota status", strings.Repeat("ä", 103) + "…"} {
		if strings.Count(shown, line) != 1 {
			t.Errorf("%q is in the picture %d times", line, strings.Count(shown, line))
		}
	}
	if err := new(cast).save(file); err == nil {
		t.Error("an empty recording is saved")
	}
}
