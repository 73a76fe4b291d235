package docs

import (
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// TestRecipes runs what the recipes of yocto.md and buildroot.md do to install, each
// as far as it is shell or make, and lets systemd read the result.
func TestRecipes(t *testing.T) {
	machine.Require(t, "recipe", debian.MissingTools("systemd-analyze", "shellcheck", "make"))
	repo, bin := root(t), programs(t)
	run := func(name string, argv ...string) string {
		cmd := exec.Command(name, argv...)
		cmd.Dir = repo
		return try.Run(cmd)
	}
	verify := func(t *testing.T, dest string) {
		t.Helper()
		for _, name := range []string{"usr/bin/ota-guardian", "usr/lib/systemd/system/device-api.service.d/50-ota.conf", "etc/ota/ota.toml"} {
			if _, err := os.Stat(filepath.Join(dest, name)); err != nil {
				t.Error(err)
			}
		}
		if left, _ := filepath.Glob(dest + "/opt/*/*"); left != nil {
			t.Errorf("the image has a store, which belongs on the disk for data: %s", left)
		}
		// It verifies all units of the directory; the application's is the image's own.
		unit := try.Get(os.ReadFile(filepath.Join(repo, "units/device-api.service.example")))
		try.Check(os.WriteFile(filepath.Join(dest, "usr/lib/systemd/system/device-api.service"), unit, 0o644))
		run("scripts/verify_units.sh", dest)
	}

	t.Run("bitbake", func(t *testing.T) {
		defer try.Fatal(t)
		// The variables of bitbake that the shell functions use.
		values := map[string]string{
			"D": t.TempDir(), "S": t.TempDir(), "B": t.TempDir(), "UNPACKDIR": t.TempDir(),
			"GO_IMPORT": "github.com/tope-ota/ota", "GO_BUILD_BINDIR": "bin/linux_arm64", "prefix": "/usr", "sysconfdir": "/etc",
		}
		source := filepath.Join(values["S"], "src", values["GO_IMPORT"])
		try.Check(os.MkdirAll(filepath.Dir(source), 0o755))
		try.Check(os.Symlink(repo, source))
		try.Check(os.CopyFS(filepath.Join(values["B"], values["GO_BUILD_BINDIR"]), os.DirFS(bin)))
		for _, name := range []string{"ota.toml", "release.pub", "safe.pub"} {
			try.Check(os.WriteFile(filepath.Join(values["UNPACKDIR"], name), nil, 0o644))
		}
		recipe := string(try.Get(os.ReadFile(filepath.Join(repo, "docs/meta-tope-ota/recipes-support/ota/ota_0.2.bb"))))
		knowsVersion(t, recipe)
		license := regexp.MustCompile(`md5=(\w+)"`).FindStringSubmatch(recipe)
		if sum := fmt.Sprintf("%x", md5.Sum(try.Get(os.ReadFile(filepath.Join(repo, "LICENSE"))))); license == nil || license[1] != sum {
			t.Errorf("the recipe has the checksum %q of LICENSE, want %s", license, sum)
		}
		for _, b := range read(t, filepath.Join(repo, "docs/yocto.md")).blocks {
			if b.kind == "bitbake" {
				recipe += "\n" + b.text()
			}
		}
		functions := 0
		for _, m := range regexp.MustCompile(`(?ms)^do_install(:append)?\(\) \{\n(.*?)^\}`).FindAllStringSubmatch(recipe, -1) {
			functions++
			script := "#!/bin/sh\nset -eu\n" + m[2]
			for name, value := range values {
				script = strings.ReplaceAll(script, "${"+name+"}", value)
			}
			if left := regexp.MustCompile(`\$\{\w+\}`).FindString(script); left != "" {
				t.Fatalf("%s is no variable that this test knows", left)
			}
			file := filepath.Join(t.TempDir(), "do_install.sh")
			try.Check(os.WriteFile(file, []byte(script), 0o755))
			run("shellcheck", file)
			run("sh", file)
		}
		if functions != 2 {
			t.Fatalf("the recipes have %d functions do_install, want 2", functions)
		}
		for _, name := range []string{"ota.toml", "keys/release.pub", "keys/safe.pub"} {
			if _, err := os.Stat(filepath.Join(values["D"], "etc/ota", name)); err != nil {
				t.Error(err)
			}
		}
		verify(t, values["D"])
	})

	t.Run("buildroot", func(t *testing.T) {
		defer try.Fatal(t)
		tree := filepath.Join(repo, "docs/br2-external")
		desc := string(try.Get(os.ReadFile(filepath.Join(tree, "external.desc"))))
		if !strings.HasPrefix(desc, "name: TOPE_OTA\n") {
			t.Errorf("external.desc is %q", desc)
		}
		recipe := string(try.Get(os.ReadFile(filepath.Join(tree, "package/ota/ota.mk"))))
		knowsVersion(t, recipe)
		build, target := t.TempDir(), t.TempDir()
		for _, dir := range []string{"scripts", "units"} {
			try.Check(os.CopyFS(filepath.Join(build, dir), os.DirFS(filepath.Join(repo, dir))))
		}
		try.Check(os.CopyFS(filepath.Join(build, "bin"), os.DirFS(bin)))
		// What pkg-golang.mk makes of the variables, as far as it is needed here.
		text := "SHELL = /bin/bash\ngithub = https://github.com/$(1)/$(2)/archive/$(3)\n" +
			"golang-package = golang := seen\nBR2_EXTERNAL_TOPE_OTA_PATH = " + tree + "\ninclude " + tree + "/external.mk\n" +
			build + "/install:\n\t$(if $(golang),,$(error golang-package was not used))$(OTA_INSTALL_INIT_SYSTEMD)\n"
		text = strings.Replace(text, build+"/install:", ".PHONY: "+build+"/install\n"+build+"/install:", 1)
		file := filepath.Join(build, "stub.mk")
		try.Check(os.WriteFile(file, []byte(text), 0o644))
		out := run("make", "-f", file, "TARGET_DIR="+target, "--warn-undefined-variables", build+"/install")
		if strings.Contains(out, "undefined variable") {
			t.Errorf("make says\n%s", out)
		}
		for _, p := range regexp.MustCompile(`(?m)^OTA_BUILD_TARGETS = (.*)$`).FindAllStringSubmatch(recipe, -1) {
			for _, dir := range strings.Fields(p[1]) {
				if _, err := os.Stat(filepath.Join(repo, dir, "main.go")); err != nil {
					t.Error(err)
				}
			}
		}
		verify(t, target)
	})
}

// knowsVersion: without the Makefile it is the recipe that tells the programs their version.
func knowsVersion(t *testing.T, recipe string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)LDFLAGS = .*-X \S+/bootcheck/cli\.Version=\S`).MatchString(recipe) {
		t.Error("programs of this recipe do not know their version: --version says unknown")
	}
}
