package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
)

// emptyConfig is the config of an artifact that needs none, by OCI's image specification.
const emptyConfig = "{}"

// Push uploads the bundle in the file name as r, which has a tag, and returns its
// reference by digest. Parts that the registry has are not sent again; the tag is set last.
// Errors are *StatusError, or those of client or of the file.
func (r Reference) Push(ctx context.Context, client *http.Client, name string) (Reference, error) {
	f, err := os.Open(name)
	if err != nil {
		return r, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return r, err
	}
	layer := Descriptor{
		MediaType: ArtifactType, Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: size,
		Annotations: map[string]string{"org.opencontainers.image.title": filepath.Base(name)},
	}
	config := Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: digestOf([]byte(emptyConfig)), Size: int64(len(emptyConfig))}
	if err := r.pushBlob(ctx, client, layer, func() io.ReadCloser { return io.NopCloser(io.NewSectionReader(f, 0, size)) }); err != nil {
		return r, err
	}
	if err := r.pushBlob(ctx, client, config, func() io.ReadCloser { return io.NopCloser(bytes.NewReader([]byte(emptyConfig))) }); err != nil {
		return r, err
	}
	text, err := json.Marshal(Manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: ArtifactType, Config: config, Layers: []Descriptor{layer}})
	if err != nil {
		return r, err
	}
	err = r.send(ctx, client, http.MethodPut, r.url("manifests/"+r.Tag), manifestType, int64(len(text)),
		func() io.ReadCloser { return io.NopCloser(bytes.NewReader(text)) }, nil, http.StatusCreated)
	return Reference{Host: r.Host, Name: r.Name, Digest: digestOf(text)}, err
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r Reference) pushBlob(ctx context.Context, client *http.Client, d Descriptor, body func() io.ReadCloser) error {
	if r.send(ctx, client, http.MethodHead, r.url("blobs/"+d.Digest), "", 0, nil, nil, http.StatusOK) == nil {
		return nil
	}
	var location *url.URL
	if err := r.send(ctx, client, http.MethodPost, r.url("blobs/uploads/"), "", 0, nil, &location, http.StatusAccepted); err != nil {
		return err
	}
	if location == nil {
		return fmt.Errorf("%s: the registry does not say where the upload goes", r)
	}
	q := location.Query()
	q.Set("digest", d.Digest)
	location.RawQuery = q.Encode()
	return r.send(ctx, client, http.MethodPut, location.String(), "application/octet-stream", d.Size, body, nil, http.StatusCreated)
}

// send makes one request, whose answer must have the status want, and notes its Location.
func (r Reference) send(ctx context.Context, client *http.Client, method, to, contentType string, size int64, body func() io.ReadCloser, location **url.URL, want int) error {
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "ota-bundle")
	if body != nil {
		req.ContentLength, req.Body = size, body()
		req.GetBody = func() (io.ReadCloser, error) { return body(), nil }
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxSmall))
	if resp.StatusCode != want {
		return &StatusError{r.String(), resp.StatusCode}
	}
	if location != nil {
		*location, err = resp.Location()
	}
	return err
}
