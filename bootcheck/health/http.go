package health

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck/loopback"
)

// address is good when url answers 200 and, if the answer is JSON with a
// "version", that is the one that should be running. An answer that is no JSON,
// or says nothing about a version, is good.
func address(url, version string) func(context.Context) finding {
	return func(ctx context.Context) finding {
		status, body, err := loopback.Get(ctx, url)
		f := finding{output: string(body[:min(len(body), maxOutput)])}
		switch {
		case err != nil:
			f.err = err
		case status != 200:
			f.err = fmt.Errorf("%s answers with status %d, want 200", url, status)
		default:
			got := answeredVersion(body)
			if version != "" && got != "" && bare(got) != bare(version) {
				f.err = fmt.Errorf("%s answers with version %q, want %q", url, got, version)
			} else if got != "" {
				f.note = oneLine("version " + got)
			}
		}
		return f
	}
}

// answeredVersion is the "version" of a JSON object; empty if there is none or
// it is no string.
func answeredVersion(body []byte) string {
	var answer struct{ Version any }
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	s, _ := answer.Version.(string)
	return s
}

// bare is a version without the "v" that some write before it.
func bare(version string) string { return strings.TrimPrefix(version, "v") }
