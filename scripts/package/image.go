package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// image makes a container image of ota-bundle and nothing else, for a CI that runs containers,
// as a file that docker load, podman load and skopeo read.
func image(dir string) (file string, err error) {
	var (
		version, arch = os.Getenv("VERSION"), os.Getenv("ARCH")
		stage         = os.Getenv("STAGE")
	)
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return "", err
	}
	made := time.Unix(seconds, 0).UTC()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for from, to := range map[string]string{"usr/bin/ota-bundle": "ota-bundle"} {
		data, err := os.ReadFile(filepath.Join(stage, from))
		if err != nil {
			return "", err
		}
		if err := w.WriteHeader(&tar.Header{Name: to, Mode: 0o755, Size: int64(len(data)), ModTime: made}); err != nil {
			return "", err
		}
		if _, err := w.Write(data); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return "", err
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: made}, CreatedBy: "scripts/package.sh"}})
	if err != nil {
		return "", err
	}
	config := v1.ConfigFile{Architecture: arch, OS: "linux", Created: v1.Time{Time: made}}
	if arch == "arm7" {
		config.Architecture, config.Variant = "arm", "v7"
	}
	have, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	config.RootFS, config.History = have.RootFS, have.History
	config.Config = v1.Config{
		Entrypoint: []string{"/ota-bundle"}, WorkingDir: "/work",
		Labels: map[string]string{
			"org.opencontainers.image.version": version, "org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source": "https://github.com/tope-ota/ota",
		},
	}
	if img, err = mutate.ConfigFile(img, &config); err != nil {
		return "", err
	}
	tag, err := name.NewTag("ota-bundle:latest")
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "ota-bundle_"+version+"_"+arch+".image.tar")
	if err := tarball.WriteToFile(file+".new", tag, img); err != nil {
		_ = os.Remove(file + ".new")
		return "", err
	}
	return file, os.Rename(file+".new", file)
}
