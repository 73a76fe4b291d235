// Command man makes the manual pages and the completion for bash, zsh and fish.
//
//	table of commands ────────┬─> completions/ota-apply …
//	  (cli.Program)           │
//	prose, NAME.SECTION.md ───┴─> man/ota-apply.1 …
//
// Commands, flags and exit codes are in the table of each program and nowhere else;
// the prose says with lines such as <!-- commands --> where they go.
//
//	usage: go run ./docs/man [-o DIR] [-version V] [-date YYYY-MM-DD]
package main

import (
	"embed"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/guardian"
)

//go:embed *.md completion.bash
var prose embed.FS

func main() {
	out := flag.String("o", "bin", "the directory to write man/ and completions/ into")
	version := flag.String("version", "", "the version of the programs")
	date := flag.String("date", "", "the day of this version, as 2026-11-26")
	flag.Parse()
	if err := write(*out, *version, *date); err != nil {
		fmt.Fprintf(os.Stderr, "man: %v\n", err)
		os.Exit(1)
	}
}

func programs() []*cli.Program {
	return []*cli.Program{applier.Program(), guardian.Program(&cli.Output{}, nil), bundlecmd.Program()}
}

// wrapper is the word at the prompt, scripts/ota: the commands of the two programs that
// are for an operator. TestWrapper holds that they are those of the script.
func wrapper() *cli.Program {
	const apply, guardians = " install activate list unblock cleanup doctor follow reset-release ", " status history why rollback check factory adopt config verify "
	w := &cli.Program{Name: "ota"}
	for _, p := range programs() {
		mine := map[string]string{"ota-apply": apply, "ota-guardian": guardians}[p.Name]
		for _, v := range p.Verbs {
			first, _, _ := strings.Cut(v.Name, " ")
			if v.Help == "" || !strings.Contains(mine, " "+first+" ") {
				continue
			}
			if v.Name == "verify" {
				v.Args = "[VERSION|FILE...]" // a bundle is verified by ota-apply
			}
			w.Flags, w.Verbs = p.Flags, append(w.Verbs, v)
		}
	}
	return w
}

// write writes everything into dir.
func write(dir, version, date string) error {
	engine, err := fs.ReadFile(prose, "completion.bash")
	if err != nil {
		return err
	}
	files, inserts := map[string]string{}, map[string]string{}
	for _, p := range programs() {
		// What is inserted into the page of p.
		for name, text := range sections(p) {
			inserts[p.Name+" "+name] = text
		}
	}
	for _, p := range append(programs(), wrapper()) {
		files["completions/"+p.Name] = strings.NewReplacer("@NAME@", p.Name, "@FN@", strings.ReplaceAll(p.Name, "-", "_"), "@TABLE@\n", p.Table()).Replace(string(engine))
		files["completions/"+p.Name+".fish"] = fish(p)
		files["completions/_"+p.Name] = zsh(p)
	}
	pages, err := fs.Glob(prose, "*.md")
	if err != nil {
		return err
	}
	for _, source := range pages {
		text, err := fs.ReadFile(prose, source)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(source, ".md")
		dot := strings.LastIndex(name, ".")
		md := fmt.Sprintf("%% %s %s %q %q %q\n\n", strings.ToUpper(name[:dot]), name[dot+1:], date, strings.TrimSpace("ota "+version), "TOP.E OTA")
		for line := range strings.Lines(string(text)) {
			if what, ok := strings.CutPrefix(line, "# "); ok {
				line = "# NAME\n" + what
			} else if strings.HasPrefix(line, "## ") {
				line = strings.ToUpper(line)
			} else if what, ok := strings.CutPrefix(line, "<!-- "); ok {
				if line, ok = inserts[name[:dot]+" "+strings.TrimSuffix(what, " -->\n")]; !ok {
					return fmt.Errorf("%s: nothing can be inserted for %q", source, what)
				}
			}
			md += line
		}
		page := ""
		for _, r := range string(md2man.Render([]byte(md))) {
			if c := string(r); r > 126 {
				page += fmt.Sprintf(`\[u%04X]`, r) // all man programs know these names: groff_char(7)
			} else {
				page += c
			}
		}
		files["man/"+name] = page
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sections is what the table of p says, in Markdown.
func sections(p *cli.Program) map[string]string {
	synopsis, commands := "", ""
	for i := range p.Verbs {
		v := &p.Verbs[i]
		if v.Help == "" {
			continue
		}
		line := strings.TrimSpace(p.Name + " " + v.Name + " [flags] " + v.Args)
		synopsis += "    " + line + "\n"
		commands += "### " + line + "\n\n" + v.Help + "\n\n" + flags(p, v)
	}
	return map[string]string{
		"name":     "# NAME\n" + p.Name + " - " + p.Summary + "\n",
		"synopsis": synopsis,
		"commands": commands,
		"flags":    flags(p, nil),
		"notes":    "    " + strings.ReplaceAll(strings.TrimSpace(p.Notes), "\n", "\n    ") + "\n",
		"exits":    "    " + strings.ReplaceAll(strings.TrimSpace(strings.TrimPrefix(p.Exits, "Exit codes:\n")), "\n", "\n    ") + "\n",
	}
}

// flags are those of v, or of every command if v is nil.
func flags(p *cli.Program, v *cli.Verb) (text string) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	if set := p.Flags; v == nil && set != nil {
		set(fs)
	} else if v != nil && v.Flags != nil {
		v.Flags(fs)
	}
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		text += fmt.Sprintf("**%s** *%s*\n: %s\n\n", "--"[:min(len(f.Name), 2)]+f.Name, value, usage)
	})
	return strings.ReplaceAll(text, " **\n", "\n")
}
