package bundlecmd

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/tope-ota/ota/bootcheck"
)

// results are what the devices tell that took a version: how many of them confirmed it, and
// how many rolled back from it.
type results struct{ installed, rolledBack float64 }

// maxResults bounds the file of readResults, bytes.
const maxResults = 16 << 20

// readResults reads what became of version from file: the answer of Prometheus to an instant
// query, a vector whose samples have the labels version and result ("installed" or
// "rolled_back") and count devices; or a table, CSV with a first line that names the columns
// version, installed and rolled_back. Samples and lines of other versions do not count. What
// cannot be understood is an error, never a result of 0.
func readResults(file, version string) (*results, error) {
	data, err := read("what the fleet tells", file, maxResults)
	if err != nil {
		return nil, err
	}
	r := new(results)
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		err = r.readPrometheus(trimmed, version)
	} else {
		err = r.readTable(trimmed, version)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what the fleet tells: %s: %w", file, err)
	}
	return r, nil
}

func (r *results) readPrometheus(data []byte, version string) error {
	var answer struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := bootcheck.ReadJSON(data, &answer); err != nil {
		return err
	}
	if answer.Status != "success" || answer.Data.ResultType != "vector" {
		return fmt.Errorf("status %.80q, result %.80q %.200s: want the answer to an instant query, a vector", answer.Status, answer.Data.ResultType, answer.Error)
	}
	var samples []struct {
		Metric map[string]string
		Value  []any
	}
	if err := bootcheck.ReadJSON(answer.Data.Result, &samples); err != nil {
		return err
	}
	for _, s := range samples {
		if s.Metric["version"] != version {
			continue
		}
		text := ""
		if len(s.Value) == 2 {
			text, _ = s.Value[1].(string)
		}
		n, err := devices(text)
		if err != nil {
			return err
		}
		switch s.Metric["result"] {
		case "installed":
			r.installed += n
		case "rolled_back":
			r.rolledBack += n
		default:
			return fmt.Errorf("a sample of version %s has the label result=%q, not installed or rolled_back", version, s.Metric["result"])
		}
	}
	return nil
}

func (r *results) readTable(data []byte, version string) error {
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll() // lines of different length are an error
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return errors.New("it is empty")
	}
	var at [3]int
	for i, name := range []string{"version", "installed", "rolled_back"} {
		if at[i] = slices.Index(rows[0], name); at[i] < 0 {
			return fmt.Errorf("its first line names no column %q", name)
		}
	}
	for _, row := range rows[1:] {
		if row[at[0]] != version {
			continue
		}
		for i, to := range []*float64{&r.installed, &r.rolledBack} {
			n, err := devices(row[at[i+1]])
			if err != nil {
				return err
			}
			*to += n
		}
	}
	return nil
}

// devices reads a number of devices.
func devices(text string) (float64, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%.80q is not a number of devices", text)
	}
	return n, nil
}
