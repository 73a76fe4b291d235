package main

import (
	"flag"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck/cli"
)

// A shellFlag is a flag as completions show it.
type shellFlag struct{ name, value, usage string } // value: empty for one that takes none

// shellFlags are those of v and of every command.
func shellFlags(p *cli.Program, v *cli.Verb) (all []shellFlag) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	if p.Flags != nil {
		p.Flags(fs)
	}
	if v.Flags != nil {
		v.Flags(fs)
	}
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		if len(f.Name) > 1 {
			all = append(all, shellFlag{f.Name, value, strings.ReplaceAll(usage, "\n", " ")})
		}
	})
	return all
}

// groups are the commands by their first words, in the order of the table.
func groups(p *cli.Program) (names []string, verbs map[string][]*cli.Verb) {
	verbs = map[string][]*cli.Verb{}
	for i := range p.Verbs {
		v := &p.Verbs[i]
		if v.Help == "" {
			continue
		}
		first, _, _ := strings.Cut(v.Name, " ")
		if verbs[first] == nil {
			names = append(names, first)
		}
		verbs[first] = append(verbs[first], v)
	}
	return names, verbs
}

func short(v *cli.Verb) string {
	text, _, _ := strings.Cut(v.Help, "\n")
	return text
}

// takesFiles reports whether a value or an argument of that name is a file or a directory.
func takesFiles(name string) bool {
	for _, part := range []string{"FILE", "DIR", "KEY", "PUB", "NAME", "OLD", "SIG"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "F"
}

// fish is the completion of p for fish.
func fish(p *cli.Program) string {
	fn := "__" + strings.ReplaceAll(p.Name, "-", "_")
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" }
	var b strings.Builder
	fmt.Fprintf(&b, `# Completion of %[1]s for fish. Made by docs/man from its table of commands.

# The words of the command line that are no flags begin with these, and there are no others
# if the last one is "only".
function %[2]s_words
    set -l words
    for w in (commandline -opc)[2..]
        string match -q -- '-*' $w; or set -a words $w
    end
    if test "$argv[-1]" = only
        test "$words" = "$argv[1..-2]"
    else
        set -l n (count $argv)
        test (count $words) -ge $n; and test "$words[1..$n]" = "$argv"
    end
end

complete -c %[1]s -f
complete -c %[1]s -n '%[2]s_words only' -l help -l version
`, p.Name, fn)
	names, verbs := groups(p)
	for _, name := range names {
		text := short(verbs[name][0])
		if len(verbs[name]) > 1 || strings.Contains(verbs[name][0].Name, " ") {
			text = "see help " + name
		}
		fmt.Fprintf(&b, "complete -c %s -n '%s_words only' -a %s -d %s\n", p.Name, fn, name, quote(text))
		for _, v := range verbs[name] {
			if _, second, ok := strings.Cut(v.Name, " "); ok {
				fmt.Fprintf(&b, "complete -c %s -n '%s_words %s only' -a %s -d %s\n", p.Name, fn, name, second, quote(short(v)))
			}
			for _, f := range shellFlags(p, v) {
				more := ""
				if f.value != "" {
					more = " -x"
					if takesFiles(f.value) {
						more = " -rF"
					}
				}
				fmt.Fprintf(&b, "complete -c %s -n '%s_words %s' -l %s%s -d %s\n", p.Name, fn, v.Name, f.name, more, quote(f.usage))
			}
			if strings.Contains(v.Args, "VERSION") {
				fmt.Fprintf(&b, "complete -c %s -n '%s_words %s' -a '(ota-apply list 2>/dev/null | string match -rg \"^([0-9]\\S*)\")'\n", p.Name, fn, v.Name)
			}
			if takesFiles(v.Args) {
				fmt.Fprintf(&b, "complete -c %s -n '%s_words %s' -F\n", p.Name, fn, v.Name)
			}
		}
	}
	return b.String()
}

// zsh is the completion of p for zsh.
func zsh(p *cli.Program) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	escape := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`).Replace
	action := func(name string) string {
		switch {
		case strings.Contains(name, "VERSION"):
			return ":version:(${(f)\"$(ota-apply list 2>/dev/null | sed -n 's/^\\([0-9][^ ]*\\).*/\\1/p')\"})"
		case takesFiles(name):
			return ":file:_files"
		case strings.Contains(name, "|") && strings.ToLower(name) == name:
			return ":value:(" + strings.ReplaceAll(name, "|", " ") + ")"
		}
		return ":" + strings.ToLower(strings.Trim(name, "[].")) + ":"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n# Completion of %[1]s for zsh. Made by docs/man from its table of commands.\n\n", p.Name)
	b.WriteString("local curcontext=$curcontext state\nlocal -a line all\n_arguments -C '--help' '--version' '1:command:->command' '*::argument:->argument'\ncase $state in\ncommand)\n    all=(\n")
	names, verbs := groups(p)
	for _, name := range names {
		fmt.Fprintf(&b, "        %s\n", quote(name+":"+short(verbs[name][0])))
	}
	b.WriteString("    )\n    _describe command all\n    ;;\nargument)\n    case $words[1] in\n")
	for _, name := range names {
		fmt.Fprintf(&b, "    %s)\n        _arguments", name)
		said, second, last := map[string]bool{}, []string{}, ""
		for _, v := range verbs[name] {
			if _, sub, ok := strings.Cut(v.Name, " "); ok {
				second = append(second, sub)
			}
			for _, f := range shellFlags(p, v) {
				if said[f.name] {
					continue
				}
				said[f.name] = true
				spec := fmt.Sprintf("--%s[%s]", f.name, escape(f.usage))
				if f.value != "" {
					spec += action(f.value)
				}
				b.WriteString(" \\\n            " + quote(spec))
			}
			last += v.Args
		}
		if len(second) > 0 {
			b.WriteString(" \\\n            " + quote("1:what:("+strings.Join(second, " ")+")"))
		}
		if last != "" {
			b.WriteString(" \\\n            " + quote("*"+action(last)))
		}
		b.WriteString("\n        ;;\n")
	}
	b.WriteString("    esac\n    ;;\nesac\n")
	return b.String()
}
