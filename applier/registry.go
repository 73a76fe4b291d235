package applier

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/oci"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// registryAuth is the credential with which registries are asked, beside the configuration.
const registryAuth = "registry.json"

// locate asks the registry of address, oci://…, for the bundle: src is where its bytes
// are, and opt, with which they are fetched, then answers the registry's challenges.
func (a *applier) locate(ctx context.Context, address string, src *fetch.Source, opt *fetch.Options) error {
	ref, err := oci.Parse(address)
	if err != nil {
		return bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, "%w", err)
	}
	file := credential(filepath.Join(filepath.Dir(a.cfg.Path), registryAuth))
	credentials, err := oci.ReadCredentials(file, ref.Host)
	if err != nil {
		return err
	}
	opt.Transport = oci.Auth(ref.Host, credentials)
	client, err := opt.Client()
	if err != nil {
		return err
	}
	for pause := time.Second; ; pause *= 4 {
		url, size, err := ref.Locate(ctx, client)
		if err == nil {
			if src.URL = url; src.Size <= 0 {
				src.Size = size
			}
			return nil
		}
		if own, ok := errors.AsType[*bootcheck.Error](err); ok {
			return own // of a file of the configuration, which the registry was not asked about
		}
		var status *oci.StatusError
		answered := errors.As(err, &status)
		err = fetch.Reason(err)
		if ctx.Err() == nil && pause < time.Minute && (!answered || status.Transient()) {
			a.logf("%v; the next try is in %v", err, pause)
			if systemd.Pause(ctx, pause) == nil {
				continue
			}
		}
		e := bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeDownloadFailed, "cannot download %q: %w", address, err)
		if answered {
			switch status.Code {
			case http.StatusUnauthorized, http.StatusForbidden:
				return e.WithAdvice("put the registry's user and password into %s, as `docker login` writes it, mode 0600", file)
			case http.StatusNotFound:
				return e.WithAdvice("check the name and the tag: `ota-bundle push` prints both")
			}
		}
		return e
	}
}

// credential is the file of that name in the directory that systemd passes credentials in
// (LoadCredential=), or else file.
func credential(file string) string {
	in := filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), filepath.Base(file))
	if _, err := os.Lstat(in); err == nil && file != "" && filepath.IsAbs(in) {
		return in
	}
	return file
}
