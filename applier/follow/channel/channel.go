// Package channel asks a signed file on any web server what a device should run: the file
// NAME.channel of package applier/channel. It is a source of package follow.
//
//	GET URL    If-None-Match: what is kept in the run directory. 304: nothing is new
//
// The device reports to no server. It looks again at each poll: a version that failed here by
// itself is blocked in the record, and any other failure is tried again later.
package channel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/applier/follow"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// Interval is how often a device asks; each has one of its own, within 10 % of it.
const Interval = time.Hour

// Pauses after a version could not be installed, doubled each time.
const (
	firstPause = time.Hour
	mostPause  = 24 * time.Hour
)

// cacheFile is in the run directory: the ETag in its first line, then the channel. Each
// read verifies it.
const cacheFile = ".follow-channel"

// powerFile is in the run directory: the time since the boot, in seconds, at which the next
// day of power is counted.
const powerFile = ".follow-power"

// A Source is one device and one channel.
type Source struct {
	URL      *url.URL // of NAME.channel, see channel.NameOf
	HTTP     *http.Client
	Run      string // the directory that a reboot empties
	Calendar *calendar.Calendar
	// Device and Keys are asked for each poll. Keys are those that sign bundles;
	// revoked are IDs.
	Device func() (*channel.Device, error)
	Keys   func() (release *trust.Keys, revoked []string, err error)
	Uptime func() time.Duration // since the boot

	cached   bool               // the run directory was read
	etag     string             // of body
	body     []byte             // the last file that was good; nil: none yet
	failures map[string]failure // by digest of the manifest
}

// A memory is what a device must not forget. It is written when the channel changed, and once
// a day of power.
type memory struct {
	channel.Seen
	Days int `json:"days"` // of power since then
}

type failure struct {
	times int
	again time.Time
}

// Name is the address.
func (s *Source) Name() string { return s.URL.String() }

// Ask fetches the channel, if it changed, and chooses.
func (s *Source) Ask(ctx context.Context, before json.RawMessage) (*follow.Answer, error) {
	var seen memory
	if json.Unmarshal(before, &seen) != nil {
		seen = memory{} // of another source, or none
	}
	if !s.cached {
		s.cached = true
		if data, err := bootcheck.ReadRegular(s.cache(), channel.MaxSize+1024); err == nil {
			if etag, body, ok := bytes.Cut(data, []byte("\n")); ok {
				s.etag, s.body = string(etag), body
			}
		}
	}
	etag, body, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	file, err := s.accept(body, seen.Seen)
	if err != nil {
		if etag == s.etag {
			s.etag, s.body = "", nil // as keys and dates change, what was good may not be so any more
		}
		return nil, err
	}
	if etag != s.etag || !bytes.Equal(body, s.body) {
		s.etag, s.body = etag, body
		// In memory, and made again after a reboot: an error costs a longer answer.
		_ = bootcheck.ReplaceFile(s.cache(), append([]byte(etag+"\n"), body...), 0o600, false)
	}
	device, err := s.Device()
	if err != nil {
		return nil, err
	}
	days := s.newDays()
	if now := file.Seen(); now != seen.Seen {
		seen = memory{Seen: now}
	} else {
		seen.Days += days
	}
	answer := &follow.Answer{Sleep: interval(device.ID), Exact: true, UnchangedDays: &seen.Days}
	if answer.Memory, err = json.Marshal(seen); err != nil {
		return nil, err
	}
	r := file.Channel.Choose(device)
	if r == nil || time.Now().Before(s.failures[r.Manifest].again) {
		return answer, nil
	}
	order := follow.Order{
		Action: r.Manifest, Name: file.Channel.Channel, Version: r.Version, Content: r.Manifest, Manifest: r.Manifest,
		Stage: true, Activate: true, Forced: r.Urgent,
	}
	for _, address := range r.Bundle {
		u, err := s.URL.Parse(address)
		if err != nil {
			return nil, err // CheckAddress has taken it
		}
		order.Mirrors = append(order.Mirrors, u.String())
	}
	order.URL, order.Mirrors = order.Mirrors[0], order.Mirrors[1:]
	answer.Orders = []follow.Order{order}
	return answer, nil
}

func (s *Source) cache() string { return s.Run + "/" + cacheFile }

// newDays is how many days of power ended since it was asked last. The first day of a boot ends
// at a moment that is chosen by chance, 1 to 24 hours after the first poll, and each further one
// 24 hours later. So no clock is needed, a day is written once, and a device that has power for
// 8 hours each day counts every third boot.
func (s *Source) newDays() int {
	const day = 24 * time.Hour
	name := s.Run + "/" + powerFile
	up := s.Uptime()
	next := up + max(time.Hour, rand.N(day))
	if text, err := bootcheck.ReadRegular(name, 100); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			next = time.Duration(n) * time.Second
		}
	}
	days := 0
	if up >= next {
		days = int((up-next)/day) + 1
		next += time.Duration(days) * day
	}
	if bootcheck.ReplaceFile(name, strconv.AppendInt(nil, int64(next/time.Second), 10), 0o600, false) != nil {
		return 0 // else each poll would count them
	}
	return days
}

// accept verifies the file body, compares it with what was seen, and learns its date.
func (s *Source) accept(body []byte, seen channel.Seen) (*channel.File, error) {
	release, revoked, err := s.Keys()
	if err != nil {
		return nil, err
	}
	file, err := channel.Open(body, channel.NameOf(s.URL.Path), release, revoked)
	if err != nil {
		return nil, err
	}
	if err := seen.Admit(file); err != nil {
		return nil, err
	}
	s.Calendar.LearnChannel(file.Channel.Made)
	if err := file.Expired(s.Calendar.Today()); err != nil {
		return nil, err
	}
	s.Calendar.Save()
	return file, nil
}

// get returns the channel and its ETag, those of before if they are not newer.
func (s *Source) get(ctx context.Context) (etag string, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL.String(), nil)
	if err != nil {
		return "", nil, err
	}
	if s.etag != "" && s.body != nil {
		req.Header.Set("If-None-Match", s.etag)
	}
	resp, body, err := follow.Send(s.HTTP, req, channel.MaxSize) // Open refuses one that is longer
	switch {
	case err != nil:
		return "", nil, err
	case resp.StatusCode == http.StatusNotModified && s.body != nil:
		return s.etag, s.body, nil
	case resp.StatusCode != http.StatusOK:
		e := follow.NewStatusError(resp)
		switch e.Code {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
			e.Kind = follow.ErrDenied // an operator has to publish it, or to correct the address
		}
		return "", nil, bootcheck.Errorf(bootcheck.ExitDownloadFailed, "", "%w", e)
	}
	if etag = resp.Header.Get("ETag"); len(etag) > 512 {
		etag = ""
	}
	return etag, body, nil
}

// Tell keeps when a version that could not be installed is tried again. It sends nothing.
func (s *Source) Tell(_ context.Context, m *follow.Message) error {
	switch m.Outcome {
	case follow.Failed:
		if s.failures == nil {
			s.failures = make(map[string]failure)
		}
		times := s.failures[m.Action].times
		s.failures[m.Action] = failure{times + 1, time.Now().Add(min(firstPause<<min(times, 10), mostPause))}
	case follow.Done:
		s.failures = nil
	}
	return nil
}

// Attributes sends nothing.
func (s *Source) Attributes(context.Context, follow.Attributes, *follow.Installed) error { return nil }

// interval is the pause of a device between two polls: always the same, so that a fleet whose
// polls are spread stays so.
func interval(device string) time.Duration {
	sum := sha256.Sum256([]byte("interval" + device))
	return Interval*9/10 + time.Duration(binary.BigEndian.Uint64(sum[:])%uint64(Interval/5))
}
