package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/guardian"
)

// need ends the test where a program is missing that scripts/packages.sh installs.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: run scripts/packages.sh", program)
		}
		t.Skipf("SKIPPED, NOT TESTED: %s is missing: run scripts/packages.sh", program)
	}
}

// rendered is each page as a person reads it.
func rendered(t *testing.T) map[string]string {
	t.Helper()
	need(t, "mandoc")
	dir := t.TempDir()
	if err := write(dir, "1.2.3", "2026-11-26"); err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	files, _ := filepath.Glob(dir + "/man/*")
	for _, file := range files {
		if out, err := exec.Command("mandoc", "-T", "lint", "-W", "warning", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(file), err, out)
		}
		if _, err := exec.LookPath("groff"); err == nil {
			out, err := exec.Command("groff", "-man", "-ww", "-z", "-Tutf8", file).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("groff -ww %s: %v\n%s", filepath.Base(file), err, out)
			}
		}
		out, err := exec.Command("mandoc", "-T", "utf8", "-O", "width=1000", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		pages[filepath.Base(file)] = regexp.MustCompile(".\b").ReplaceAllString(string(out), "")
	}
	return pages
}

// TestPages: what the usage texts say is on the pages as a person sees them, and
// no man program has anything to say about the pages.
func TestPages(t *testing.T) {
	pages := rendered(t)
	for _, name := range []string{"ota-apply.1", "ota-guardian.8", "ota-bundle.1", "ota.toml.5", "ota.7"} {
		if !strings.Contains(pages[name], "ota 1.2.3") {
			t.Errorf("%s does not name its version", name)
		}
		if len(pages[name]) < 1000 {
			t.Errorf("%s has only %d bytes", name, len(pages[name]))
		}
	}
	for _, p := range programs() {
		section := map[bool]string{true: ".8", false: ".1"}[p.Name == "ota-guardian"]
		page := strings.Join(strings.Fields(pages[p.Name+section]), " ")
		want := []string{p.Name + " - " + p.Summary}
		for _, text := range []string{p.Notes, p.Exits} {
			for line := range strings.Lines(text) {
				want = append(want, strings.Join(strings.Fields(strings.TrimPrefix(line, "Exit codes:")), " "))
			}
		}
		for _, v := range p.Verbs {
			// What the program itself says, with the flags that it takes.
			var help bytes.Buffer
			if err := p.Run(t.Context(), append(strings.Fields(v.Name), "--help"), &help, &help); err != nil {
				t.Fatal(err)
			}
			if v.Help == "" {
				continue
			}
			want = append(want, v.Name, strings.Join(strings.Fields(v.Help), " "))
			for _, m := range regexp.MustCompile(`(?m)^  (--?[a-z0-9-]+.*?)(?:  | ?$)`).FindAllStringSubmatch(help.String(), -1) {
				want = append(want, m[1])
			}
		}
		if len(want) < 25 {
			t.Errorf("%s: only %d things are understood", p.Name, len(want))
		}
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("%s%s lacks %q", p.Name, section, w)
			}
		}
	}
}

// What a page says of other pages is there.
func TestReferences(t *testing.T) {
	const others = " minisign(1) systemd.special(7) "
	reference := regexp.MustCompile(`\*\*([a-z.-]+)\*\*(\(\d\))`)
	files, _ := filepath.Glob("*.md")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range reference.FindAllStringSubmatch(string(text), -1) {
			page := m[1] + m[2]
			if strings.Contains(others, " "+page+" ") {
				continue
			}
			if _, err := os.Stat(m[1] + "." + m[2][1:2] + ".md"); err != nil {
				t.Errorf("%s names %s, which is no page", file, page)
			}
		}
	}
}

// TestConfigurationPage: ota.toml(5) has every key that the programs read, no
// other, and each with the default that they have.
func TestConfigurationPage(t *testing.T) {
	page, err := os.ReadFile("ota.toml.5.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var file strings.Builder
	known, bare := map[string]bool{}, map[string]string{}
	table := ""
	lines := strings.Split(string(page), "\n")
	for i, line := range lines {
		if name, ok := strings.CutPrefix(line, "## ["); ok {
			table = "[" + name
			fmt.Fprintln(&file, table)
			known[strings.Trim(table, "[]")] = true
		}
		if i+1 >= len(lines) || !strings.HasPrefix(lines[i+1], ": ") {
			continue
		}
		entry := strings.Trim(line, "`")
		key, _, hasDefault := strings.Cut(entry, " = ")
		known[key] = true
		if !hasDefault {
			bare[key] = table
			continue
		}
		fmt.Fprintln(&file, strings.ReplaceAll(entry, "/etc/ota", dir))
	}
	path := filepath.Join(dir, "ota.toml")
	if err := os.WriteFile(path, []byte(file.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(path)
	if err != nil {
		t.Errorf("what the page shows is no configuration: %v\n%s", err, &file)
	}
	if diff := cmp.Diff(config.Default(path), got, cmpopts.IgnoreUnexported(config.Config{})); diff != "" {
		t.Errorf("the defaults (-of the programs +of the page):\n%s", diff)
	}
	for key, table := range bare {
		if table != "[[check]]" {
			t.Errorf("%s of %s has no default on the page", key, table)
		}
	}

	source, err := os.ReadFile("../../bootcheck/config/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{"check": true}
	for _, m := range regexp.MustCompile(`\n\t+"([a-z_.]+)": `).FindAllStringSubmatch(string(source), -1) {
		for name := range strings.SplitSeq(m[1], ".") {
			read[name] = true
		}
	}
	if diff := cmp.Diff(read, known); diff != "" {
		t.Errorf("the keys (-that are read +on the page):\n%s", diff)
	}
}

// TestCompletion asks a real bash what it would offer.
func TestCompletion(t *testing.T) {
	need(t, "bash")
	dir := t.TempDir()
	if err := write(dir, "1.2.3", ""); err != nil {
		t.Fatal(err)
	}
	// A program that has versions, and says which store it was asked for.
	bin := filepath.Join(dir, "bin")
	for name, text := range map[string]string{
		"bin/ota-apply": "#!/bin/sh\n[ \"$1\" = list ] || exit 2\ncase \"$*\" in *broken*) echo no store >&2; exit 1 ;; *slow*) sleep 60 ;; *other*) echo '9.0.0 other 1 MiB' ;; esac\n" +
			"echo '1.0.0                    factory           1.0 MiB'\necho '1.1.0                    current           1.0 MiB'\n",
		"work/1.2.0.ota":   "",
		"work/a folder/x":  "",
		"work/release.key": "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	commands := func(p *cli.Program) (names []string) {
		for _, v := range p.Verbs {
			if name, _, _ := strings.Cut(v.Name, " "); v.Help != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return append(names, "--help", "--version")
	}
	files := []string{"1.2.0.ota", "a folder", "release.key"}
	for _, row := range []struct {
		line string // words; the last is completed
		want []string
	}{
		{"ota-apply ", commands(applier.Program())},
		{"ota-apply sta", []string{"status"}},
		{"ota-apply --v", []string{"--version"}},
		{"ota-apply fly ", nil},
		{"ota-apply activate ", []string{"1.0.0", "1.1.0"}},
		{"ota-apply activate 1.1", []string{"1.1.0"}},
		{"ota-apply activate --force ", []string{"1.0.0", "1.1.0"}},
		{"ota-apply activate --", []string{"--allow-downgrade", "--at-reboot", "--config", "--force", "--json", "--root"}},
		{"ota-apply unblock ", []string{"1.0.0", "1.1.0"}},
		{"ota-apply verify ", append([]string{"1.0.0", "1.1.0"}, files...)},
		{"ota-apply verify 1", []string{"1.0.0", "1.1.0", "1.2.0.ota"}},
		{"ota-apply install ", append([]string{"-"}, files...)},
		{"ota-apply install --url-file 1", files[:1]},
		{"ota-apply install --limit-rate ", nil},
		{"ota-apply install --limit-rate 2M --no", []string{"--no-activate"}},
		{"ota-apply --root other activate ", []string{"1.0.0", "1.1.0", "9.0.0"}},
		{"ota-apply activate --root = other 9", []string{"9.0.0"}},
		{"ota-apply activate --root broken ", nil},
		{"ota-apply activate --root slow ", nil},
		{"ota-apply --root ", []string{"a folder"}},
		{"ota-apply activate --root = a", []string{"a folder"}},
		{"ota-apply --config ", files},
		{bin + "/ota-apply unblock ", []string{"1.0.0", "1.1.0"}},
		{"ota-guardian ", commands(guardian.Program(&cli.Output{}, nil))},
		{"ota-guardian rollback ", []string{"previous", "factory", "1.0.0", "1.1.0"}},
		{"ota-guardian rollback p", []string{"previous"}},
		{"ota-guardian factory ", []string{"create", "verify", "repair"}},
		{"ota-guardian factory create ", []string{"1.0.0", "1.1.0"}},
		{"ota-guardian factory verify ", nil},
		{"ota-guardian factory create --", []string{"--config", "--root", "--untried"}},
		{"ota-guardian verify --repair 1.0", []string{"1.0.0"}},
		{"ota-guardian boot --last-boot ", []string{"clean", "unclean", "hard"}},
		{bin + "/ota-guardian rollback 1.1", []string{"1.1.0"}},
		{"ota-bundle create --key r", []string{"release.key"}},
		{"ota-bundle create --dir ", []string{"a folder"}},
		{"ota-bundle inspect ", files},
	} {
		t.Run(row.line, func(t *testing.T) {
			t.Parallel()
			words := strings.Split(row.line, " ")
			name := filepath.Base(words[0])
			// As readline does: the function that complete -p names, with the words.
			cmd := exec.Command("bash", "--norc", "-eu", "-c", `
				program=$1
				. "$2"
				shift 2
				function=$(complete -p "$program" | sed -n 's/^complete -F \([a-z_]*\) .*/\1/p')
				COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=1000
				"$function" "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" || true
				printf '%s\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"}`, "bash", name, filepath.Join(dir, "completions", name))
			cmd.Args = append(cmd.Args, words...)
			cmd.Dir = filepath.Join(dir, "work")
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil || stderr.Len() > 0 {
				t.Fatalf("%v: %s", err, &stderr)
			}
			got := strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
			want := slices.Clone(row.want)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("bash offers (-want +got):\n%s", diff)
			}
		})
	}
}
