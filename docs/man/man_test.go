package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

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

// rendered is each page as an operator reads it.
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

// TestPages: what the usage texts say is on the pages as an operator sees them, and
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

	read := make(map[string]bool)
	for _, s := range config.Default(path).Settings() {
		for name := range strings.SplitSeq(s.Key, ".") {
			read[name] = true
		}
	}
	check := reflect.TypeFor[config.Check]()
	for i := range check.NumField() {
		read[strings.ToLower(check.Field(i).Name)] = true
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
		"work/1.2.0.ota":     "",
		"work/a directory/x": "",
		"work/release.key":   "",
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
	files := []string{"1.2.0.ota", "a directory", "release.key"}
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
		{"ota-apply install --limit-rate 2M --no", []string{"--no-activate", "--no-patch"}},
		{"ota-apply --root other activate ", []string{"1.0.0", "1.1.0", "9.0.0"}},
		{"ota-apply activate --root = other 9", []string{"9.0.0"}},
		{"ota-apply activate --root broken ", nil},
		{"ota-apply activate --root slow ", nil},
		{"ota-apply --root ", []string{"a directory"}},
		{"ota-apply activate --root = a", []string{"a directory"}},
		{"ota-apply --config ", files},
		{bin + "/ota-apply unblock ", []string{"1.0.0", "1.1.0"}},
		{"ota-guardian ", commands(guardian.Program(&cli.Output{}, nil))},
		{"ota-guardian rollback ", []string{"previous", "factory", "1.0.0", "1.1.0"}},
		{"ota-guardian rollback p", []string{"previous"}},
		{"ota-guardian factory ", []string{"create", "verify", "repair"}},
		{"ota-guardian factory create ", []string{"1.0.0", "1.1.0"}},
		{"ota-guardian factory verify ", nil},
		{"ota-guardian factory create --", []string{"--config", "--json", "--root", "--untried"}},
		{"ota-guardian verify --repair 1.0", []string{"1.0.0"}},
		{"ota-guardian boot --last-boot ", []string{"clean", "unclean", "hard"}},
		{bin + "/ota-guardian rollback 1.1", []string{"1.1.0"}},
		{"ota ", commands(wrapper())},
		{"ota ro", []string{"rollback"}},
		{"ota activate ", []string{"1.0.0", "1.1.0"}},
		{"ota install --dry", []string{"--dry-run"}},
		{"ota factory ", []string{"create", "verify", "repair"}},
		{"ota verify --rep", []string{"--repair"}},
		{"ota verify 1", []string{"1.0.0", "1.1.0", "1.2.0.ota"}},
		{"ota-bundle create --key r", []string{"release.key"}},
		{"ota-bundle create --dir ", []string{"a directory"}},
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

// TestOverview: the list of commands is one screen, a line each; the help of one is 30 lines.
func TestOverview(t *testing.T) {
	for _, p := range programs() {
		var help bytes.Buffer
		if err := p.Run(t.Context(), []string{"--help"}, &help, &help); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(help.String(), "\n"), "\n")
		if len(lines) > 20 {
			t.Errorf("%s --help has %d lines, want 20 at most:\n%s", p.Name, len(lines), &help)
		}
		for _, line := range lines {
			if utf8.RuneCountInString(line) > 80 || strings.HasPrefix(line, "      ") {
				t.Errorf("%s --help: a command has more than one line of 80 columns: %q", p.Name, line)
			}
		}
		for _, v := range p.Verbs {
			help.Reset()
			if err := p.Run(t.Context(), append([]string{"help"}, strings.Fields(v.Name)...), &help, &help); err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(help.String(), "\n"); lines > 30 {
				t.Errorf("%s help %s has %d lines, want 30 at most:\n%s", p.Name, v.Name, lines, &help)
			}
		}
	}
}

// TestWrapper: what is completed of ota is what it takes.
func TestWrapper(t *testing.T) {
	script, err := os.ReadFile("../../scripts/ota")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^((?:[a-z-]+ \| )*[a-z-]+)\)`).FindAllStringSubmatch(string(script), -1) {
		want = append(want, strings.Split(m[1], " | ")...)
	}
	want = slices.DeleteFunc(want, func(name string) bool { return name == "help" || strings.HasPrefix(name, "-") })
	var got []string
	for _, v := range wrapper().Verbs {
		name, _, _ := strings.Cut(v.Name, " ")
		got = append(got, name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("the commands (-that scripts/ota takes +that are completed):\n%s", diff)
	}
}

// TestOtherShells asks a real fish what it would offer, and a zsh at a terminal what it makes
// of a word.
func TestOtherShells(t *testing.T) {
	need(t, "fish")
	need(t, "zsh")
	dir := t.TempDir()
	if err := write(dir, "1.2.3", ""); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	for name, text := range map[string]string{
		"bin/ota-apply":    "#!/bin/sh\necho 'VERSION  STATE'; echo '1.0.0  factory'; echo '1.1.0  current'\n",
		"work/release.key": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	environment := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir, "TERM=dumb")
	for _, row := range []struct {
		line string
		want []string // among what is offered
		not  string
	}{
		{"ota-apply inst", []string{"install"}, "verify"},
		{"ota-apply install --dry", []string{"--dry-run"}, "--json"},
		{"ota-apply activate ", []string{"1.0.0", "1.1.0"}, "install"},
		{"ota-guardian factory ", []string{"create", "repair", "verify"}, "history"},
		{"ota-guardian factory create --unt", []string{"--untried"}, ""},
		{"ota-guardian rollback --js", []string{"--json"}, "--untried"},
		{"ota ro", []string{"rollback"}, "install"},
		{"ota activate ", []string{"1.0.0", "1.1.0"}, "install"},
		{"ota-bundle create --key rel", []string{"release.key"}, ""},
		{"ota-bundle ", []string{"keygen", "sign", "push"}, "status"},
	} {
		name, _, _ := strings.Cut(row.line, " ")
		fish := exec.Command("fish", "--no-config", "-c", "source "+dir+"/completions/"+name+".fish; complete -C '"+row.line+"'")
		fish.Dir, fish.Env = filepath.Join(dir, "work"), environment
		out, err := fish.CombinedOutput()
		if err != nil {
			t.Errorf("fish, %q: %v\n%s", row.line, err, out)
		}
		var offered []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			offered = append(offered, word)
		}
		for _, w := range row.want {
			if !slices.Contains(offered, w) {
				t.Errorf("fish, %q: it offers %q, want %q among them", row.line, offered, w)
			}
		}
		if slices.Contains(offered, row.not) {
			t.Errorf("fish, %q: it offers %q", row.line, row.not)
		}
		if len(row.want) > 1 {
			continue // zsh shows those in a list, which a terminal would have to be read for
		}
		// The word is made whole at the prompt; then the line is printed instead of run.
		zsh := exec.Command("zsh", "-fc", `
			zmodload zsh/zpty
			zpty z zsh -fi
			zpty -w z "PS1= ; fpath=($1 \$fpath); autoload -Uz compinit; compinit -uD; bindkey '^I' complete-word; cd $3"
			zpty -w z "accept() { print -r -- \"LINE<\$BUFFER>\"; BUFFER=; zle .accept-line }; zle -N accept; bindkey '^G' accept; print REA''DY"
			while zpty -r z line; do [[ $line != *READY* ]] || break; done
			zpty -w -n z "$2"$'\t\a'
			while zpty -r z line; do [[ $line != *'LINE<'* ]] || { print -r -- "${${line#*LINE<}%>*}"; break; }; done`,
			"zsh", dir+"/completions", row.line, filepath.Join(dir, "work"))
		zsh.Env = environment
		out, err = zsh.CombinedOutput()
		want := row.line[:strings.LastIndex(row.line, " ")+1] + row.want[0]
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("zsh, %q: %v, %q, want %q", row.line, err, got, want)
		}
	}
}
