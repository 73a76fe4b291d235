package main

import (
	"bytes"
	"context"
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

	"github.com/tope-ota/ota/bootcheck/config"
)

func tools(t *testing.T) map[string]*Tool {
	t.Helper()
	all, err := readTools()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

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

// sources are the Go files that define flags of the three programs.
var sources = []string{"../../guardian/*.go", "../../applier/*.go", "../../applier/bundlecmd/*.go"}

// TestUsageTextsSayWhatTheProgramsTake tries every flag that any program defines
// on every command, followed by two that do not exist. Which of them the program
// does not know says whether the usage text is right; nothing is ever run.
func TestUsageTextsSayWhatTheProgramsTake(t *testing.T) {
	defined := regexp.MustCompile(`\b(?:fs|flags)\.[A-Z][A-Za-z0-9]+\((?:&[\w.]+, )?"([a-z0-9-]+)"`)
	flags := map[string]bool{} // whether a command takes it
	for _, pattern := range sources {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range defined.FindAllSubmatch(text, -1) {
				flags[string(m[1])] = false
			}
		}
	}
	if len(flags) < 20 {
		t.Fatalf("only %d flags are found in the sources: %v", len(flags), flags)
	}
	for name, tool := range tools(t) {
		for _, command := range tool.Commands() {
			said := tool.Command(command)
			for flag := range flags {
				dashes := "--" + flag
				if len(flag) == 1 {
					dashes = "-" + flag
				}
				var stderr bytes.Buffer
				args := append(strings.Fields(command), dashes, "--no-such-1", "--no-such-2")
				code := programs[name](context.Background(), args, &stderr, &stderr)
				if code != 2 {
					t.Fatalf("%s %s ends with %d, want 2", name, strings.Join(args, " "), code)
				}
				text := stderr.String()
				// A flag with an argument has taken the next one for it.
				has := !strings.Contains(text, "not defined: -"+flag+"\n")
				takes := has && !strings.Contains(text, "not defined: -no-such-1\n")
				all := append(slices.Clone(said.Flags), tool.Flags...)
				i := slices.IndexFunc(all, func(f Flag) bool { return f.Name == dashes })
				switch {
				case has && i < 0:
					t.Errorf("%s %s takes %s, and the usage text does not say so", name, command, dashes)
				case !has && i >= 0:
					t.Errorf("the usage text of %s has %s %s, which it does not take", name, command, dashes)
				case has && takes != (all[i].Arg != ""):
					t.Errorf("%s %s %s: takes an argument: %t, the usage text says %q", name, command, dashes, takes, all[i].Arg)
				}
				flags[flag] = flags[flag] || has
			}
		}
	}
	for flag, used := range flags {
		if !used {
			t.Errorf("--%s is in the sources, and no command of the usage texts takes it", flag)
		}
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
	for name, tool := range tools(t) {
		section := map[bool]string{true: ".8", false: ".1"}[name == "ota-guardian"]
		page := strings.Join(strings.Fields(pages[name+section]), " ")
		want := []string{name + " - " + tool.Summary}
		for _, c := range tool.all() {
			want = append(want, name+" "+c.Synopsis+" "+c.Text)
			for _, f := range c.Flags {
				want = append(want, strings.TrimSpace(strings.TrimSpace(f.Name+" "+f.Arg)+" "+f.Text))
			}
		}
		for _, f := range tool.Flags {
			want = append(want, strings.TrimSpace(f.Name+" "+f.Arg)+" "+f.Text)
		}
		for _, line := range tool.Notes {
			want = append(want, strings.Join(strings.Fields(line), " "))
		}
		for _, e := range tool.Exits {
			want = append(want, fmt.Sprintf("%d %s", e.Code, e.Text))
		}
		if len(tool.Exits) < 6 || len(want) < 20 {
			t.Errorf("%s: only %d exit codes and %d things in all are understood", name, len(tool.Exits), len(want))
		}
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("%s%s lacks %q", name, section, w)
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
	apply, guardian := tools(t)["ota-apply"], tools(t)["ota-guardian"]
	files := []string{"1.2.0.ota", "a folder", "release.key"}
	for _, row := range []struct {
		line string // words; the last is completed
		want []string
	}{
		{"ota-apply ", append(apply.Commands(), "--help", "--version")},
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
		{"ota-guardian ", append(slices.DeleteFunc(guardian.Commands(), func(s string) bool { return strings.HasPrefix(s, "factory ") }), "factory", "--help", "--version")},
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

// A text that the generator does not understand is an error, not a page without it.
func TestReadUsageRefuses(t *testing.T) {
	for _, row := range []struct{ name, text string }{
		{"another program", "other does things.\n"},
		{"a command without a word about it", "ota-x does things.\n\n  ota-x fly\n"},
		{"text that belongs to no command", "ota-x does things.\n\n  fly away\n"},
		{"flags of no command", "ota-x does things.\n\n  ota-x fly  flies\n\nFlags of swim:\n  --x  y\n"},
		{"a flag without dashes", "ota-x does things.\n\n  ota-x fly  flies\n\nFlags of fly:\n  x  y\n"},
		{"an exit code that is none", "ota-x does things.\n\n  ota-x fly  flies\n\nExit codes:\n  done 0\n"},
	} {
		if tool, err := readUsage("ota-x", row.text); err == nil {
			t.Errorf("%s: no error, but %+v", row.name, tool)
		}
	}
}
