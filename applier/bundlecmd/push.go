package bundlecmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/oci"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// push uploads the bundle in the file name to the registry of address, under the tag that
// it names. authFile has the credentials; empty: where docker login and podman login put them.
func (c *command) push(ctx context.Context, name, address, authFile string) error {
	if !strings.Contains(address, "://") {
		address = oci.Scheme + address
	}
	ref, err := oci.Parse(address)
	if err == nil && ref.Tag == "" {
		err = fmt.Errorf("%s: a bundle is pushed to a tag", ref)
	}
	if err != nil {
		return cli.Usagef("ota-bundle push", "%v", err)
	}
	b, m, err := parse(name) // what is no bundle is not published
	if err != nil {
		return err
	}
	defer b.Close()
	if trust.SignedBy(b.Signature) == "" {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot push %s: it is not signed, and no device would take it", name).
			WithAdvice("`ota-bundle sign` signs it")
	}
	files := []string{cmp.Or(authFile, os.Getenv("REGISTRY_AUTH_FILE"))}
	if files[0] == "" {
		files = loginFiles()
	}
	credentials := ""
	for _, file := range files {
		if credentials, err = oci.ReadCredentials(file, ref.Host); err != nil {
			return err
		}
		if credentials != "" {
			break
		}
	}
	pushed, err := ref.Push(ctx, &http.Client{Transport: oci.Auth(ref.Host, credentials)(http.DefaultTransport)}, name)
	var status *oci.StatusError
	switch {
	case errors.As(err, &status) && (status.Code == http.StatusUnauthorized || status.Code == http.StatusForbidden):
		return bootcheck.Errorf(bootcheck.ExitFailed, "", "cannot push %s: %v", name, err).WithAdvice("docker login, podman login, or --auth FILE")
	case err != nil:
		// The address of an upload has a secret in its query.
		return fmt.Errorf("cannot push %s: %w", name, fetch.Reason(err))
	}
	c.answerFile(name, info(b.Head, m), trust.SignedBy(b.Signature))
	c.answer.Set("address", fmt.Sprint(ref))
	c.answer.Set("pinned_address", fmt.Sprint(pushed))
	fmt.Fprintf(c.stdout, "%s\n%s\n", ref, pushed)
	c.say(fmt.Sprintf("version %s: a device installs it with `ota-apply install %s`", m.Version, ref))
	return nil
}

// loginFiles are where podman login and docker login put credentials.
func loginFiles() (files []string) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	return files
}
