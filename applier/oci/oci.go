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
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Scheme begins an address of this package.
const Scheme = "oci://"

// ArtifactType is what a manifest that holds a bundle says that it is, and the media type
// of its layer.
const ArtifactType = "application/vnd.tope.ota.bundle.v1"

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
	case r.Digest != "" && !validDigest(r.Digest):
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

func validDigest(s string) bool {
	sum, err := hex.DecodeString(strings.TrimPrefix(s, "sha256:"))
	return err == nil && len(sum) == sha256.Size && strings.HasPrefix(s, "sha256:") && strings.ToLower(s) == s
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
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		scheme = "http"
	}
	return scheme + "://" + r.Host + "/v2/" + r.Name + "/" + what
}

// A Manifest describes an artifact.
type Manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        Descriptor   `json:"config"`
	Layers        []Descriptor `json:"layers"`
}

// A Descriptor describes a part of an artifact.
type Descriptor struct {
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
	which := r.Digest
	if which == "" {
		which = r.Tag
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url("manifests/"+which), nil)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Accept", manifestType)
	req.Header.Set("User-Agent", "ota-apply")
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, &StatusError{r.String(), resp.StatusCode}
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return "", 0, err
	}
	layer, err := r.layer(text)
	if err != nil {
		return "", 0, fmt.Errorf("%s is no bundle: %w", r, err)
	}
	return r.url("blobs/" + layer.Digest), layer.Size, nil
}

// layer is the bundle in the manifest text.
func (r Reference) layer(text []byte) (Descriptor, error) {
	var none Descriptor
	if len(text) > maxManifest {
		return none, fmt.Errorf("its manifest is longer than %d bytes", maxManifest)
	}
	if sum := sha256.Sum256(text); r.Digest != "" && r.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return none, errors.New("its manifest does not have the digest that was asked for")
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return none, errors.New("its manifest cannot be read")
	}
	if len(m.Layers) != 1 {
		return none, fmt.Errorf("it has %d layers, want 1, the bundle", len(m.Layers))
	}
	l := m.Layers[0]
	if !validDigest(l.Digest) || l.Size <= 0 {
		return none, errors.New("its layer has no SHA-256 or no size")
	}
	return l, nil
}
