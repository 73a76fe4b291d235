package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
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
	size, err := io.Copy(sum, bootcheck.UntilDone(ctx, f))
	if err != nil {
		return r, err
	}
	layer := descriptor{
		MediaType: artifactType, Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: size,
		Annotations: map[string]string{"org.opencontainers.image.title": filepath.Base(name)},
	}
	config := descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: bootcheck.Digest([]byte(emptyConfig)), Size: int64(len(emptyConfig))}
	if err := r.pushBlob(ctx, client, layer, f); err != nil {
		return r, err
	}
	if err := r.pushBlob(ctx, client, config, strings.NewReader(emptyConfig)); err != nil {
		return r, err
	}
	text, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: artifactType, Config: config, Layers: []descriptor{layer}})
	if err != nil {
		return r, err
	}
	tagged := descriptor{MediaType: manifestType, Digest: bootcheck.Digest(text), Size: int64(len(text))}
	_, err = r.push(ctx, client, http.MethodPut, r.url("manifests/"+r.Tag), tagged, strings.NewReader(string(text)), http.StatusCreated)
	return Reference{Host: r.Host, Name: r.Name, Digest: tagged.Digest}, err
}

func (r Reference) pushBlob(ctx context.Context, client *http.Client, d descriptor, content io.ReaderAt) error {
	none := descriptor{}
	if _, err := r.push(ctx, client, http.MethodHead, r.url("blobs/"+d.Digest), none, nil, http.StatusOK); err == nil {
		return nil
	}
	resp, err := r.push(ctx, client, http.MethodPost, r.url("blobs/uploads/"), none, nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	to, err := resp.Location()
	if err != nil {
		return fmt.Errorf("%s: the registry does not say where the upload goes", r)
	}
	if to.Host == r.Host {
		to.Scheme = resp.Request.URL.Scheme // behind a proxy it may not know that it is reached by https
	}
	q := to.Query()
	q.Set("digest", d.Digest)
	to.RawQuery = q.Encode()
	d.MediaType = "application/octet-stream"
	_, err = r.push(ctx, client, http.MethodPut, to.String(), d, content, http.StatusCreated)
	return err
}

// push makes one request, with content, which d describes, if that is not nil. The answer must
// have the status want.
func (r Reference) push(ctx context.Context, client *http.Client, method, to string, d descriptor, content io.ReaderAt, want int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "ota-bundle")
	if content != nil {
		req.ContentLength = d.Size
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(content, 0, d.Size)), nil }
		req.Body, _ = req.GetBody()
		req.Header.Set("Content-Type", d.MediaType)
	}
	resp, _, err := r.send(client, req, want)
	return resp, err
}
