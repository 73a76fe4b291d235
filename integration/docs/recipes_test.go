package docs

import (
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// golangPackage is what pkg-golang.mk and pkg-generic.mk read, of what a package like this
// one has use for: Buildroot 2025.02 to 2026.08.
const golangPackage = "OTA_VERSION OTA_SITE OTA_LICENSE OTA_LICENSE_FILES OTA_GOMOD OTA_GO_ENV OTA_TAGS OTA_LDFLAGS " +
	"OTA_BUILD_OPTS OTA_BUILD_TARGETS OTA_INSTALL_TARGET_CMDS OTA_INSTALL_INIT_SYSTEMD"

// ownVariables are for the commands of the package itself.
const ownVariables = " OTA_SERVICES OTA_STORE"

// TestRecipes runs what the recipes of yocto.md and buildroot.md do to install, each
// as far as it is shell or make, and lets systemd read the result.
func TestRecipes(t *testing.T) {
	defer try.Fatal(t)
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
		// A read-only root needs the directory, for the disk for data.
		if left, err := os.ReadDir(filepath.Join(dest, "opt/tope/versions")); err != nil || len(left) > 0 {
			t.Errorf("the image has no empty directory for the store: %v %s", err, left)
		}
		// It verifies all units of the directory; the application's is the image's own.
		unit := try.Get(os.ReadFile(filepath.Join(repo, "units/device-api.service.example")))
		try.Check(os.WriteFile(filepath.Join(dest, "usr/lib/systemd/system/device-api.service"), unit, 0o644))
		run("scripts/verify_units.sh", dest)
	}

	// Releases of both are chosen by their Go.
	needs := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(try.Get(os.ReadFile(filepath.Join(repo, "go.mod")))))
	for _, name := range []string{"yocto.md", "buildroot.md"} {
		if text := try.Get(os.ReadFile(filepath.Join(repo, "docs", name))); !strings.Contains(string(text), "`go.mod` asks for Go "+needs[1]) {
			t.Errorf("%s does not say that go.mod asks for Go %s", name, needs[1])
		}
	}

	t.Run("bitbake", func(t *testing.T) {
		defer try.Fatal(t)
		// The variables of bitbake that the shell functions use.
		values := map[string]string{
			"D": t.TempDir(), "S": t.TempDir(), "B": t.TempDir(), "UNPACKDIR": t.TempDir(),
			"GO_IMPORT": "github.com/tope-ota/ota", "GO_BUILD_BINDIR": "bin/linux_arm64", "prefix": "/usr", "sysconfdir": "/etc",
			"OTA_SERVICES": "device-api.service printer.service", "OTA_STORE": "/opt/tope/versions",
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
		licenses := regexp.MustCompile(`file://src/\$\{GO_IMPORT\}/(\S+);md5=(\w+)`).FindAllStringSubmatch(recipe, -1)
		if len(licenses) != 2 {
			t.Errorf("the recipe has %d files of licences, want LICENSE and docs/NOTICE", len(licenses))
		}
		for _, m := range licenses {
			if sum := fmt.Sprintf("%x", md5.Sum(try.Get(os.ReadFile(filepath.Join(repo, m[1]))))); m[2] != sum {
				t.Errorf("the recipe has the checksum %s of %s, want %s", m[2], m[1], sum)
			}
		}
		for _, which := range []string{"enabled", "started"} {
			values["OTA_"+strings.ToUpper(which)] = strings.TrimSpace(run("scripts/install.sh", "--list", which))
			if line := fmt.Sprintf("\nOTA_%s = %q\n", strings.ToUpper(which), values["OTA_"+strings.ToUpper(which)]); !strings.Contains(recipe, line) {
				t.Errorf("the recipe does not say %s", line)
			}
		}
		for _, b := range read(t, filepath.Join(repo, "docs/yocto.md")).blocks {
			if b.kind == "bitbake" {
				recipe += "\n" + b.text()
			}
		}
		functions := 0
		for _, m := range regexp.MustCompile(`(?ms)^(do_install|do_install:append:class-target|pkg_(?:postinst|prerm):\$\{PN\})\(\) \{\n(.*?)^\}`).FindAllStringSubmatch(recipe, -1) {
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
			if !strings.HasPrefix(m[1], "pkg_") {
				run("sh", file)
				continue
			}
			if strings.HasPrefix(m[1], "pkg_postinst") {
				// With an upgrade, too: a follower that the operator enabled stays enabled.
				if out := run("env", "D=", "sh", "-c", `systemctl() { echo "$@"; }; . `+file); strings.Contains(out, "ota-follow") || !strings.Contains(out, "preset "+values["OTA_ENABLED"]) {
					t.Errorf("an installation calls systemctl\n%s", out)
				}
				continue
			}
			stub := `systemctl() { echo "$1"; }; . ` + file
			if out := run("sh", "-c", stub, "sh", "upgrade") + run("sh", "-c", stub, "sh", "1"); out != "" {
				t.Errorf("an upgrade stops units: %s", out)
			}
			if out := run("sh", "-c", stub, "sh", "remove"); out != "stop\n--quiet\n" {
				t.Errorf("the removal of the package calls systemctl %q", out)
			}
		}
		if functions != 4 {
			t.Fatalf("the recipes have %d of the functions that are tried here, want 4", functions)
		}
		for _, name := range []string{"ota.toml", "keys/release.pub", "keys/safe.pub"} {
			if _, err := os.Stat(filepath.Join(values["D"], "etc/ota", name)); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(filepath.Join(values["D"], "usr/lib/systemd/system/printer.service.d/50-ota.conf")); err != nil {
			t.Error(err)
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
		// Buildroot 2025.11 and later read nothing at all if there is OTA_INSTALL_BINS.
		for _, m := range regexp.MustCompile(`(?m)^(?:define )?(OTA_\w+)`).FindAllStringSubmatch(recipe, -1) {
			if !slices.Contains(strings.Fields(golangPackage+ownVariables), m[1]) {
				t.Errorf("golang-package does not know %s", m[1])
			}
		}
		// What pkg-golang.mk makes of the variables, as far as it is needed here.
		text := "SHELL = /bin/bash\ngithub = https://github.com/$(1)/$(2)/archive/$(3)\n" +
			"golang-package = golang := seen\nBR2_EXTERNAL_TOPE_OTA_PATH = " + tree + "\ninclude " + tree + "/external.mk\n" +
			".PHONY: targets " + build + "/install\n" + build + "/install:\n\t$(if $(golang),,$(error golang-package was not used))$(OTA_INSTALL_TARGET_CMDS)\n" +
			"targets:\n\t@echo $(OTA_BUILD_TARGETS)\n"
		file := filepath.Join(build, "stub.mk")
		try.Check(os.WriteFile(file, []byte(text), 0o644))
		out := run("make", "-f", file, "TARGET_DIR="+target, "--warn-undefined-variables", build+"/install")
		if strings.Contains(out, "undefined variable") {
			t.Errorf("make says\n%s", out)
		}
		targets := strings.Fields(run("make", "--no-print-directory", "-f", file, "targets"))
		if len(targets) != 3 {
			t.Errorf("it builds %q, want three programs", targets)
		}
		for _, dir := range targets {
			if _, err := os.Stat(filepath.Join(repo, dir, "main.go")); err != nil {
				t.Error(err)
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
