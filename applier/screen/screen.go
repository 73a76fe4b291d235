// Package screen is the page for the device's own screen: which version runs, how an
// install or a trial continues, why the last version was rolled back.
//
// The page is one file without a framework, for a browser in kiosk mode on the device.
// It asks for the state every second, and shows it in English or in simplified Chinese.
package screen

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

var (
	//go:embed page.html
	source string
	//go:embed words.json
	words string // all texts, by key: English, simplified Chinese
)

// A built page is complete but for its language.
type built struct {
	text   string
	build  string // changes with the text
	policy string // lets the page run its own script and style, and ask its own server
}

var page = sync.OnceValue(func() (p built) {
	text := strings.Replace(source, "{{words}}", strings.TrimSpace(words), 1)
	p.build = digest(text)[:12]
	p.text = strings.Replace(text, "{{page}}", p.build, 1)
	p.policy = fmt.Sprintf("default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'",
		digest(between(p.text, "<script>", "</script>")), digest(between(p.text, "<style>", "</style>")))
	return p
})

// ServePage answers with the page, in the language that req asks for.
func ServePage(w http.ResponseWriter, req *http.Request) {
	h, p := w.Header(), page()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Vary", "Accept-Language")
	_, _ = io.WriteString(w, strings.Replace(p.text, "{{lang}}", language(req), 1)) // the client may be gone
}

// language is that of ?lang=, or the one that Accept-Language wants most: en or zh-Hans.
func language(req *http.Request) string {
	if l := speaks(req.URL.Query().Get("lang")); l != "" {
		return l
	}
	best, most := "en", 0.0
	for part := range strings.SplitSeq(req.Header.Get("Accept-Language"), ",") {
		tag, weight, weighted := strings.Cut(part, ";")
		q := 1.0
		if weighted {
			q, _ = strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
		}
		if l := speaks(tag); l != "" && q > most {
			best, most = l, q
		}
	}
	return best
}

// speaks is the page's language for the language tag; empty: it has none.
func speaks(tag string) string {
	primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
	switch primary {
	case "en":
		return "en"
	case "zh":
		return "zh-Hans"
	}
	return ""
}

// State is what the page shows. Keys that `status --json` has too have the same meaning.
type State struct {
	Schema         int                 `json:"schema"` // bootcheck.OutputSchema
	Page           string              `json:"page"`   // another one: the program was replaced, and the page has to be loaded again
	Error          bootcheck.OrNull    `json:"error"`  // why nothing below but operation is known; empty: it is
	Phase          bootcheck.Phase     `json:"phase"`  // empty: nothing was ever installed
	Current        string              `json:"current"`
	Next           bootcheck.OrNull    `json:"next"` // from the next boot on; empty: nothing else
	Hold           bootcheck.OrNull    `json:"hold"` // why the device is on hold; empty: it is not
	Damage         bootcheck.OrNull    `json:"damage"`
	Watching       *bootcheck.Watching `json:"watching"`         // how far the trial has come; nil: it is not watched now
	LastRollback   *Rollback           `json:"last_rollback"`    // nil: none, or another update was confirmed since
	LastRollbackAt *time.Time          `json:"last_rollback_at"` // nil: not known
	Operation      bootcheck.Install   `json:"operation"`
}

// Rollback is what a screen shows of a bootcheck.Rollback.
type Rollback struct {
	From     string          `json:"from"`
	To       string          `json:"to"`
	Level    string          `json:"level"`
	Cause    bootcheck.Cause `json:"cause"`
	Check    string          `json:"check"`
	Output   string          `json:"output"` // one line of at most maxLine bytes
	Attempts int             `json:"attempts"`
}

// maxLine is more than a line of the page shows.
const maxLine = 200

// A Device is what the state is read from. It changes nothing.
type Device struct {
	Root string // of the version store
	Run  string // the run directory of the programs

	mu           sync.Mutex
	generation   uint64 // that the next two are of; 0: of none
	rolledBackAt *time.Time
	outdated     bool
}

// State reads the state. It needs no more than what every user may read.
func (d *Device) State() *State {
	s := &State{Schema: bootcheck.OutputSchema, Page: page().build, Operation: bootcheck.ReadInstall(filepath.Join(d.Run, "progress.json"))}
	store, err := bootcheck.Open(d.Root)
	if err != nil {
		s.Error = bootcheck.OrNull(bootcheck.Line(err))
		return s
	}
	active, err := store.Active()
	if errors.Is(err, bootcheck.ErrEmpty) {
		return s
	}
	if err != nil {
		s.Error = bootcheck.OrNull(bootcheck.OneLine(bootcheck.CannotRead(err).Error()))
		return s
	}
	r := active.Record
	s.Phase, s.Current, s.Hold = r.Phase, r.Current.Version, bootcheck.OrNull(r.HoldReason)
	s.Damage = bootcheck.OrNull(bootcheck.Clip(bootcheck.OneLine(active.Damage), maxLine))
	if r.Next != nil {
		s.Next = bootcheck.OrNull(r.Next.Version)
	}
	if r.Phase.Unconfirmed() {
		s.Watching = bootcheck.ReadWatching(d.Run, r.Current.Version)
	}
	if l := r.LastRollback; l != nil {
		if at, outdated := d.rolledBack(store, r.Generation); !outdated {
			s.LastRollback = &Rollback{l.From, l.To, l.Level, l.Cause, bootcheck.OneLine(l.Check), bootcheck.Clip(bootcheck.OneLine(l.Output), maxLine), l.Attempts}
			s.LastRollbackAt = at
		}
	}
	return s
}

// rolledBack is when the last rollback was, and whether it explains nothing any more. It
// reads the history once a generation: the state is asked for every second.
func (d *Device) rolledBack(store *bootcheck.Store, generation uint64) (at *time.Time, outdated bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.generation != generation {
		_, d.rolledBackAt, d.outdated = store.ChangedAt()
		d.generation = generation
	}
	return d.rolledBackAt, d.outdated
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func between(text, begin, end string) string {
	_, text, _ = strings.Cut(text, begin)
	text, _, _ = strings.Cut(text, end)
	return text
}
