// Package oci finds and publishes bundles in OCI registries: a bundle is an artifact of
// one layer, the bundle as it is. What a registry says is trusted as little as what any
// other server says: the signature in the bundle decides.
//
//	oci://registry.example.com/printers/x1:1.2.0
//	oci://registry.example.com/printers/x1@sha256:…
//
// On the loopback interface registries are spoken to by http, all others by https.
package oci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// Scheme begins an address of this package.
const Scheme = "oci://"

// artifactType is what a manifest that holds a bundle says that it is, and the media type
// of its layer.
const artifactType = "application/vnd.tope.ota.bundle.v1"

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// maxManifest is how long a manifest may be, bytes: one of a layer has less than 1 KiB.
const maxManifest = 64 << 10

// A Reference names an artifact.
type Reference struct {
	Host   string // with the port, if there is one
	Name   string
	Tag    string // empty: Digest says which
	Digest string // sha256:HEX; empty: Tag says which
}

// Parse reads an address. It must have a tag or a digest: no release is called "latest" by default.
func Parse(address string) (Reference, error) {
	rest, ok := strings.CutPrefix(address, Scheme)
	host, name, _ := strings.Cut(rest, "/")
	r := Reference{Host: host, Name: name}
	if at := strings.LastIndex(name, "@"); at >= 0 {
		r.Name, r.Digest = name[:at], name[at+1:]
	} else if colon := strings.LastIndex(name, ":"); colon >= 0 {
		r.Name, r.Tag = name[:colon], name[colon+1:]
	}
	switch {
	case !ok || !only(strings.ToLower(r.Host), "-.:[]"):
		return r, fmt.Errorf("%.200q is not oci://HOST/NAME:TAG or oci://HOST/NAME@DIGEST", address)
	case !validName(r.Name):
		return r, fmt.Errorf("%.200q: the name of a repository has small letters, digits and ._-/", address)
	case r.Digest == "" && (!only(strings.ToLower(r.Tag), "._-") || len(r.Tag) > 128 || strings.HasPrefix(r.Tag, ".") || strings.HasPrefix(r.Tag, "-")):
		return r, fmt.Errorf("%.200q names neither a tag (:1.2.0) nor a digest (@sha256:…)", address)
	case r.Digest != "" && !bootcheck.ValidDigest(r.Digest):
		return r, fmt.Errorf("%.200q: a digest is sha256: and 64 hex digits", address)
	}
	return r, nil
}

// only reports whether s has small letters, digits and marks, and is not empty.
func only(s, marks string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789"+marks) == ""
}

// validName reports whether s can be the name of a repository.
func validName(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !only(part, "._-") || strings.Trim(part, "._-") != part {
			return false
		}
	}
	return true
}

// String is the address.
func (r Reference) String() string {
	if r.Digest != "" {
		return Scheme + r.Host + "/" + r.Name + "@" + r.Digest
	}
	return Scheme + r.Host + "/" + r.Name + ":" + r.Tag
}

// url is the address of what in the repository: manifests/TAG, blobs/DIGEST.
func (r Reference) url(what string) string {
	scheme := "https"
	if onDevice(&url.URL{Host: r.Host}) {
		scheme = "http"
	}
	return scheme + "://" + r.Host + "/v2/" + r.Name + "/" + what
}

// onDevice reports whether u is on the loopback interface.
func onDevice(u *url.URL) bool {
	host := u.Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// A manifest describes an artifact.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// A descriptor describes a part of an artifact.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"` // bytes
	Annotations map[string]string `json:"annotations,omitempty"`
}

// A StatusError is an answer of a registry that is no success.
type StatusError struct {
	What string // that was asked for
	Code int    // of HTTP
}

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%s: the registry answered %d %s", e.What, e.Code, http.StatusText(e.Code)))
}

// Transient reports whether the same request may have another answer later.
func (e *StatusError) Transient() bool {
	return e.Code == http.StatusRequestTimeout || e.Code == http.StatusTooManyRequests || e.Code >= 500
}

// Locate asks the registry where the bundle of r is: the address of its bytes, and how
// many there are. Errors are *StatusError, or those of client, or say that r is no bundle.
func (r Reference) Locate(ctx context.Context, client *http.Client) (url string, size int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url("manifests/"+cmp.Or(r.Digest, r.Tag)), nil)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Accept", manifestType)
	req.Header.Set("User-Agent", "ota-apply")
	_, text, err := r.send(client, req, http.StatusOK)
	if err != nil {
		return "", 0, err
	}
	layer, err := r.layer(text)
	if err != nil {
		return "", 0, fmt.Errorf("%s is no bundle: %w", r, err)
	}
	return r.url("blobs/" + layer.Digest), layer.Size, nil
}

// send sends req, whose answer must have the status want. text is what it says, up to a byte
// more than maxManifest.
func (r Reference) send(client *http.Client, req *http.Request, want int) (resp *http.Response, text []byte, err error) {
	if resp, err = client.Do(req); err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if resp.StatusCode != want {
		err = &StatusError{r.String(), resp.StatusCode}
	}
	return resp, text, err
}

// layer is the bundle in the manifest text.
func (r Reference) layer(text []byte) (l descriptor, err error) {
	var m manifest
	switch {
	case len(text) > maxManifest:
		return l, fmt.Errorf("its manifest is longer than %d bytes", maxManifest)
	case r.Digest != "" && r.Digest != bootcheck.Digest(text):
		return l, errors.New("its manifest does not have the digest that was asked for")
	case json.Unmarshal(text, &m) != nil:
		return l, errors.New("its manifest cannot be read")
	case len(m.Layers) != 1:
		return l, fmt.Errorf("it has %d layers, want 1, the bundle", len(m.Layers))
	}
	if l = m.Layers[0]; !bootcheck.ValidDigest(l.Digest) || l.Size <= 0 {
		return l, errors.New("its layer has no SHA-256 or no size")
	}
	return l, nil
}
