// Package fake is a server with hawkBit's device API (DDI), as far as a device sees it: one
// tenant, actions that a test assigns, and all that devices say of them. What it answers was
// taken from hawkBit's DdiRootController and DataConversionHelper.
package fake

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/tope-ota/ota/integration/machine/agent"
)

// An Action asks one device for one thing.
type Action struct {
	ID       string
	Device   string // the controller ID; empty: every device is asked
	Version  string
	File     string // of the bundle, below Dir; empty: the version and .ota
	Part     string // empty: bApp
	Update   string // skip, attempt or forced; empty: attempt
	Download string // empty: attempt, or forced with Update
	Window   string // available, unavailable; empty: there is none
	Confirm  bool   // the device has to agree first
	Cancel   bool   // it is to stop
	URL      string // instead of the server's own download link

	Closed string     // success, failure, canceled or downloaded; empty: it is active
	Log    []Feedback // all that the device said, oldest first
}

// Feedback is what a device says of an action.
type Feedback struct {
	Execution string
	Finished  string
	Code      int
	Details   []string
}

// A Server is one tenant, DEFAULT.
type Server struct {
	*httptest.Server
	Dir string // of the bundles

	mu       sync.Mutex
	sleep    string
	token    string // what Authorization must be; empty: anything
	actions  []*Action
	requests []string
	rollouts []*Rollout
	config   map[string]map[string]string // by device
	base     map[string]map[string]string // what installedBase was set to, by device
	before   func(w http.ResponseWriter, r *http.Request) (done bool)
}

// New starts a server of the bundles in dir.
func New(dir string) *Server {
	s := &Server{Dir: dir, sleep: "00:05:00", config: map[string]map[string]string{}, base: map[string]map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Do runs f while nothing is served.
func (s *Server) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Assign adds a, active.
func (s *Server) Assign(a Action) *Action {
	s.Do(func() { s.actions = append(s.actions, &a) })
	return &a
}

// Before has f look at each request first; nil: none.
func (s *Server) Before(f func(w http.ResponseWriter, r *http.Request) (done bool)) {
	s.Do(func() { s.before = f })
}

// Sleep and Token set what polls are answered, and what they must bring.
func (s *Server) Sleep(sleep string) { s.Do(func() { s.sleep = sleep }) }

// Token is the Authorization that is asked for.
func (s *Server) Token(token string) { s.Do(func() { s.token = token }) }

// Requests are the methods and paths since the last call.
func (s *Server) Requests() (all []string) {
	s.Do(func() { all, s.requests = s.requests, nil })
	return all
}

// Said is what the device said of a.
func (s *Server) Said(a *Action) (log []Feedback) {
	s.Do(func() { log = slices.Clone(a.Log) })
	return log
}

// Attributes are those of a device, and its installedBase.
func (s *Server) Attributes(device string) (config, base map[string]string) {
	s.Do(func() { config, base = maps.Clone(s.config[device]), maps.Clone(s.base[device]) })
	return config, base
}

// Find is the action of that ID; nil: there is none.
func (s *Server) Find(id string) (found *Action) {
	s.Do(func() { found = s.find(id) })
	return found
}

func (s *Server) find(id string) *Action {
	for _, a := range slices.Backward(s.actions) {
		if a.ID == id {
			return a
		}
	}
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	before, token := s.before, s.token
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if token != "" && r.Header.Get("Authorization") != token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/files/") {
		http.StripPrefix("/files", agent.Bundles(s.Dir)).ServeHTTP(w, r)
		return
	}
	elem := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(elem) < 4 || elem[0] != "DEFAULT" || elem[1] != "controller" || elem[2] != "v1" {
		http.NotFound(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	base, device := s.URL+"/"+strings.Join(elem[:4], "/"), elem[3]
	switch elem = elem[4:]; {
	case len(elem) == 0:
		s.root(w, base, device)
	case r.Method == http.MethodPut && elem[0] == "configData":
		var c struct{ Data map[string]string }
		if json.Unmarshal(body, &c) != nil || c.Data == nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.config[device] = c.Data
	case r.Method == http.MethodPut && elem[0] == "installedBase":
		var b map[string]string
		_ = json.Unmarshal(body, &b)
		s.base[device] = b
		w.WriteHeader(http.StatusCreated)
	case len(elem) < 2 || s.find(elem[1]) == nil:
		http.NotFound(w, r)
	case len(elem) == 2:
		s.action(w, elem[0], s.find(elem[1]))
	default:
		w.WriteHeader(s.feedback(elem[0], s.find(elem[1]), body))
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/hal+json")
	_ = json.NewEncoder(w).Encode(v)
}

type object = map[string]any

func (s *Server) root(w http.ResponseWriter, base, device string) {
	links := object{}
	if s.config[device] == nil {
		links["configData"] = object{"href": base + "/configData"}
	}
	for _, a := range s.actions { // the oldest that is active, as hawkBit without weights
		if a.Closed != "" || a.Device != "" && a.Device != device {
			continue
		}
		kind := "deploymentBase"
		switch {
		case a.Cancel:
			kind = "cancelAction"
		case a.Confirm:
			kind = "confirmationBase"
		}
		links[kind] = object{"href": fmt.Sprintf("%s/%s/%s?c=-%d", base, kind, a.ID, len(a.Update+a.Window))}
		break
	}
	answer(w, object{"config": object{"polling": object{"sleep": s.sleep}}, "_links": links})
}

func (s *Server) action(w http.ResponseWriter, kind string, a *Action) {
	if a.Closed != "" || a.Cancel != (kind == "cancelAction") || a.Confirm != (kind == "confirmationBase") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if a.Cancel {
		answer(w, object{"id": a.ID, "cancelAction": object{"stopId": a.ID}})
		return
	}
	file := cmp.Or(a.File, a.Version+".ota")
	update := cmp.Or(a.Update, "attempt")
	if a.Window == "unavailable" {
		update = "skip"
	}
	d := object{
		"download": cmp.Or(a.Download, map[string]string{"forced": "forced"}[update], "attempt"),
		"update":   update,
		"chunks": []object{{"part": cmp.Or(a.Part, "bApp"), "version": a.Version, "name": "app", "artifacts": []object{{
			"filename": file, "size": 1, "hashes": object{"sha1": "sha1 of " + file},
			"_links": object{"download-http": object{"href": cmp.Or(a.URL, s.URL+"/files/"+file)}},
		}}}},
	}
	if a.Window != "" {
		d["maintenanceWindow"] = a.Window
	}
	name := "deployment"
	if a.Confirm {
		name = "confirmation"
	}
	answer(w, object{"id": a.ID, name: d})
}

func (s *Server) feedback(kind string, a *Action, body []byte) int {
	var f struct {
		Confirmation string
		Code         int
		Details      []string
		Status       struct {
			Execution string
			Result    struct{ Finished string }
			Code      int
			Details   []string
		}
	}
	if json.Unmarshal(body, &f) != nil || f.Status.Execution == "" && f.Confirmation == "" {
		return http.StatusBadRequest
	}
	if a.Closed != "" {
		return http.StatusGone
	}
	said := Feedback{f.Status.Execution, f.Status.Result.Finished, f.Status.Code, f.Status.Details}
	if kind == "confirmationBase" {
		said = Feedback{f.Confirmation, "", f.Code, f.Details}
	}
	a.Log = append(a.Log, said)
	switch {
	case kind == "confirmationBase":
		a.Confirm = f.Confirmation != "confirmed"
	case kind == "cancelAction" && said.Execution == "closed":
		a.Closed = "canceled"
	case kind == "cancelAction":
		a.Cancel = false
	case said.Execution == "closed" && said.Finished == "failure":
		a.Closed = "failure"
	case said.Execution == "closed":
		a.Closed = "success" // none, too
	case said.Execution == "downloaded" && a.Update == "skip":
		a.Closed = "downloaded"
	}
	for _, r := range s.rollouts {
		r.advance(s)
	}
	return http.StatusOK
}
