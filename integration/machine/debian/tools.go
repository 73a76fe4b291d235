package debian

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// Tools returns a folder with the files of Debian packages of Debian 12 for amd64, without those
// that they depend on: programs for a test to run, on this machine or in a guest.
// Nothing is installed, so no service is started by it.
func Tools(ctx context.Context, packages ...string) (dir string, err error) {
	recipe := append([]string{formatOfEntries, Bookworm.String(), AMD64.String()}, packages...)
	dir, err = Entry(ctx, "tools-"+Hash(recipe...), func(ctx context.Context, dir string) (string, error) {
		a, unlock, err := newApt(ctx, Bookworm, AMD64)
		if err != nil {
			return "", err
		}
		defer unlock()
		all, err := a.closure(ctx, packages...)
		if err != nil {
			return "", err
		}
		var pkgs []pkg
		for _, p := range all {
			for _, name := range packages {
				if p.name == name {
					pkgs = append(pkgs, p)
				}
			}
		}
		debs, err := a.download(ctx, pkgs)
		if err != nil {
			return "", err
		}
		for _, deb := range debs {
			if err := unpack(ctx, deb, filepath.Join(dir, "root"), nil); err != nil {
				return "", err
			}
		}
		return Hash(list(pkgs)), nil
	})
	if err != nil {
		return "", fmt.Errorf("cannot get the Debian packages %s: %w", strings.Join(packages, ", "), err)
	}
	return filepath.Join(dir, "root"), nil
}
