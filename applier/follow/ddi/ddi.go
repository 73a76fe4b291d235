// Package ddi asks an Eclipse hawkBit server what a device should run, by hawkBit's Direct
// Device Integration API, version 1. It is a source of package follow.
//
//	GET  BASE                              sleep, and links to what there is to do
//	GET  BASE/deploymentBase/ID            a version to install     POST …/feedback
//	GET  BASE/confirmationBase/ID          one to agree to          POST …/feedback
//	GET  BASE/cancelAction/ID              one to stop              POST …/feedback
//	PUT  BASE/configData, BASE/installedBase
//
// with BASE = URL/TENANT/controller/v1/DEVICE. What a server sends is bounded and trusted
// as little as can be: of an artifact only its address counts, since a bundle is signed.
package ddi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/follow"
	"github.com/tope-ota/ota/bootcheck"
)

// maxAnswer bounds what is read of an answer, bytes: hawkBit's are below 64 KiB.
const maxAnswer = 1 << 20

// A Client is one device at one server.
type Client struct {
	Base   *url.URL     // BASE
	HTTP   *http.Client // sends the token, see Auth
	Parts  []string     // types of software module that hold a bundle
	Device map[string]string
}

// New makes the address of a device. server has been checked by package config.
func New(server, tenant, device string) (*url.URL, error) {
	return url.Parse(server + "/" + url.PathEscape(tenant) + "/controller/v1/" + url.PathEscape(device))
}

// Name is BASE.
func (c *Client) Name() string { return c.Base.String() }

type links map[string]struct {
	Href string `json:"href"`
}

// Ask polls, and fetches the actions that the answer links to.
func (c *Client) Ask(ctx context.Context, _ json.RawMessage) (*follow.Answer, error) {
	var root struct {
		Config struct {
			Polling struct {
				Sleep string `json:"sleep"`
			} `json:"polling"`
		} `json:"config"`
		Links links `json:"_links"`
	}
	if err := c.do(ctx, http.MethodGet, c.Base, nil, &root); err != nil {
		return nil, err
	}
	answer := &follow.Answer{Sleep: parseSleep(root.Config.Polling.Sleep)}
	_, answer.Attributes = root.Links["configData"]
	for _, kind := range []string{"cancelAction", "deploymentBase", "confirmationBase"} {
		link, ok := root.Links[kind]
		if !ok {
			continue
		}
		order, err := c.order(ctx, kind, link.Href)
		if err != nil {
			if errors.Is(err, follow.ErrUnwanted) {
				continue // the action ended, or was cancelled, between the two requests
			}
			return nil, err
		}
		answer.Orders = append(answer.Orders, *order)
	}
	return answer, nil
}

type deployment struct {
	Download string `json:"download"`
	Update   string `json:"update"`
	Window   string `json:"maintenanceWindow"`
	Chunks   []struct {
		Part      string `json:"part"`
		Version   string `json:"version"`
		Name      string `json:"name"`
		Artifacts []struct {
			Filename string            `json:"filename"`
			Hashes   map[string]string `json:"hashes"`
			Links    links             `json:"_links"`
		} `json:"artifacts"`
	} `json:"chunks"`
}

// order fetches one action.
func (c *Client) order(ctx context.Context, kind, href string) (*follow.Order, error) {
	u, err := c.at(href)
	if err != nil {
		return nil, err
	}
	var a struct {
		ID           id          `json:"id"`
		Deployment   *deployment `json:"deployment"`
		Confirmation *deployment `json:"confirmation"`
		Cancel       *struct {
			StopID id `json:"stopId"`
		} `json:"cancelAction"`
	}
	if err := c.do(ctx, http.MethodGet, u, nil, &a); err != nil {
		return nil, err
	}
	if a.ID == "" {
		a.ID = id(path.Base(u.Path))
	}
	o := &follow.Order{Action: string(a.ID)}
	d := a.Deployment
	switch kind {
	case "cancelAction":
		if o.Kind, o.Cancel = follow.KindCancel, o.Action; a.Cancel != nil && a.Cancel.StopID != "" {
			o.Action = string(a.Cancel.StopID)
		}
		return o, nil
	case "confirmationBase":
		o.Kind, d = follow.KindConfirm, a.Confirmation
	}
	if d == nil {
		return nil, fmt.Errorf("the answer of the server says no %s", kind)
	}
	o.Stage = d.Download == "attempt" || d.Download == "forced"
	o.Activate = d.Update == "attempt" || d.Update == "forced"
	o.Forced = d.Update == "forced"
	switch {
	case d.Window == "unavailable":
		o.Activate, o.Why = false, "the maintenance window is closed"
	case !o.Activate:
		o.Why = "the server asks for the download alone"
	}
	o.Problem = c.choose(d, o)
	return o, nil
}

// choose finds the bundle, or says why there is none.
func (c *Client) choose(d *deployment, o *follow.Order) (problem string) {
	found := 0
	for _, chunk := range d.Chunks {
		if !slices.Contains(c.Parts, chunk.Part) {
			return fmt.Sprintf("unknown module type %q: this device takes %q", chunk.Part, c.Parts)
		}
		if found == 0 { // else it is not the one with the bundle
			o.Name, o.Version = chunk.Name, chunk.Version
		}
		for _, a := range chunk.Artifacts {
			if !strings.HasSuffix(a.Filename, ".ota") {
				continue
			}
			found++
			for _, rel := range []string{"download", "download-http"} {
				if u, err := c.Base.Parse(a.Links[rel].Href); o.URL == "" && a.Links[rel].Href != "" && err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil {
					o.URL = u.String()
				}
			}
			for _, name := range []string{"sha256", "sha1"} {
				if o.Content == "" && a.Hashes[name] != "" {
					o.Content = name + ":" + a.Hashes[name]
				}
			}
		}
	}
	switch {
	case found != 1:
		return fmt.Sprintf("the distribution has %d artifacts whose names end in .ota, want one", found)
	case o.URL == "":
		return "the artifact has no download link that is http or https"
	}
	return ""
}

// An id is a string, or the number that some servers write.
type id string

func (i *id) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) != nil {
		var n json.Number
		if err := json.Unmarshal(data, &n); err != nil {
			return err
		}
		s = n.String()
	}
	if len(s) > 128 || s == "." || s == ".." {
		return fmt.Errorf("the id of an action cannot be %.130q", s)
	}
	*i = id(s)
	return nil
}

// at is href below the server that was configured, also if it names another host: behind a proxy
// a server may know itself by another name, and the token is for no other host.
func (c *Client) at(href string) (*url.URL, error) {
	u, err := c.Base.Parse(href)
	if err != nil || href == "" || !strings.Contains(u.Path, "/controller/v1/") {
		return nil, errors.New("the server links to an address that is none of its device API")
	}
	u.Scheme, u.Host, u.User = c.Base.Scheme, c.Base.Host, nil
	return u, nil
}

// parseSleep reads "HH:MM:SS"; 0 is anything else.
func parseSleep(s string) time.Duration {
	t, err := time.Parse(time.TimeOnly, s)
	if err != nil || len(s) != len(time.TimeOnly) {
		return 0
	}
	return t.Sub(t.Truncate(24 * time.Hour))
}

// statuses are DDI's words. closed with none would count as a success.
var statuses = map[follow.Outcome]struct{ execution, finished string }{
	follow.Proceeding: {"proceeding", "none"},
	follow.Resumed:    {"resumed", "none"},
	follow.Downloaded: {"downloaded", "none"},
	follow.Done:       {"closed", "success"},
	follow.Failed:     {"closed", "failure"},
	follow.Cancelled:  {"closed", "success"},
	follow.Rejected:   {"rejected", "none"},
}

// Tell posts the feedback that m is.
func (c *Client) Tell(ctx context.Context, m *follow.Message) error {
	where := []string{"deploymentBase", m.Action, "feedback"}
	var body any
	switch m.Outcome {
	case follow.Confirmed, follow.Denied:
		where[0] = "confirmationBase"
		body = map[string]any{"confirmation": m.Outcome, "code": m.Code, "details": m.Details}
	default:
		if m.Cancel != "" {
			where[0], where[1] = "cancelAction", m.Cancel
		}
		s := statuses[m.Outcome]
		result := map[string]any{"finished": s.finished}
		if m.Percent > 0 {
			result["progress"] = map[string]int{"cnt": m.Percent, "of": 100}
		}
		status := map[string]any{"execution": s.execution, "result": result, "code": m.Code, "details": m.Details}
		body = map[string]any{"id": where[1], "status": status}
	}
	where[1] = url.PathEscape(where[1])
	return c.do(ctx, http.MethodPost, c.Base.JoinPath(where...), body, nil)
}

// Attributes puts the attributes, and what hawkBit should show as installed.
func (c *Client) Attributes(ctx context.Context, a follow.Attributes, installed *follow.Installed) error {
	data := map[string]string{}
	maps.Copy(data, c.Device)
	maps.Copy(data, a)
	// Some servers have no installedBase, and take this instead, as from SWUpdate. A version
	// on trial is not yet installed.
	switch data["sw_version"] = a["ota_version"]; {
	case installed != nil:
		data["sw_version"] = installed.Version
	case a["ota_phase"] == "trial":
		data["sw_version"] = a["ota_previous"]
	}
	err := c.do(ctx, http.MethodPut, c.Base.JoinPath("configData"), map[string]any{"mode": "merge", "data": data}, nil)
	if err != nil || installed == nil {
		return err
	}
	// Newer servers have it, and only as an experiment.
	err = c.do(ctx, http.MethodPut, c.Base.JoinPath("installedBase"), map[string]string{"name": installed.Name, "version": installed.Version}, nil)
	if _, answered := errors.AsType[*follow.StatusError](err); answered && !errors.Is(err, follow.ErrDenied) {
		err = nil
	}
	return err
}

// do sends one request. in is its body, nil none; out takes that of the answer, nil
// ignores it.
func (c *Client) do(ctx context.Context, method string, u *url.URL, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/hal+json, application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, data, err := follow.Send(c.HTTP, req, maxAnswer)
	if err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return bootcheck.Errorf(bootcheck.ExitDownloadFailed, "", format, args...)
	}
	if resp.StatusCode/100 != 2 {
		return fail("%w", answerError(method, resp, u == c.Base))
	}
	if out == nil {
		return nil
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && !strings.HasSuffix(t, "json") {
		return fail("the server answered %q, not JSON", t)
	}
	if len(data) > maxAnswer {
		return fail("cannot use the answer of the server: it is longer than %d bytes", maxAnswer)
	}
	if err := bootcheck.ReadJSON(data, out); err != nil {
		return fail("cannot use the answer of the server: %w", err)
	}
	return nil
}

// answerError says what an answer means.
func answerError(method string, resp *http.Response, base bool) error {
	e := follow.NewStatusError(resp)
	switch e.Code {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = follow.ErrDenied
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, http.StatusTooEarly:
	case http.StatusNotFound, http.StatusGone:
		if e.Kind = follow.ErrUnwanted; base {
			e.Kind = follow.ErrDenied // the device was deleted there, or the address is wrong
		}
	default:
		if e.Code/100 == 4 && method != http.MethodGet {
			e.Kind = follow.ErrUnwanted
		}
	}
	return e
}
