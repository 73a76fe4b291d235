package fetch

import (
	"encoding/json"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
)

// A mark is the sidecar of a partial file: what must be known to continue.
type mark struct {
	URL    string `json:"url"`              // as printed: no credentials, no query
	SHA256 string `json:"sha256,omitempty"` // of the whole file, if the caller knew it
	Size   int64  `json:"size"`             // bytes of the whole file; -1: unknown
	Synced int64  `json:"synced"`           // bytes that a power cut cannot take
	Boot   string `json:"boot"`             // boot ID in which the partial file was last written
	Holes  []Part `json:"holes,omitempty"`  // of the partial file, in order; those behind Synced may not be all
}

// readMark reads a sidecar. Anything odd in it is an error: the download
// then starts over.
func readMark(name string) (*mark, error) {
	data, err := bootcheck.ReadRegular(name, maxMark)
	if err != nil {
		return nil, err
	}
	m := new(mark)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, err
	}
	end := int64(1)
	for _, h := range m.Holes {
		if h.First < end || h.End <= h.First {
			return nil, fmt.Errorf("%q names holes that cannot be", name)
		}
		end = h.End
	}
	return m, nil
}

// maxMark bounds what is read of a sidecar, bytes. A hole is at least minGap wide
// and takes 50 bytes, so the largest file, 8 GB, can have more than that: then it
// is fetched again.
const maxMark = 1 << 20
