package main

import (
	"fmt"
	"slices"
	"strings"
)

// completion is a script for bash that completes what the program takes. It
// needs nothing but bash, so that it can also be sourced on a device.
func completion(t *Tool) string {
	var out strings.Builder
	fn := "_" + strings.ReplaceAll(t.Name, "-", "_")
	printf := func(format string, args ...any) { fmt.Fprintf(&out, format, args...) }
	printf("# Completion of %s for bash. Made by docs/man from its usage text: change that.\n\n", t.Name)

	// What a flag or an argument takes, by its name in the usage text.
	printf("# COMMAND FLAG: what comes after it\n%s_value() {\n    case \"$1 $2\" in\n", fn)
	values := func(pattern string, flags []Flag) {
		for _, f := range flags {
			if k := kind(f.Arg); k != "" {
				printf("    %s) echo \"%s\" ;;\n", fmt.Sprintf(pattern, f.Name), k)
			}
		}
	}
	taking := func(flags []Flag) []string {
		var names []string
		for _, f := range flags {
			if f.Arg != "" {
				names = append(names, f.Name)
			}
		}
		return names
	}
	var options []string // that have an argument, of any command
	for _, name := range t.Commands() {
		values("\""+name+" %s\"", t.Command(name).Flags)
		options = append(options, taking(t.Command(name).Flags)...)
	}
	values("*\" %s\"", t.Flags)
	options = append(options, taking(t.Flags)...)
	slices.Sort(options)
	options = slices.Compact(options)
	printf("    esac\n}\n\n")

	printf("# COMMAND: its flags\n%s_flags() {\n    case $1 in\n", fn)
	for _, name := range t.Commands() {
		printf("    %q) echo \"%s\" ;;\n", name, flagNames(append(slices.Clone(t.Command(name).Flags), t.Flags...)))
	}
	printf("    esac\n}\n\n")

	printf("# COMMAND: what it takes besides flags\n%s_argument() {\n    case $1 in\n", fn)
	first := t.Command("").Flags
	words := []string{"--help"}
	for _, f := range first {
		words = append(words, f.Name)
	}
	next := map[string][]string{} // "factory": create, repair, verify
	for _, name := range t.Commands() {
		word, more, two := strings.Cut(name, " ")
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
		if two {
			next[word] = append(next[word], more)
		}
		var kinds []string
		for _, a := range t.Command(name).Args {
			kinds = append(kinds, kind(a))
		}
		if k := strings.TrimSpace(strings.Join(kinds, " ")); k != "" {
			printf("    %q) echo \"%s\" ;;\n", name, k)
		}
	}
	pairs := []string{}
	for word, more := range next {
		printf("    %q) echo \"%s\" ;;\n", word, strings.Join(more, " "))
		for _, m := range more {
			pairs = append(pairs, fmt.Sprintf("%q", word+" "+m))
		}
	}
	printf("    esac\n}\n\n")
	slices.Sort(pairs)

	second := ":" // a command of two words is one
	if len(pairs) > 0 {
		second = "case \"$command $word\" in " + strings.Join(pairs, " | ") + ") command=\"$command $word\" ;; esac"
	}
	return out.String() + strings.NewReplacer("@FN@", fn, "@NAME@", t.Name, "@WORDS@", strings.Join(words, " "),
		"@OPTIONS@", strings.Join(options, " | "), "@SECOND@", second).Replace(engine)
}

func flagNames(flags []Flag) string {
	var names []string
	for _, f := range flags {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// kind is how the engine is told what can stand for an argument of the usage
// text: words as they are, and :version, :file and :dir. Empty: nobody knows.
func kind(arg string) string {
	var kinds []string
	for _, a := range strings.Split(arg, "|") {
		switch {
		case a == "VERSION":
			kinds = append(kinds, ":version")
		case a == "DIR":
			kinds = append(kinds, ":dir")
		case a == "F" || a == "PUB" || a == "KEY" || strings.HasPrefix(a, "FILE") || strings.HasPrefix(a, "NAME."):
			kinds = append(kinds, ":file")
		case a != "" && a == strings.ToLower(a):
			kinds = append(kinds, a)
		}
	}
	return strings.Join(kinds, " ")
}

// engine is the part that is the same for all programs.
const engine = `# WORDS...: the versions in the store that the words of the command line name
@FN@_versions() {
    local program=$1
    local -a store=()
    # A program that is called by its path has the other one beside it.
    case $program in
    */*) program=${program%/*}/ota-apply ;;
    *) program=ota-apply ;;
    esac
    while [ $# -gt 1 ]; do
        case $1 in --root | --config) store+=("$1" "$2") ;; esac
        shift
    done
    # A store that does not answer at once completes nothing.
    timeout 2 "$program" list ${store[@]+"${store[@]}"} 2>/dev/null | while read -r version _; do echo "$version"; done
}

@FN@() {
    local cur=${COMP_WORDS[COMP_CWORD]} command='' takes='' word want i
    local -a words=() found=()
    COMPREPLY=()
    # --root=DIR comes as three words.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
        [ "$word" = = ] || words+=("$word")
    done
    [ "$cur" != = ] || cur=''
    for word in "${words[@]:1}"; do
        if [ -n "$takes" ]; then
            takes=''
            continue
        fi
        case $word in
        @OPTIONS@) takes=$word ;;
        -*) ;;
        *)
            if [ -z "$command" ]; then
                command=$word
            else
                @SECOND@
            fi
            ;;
        esac
    done
    if [ -n "$takes" ]; then
        want=$(@FN@_value "$command" "$takes")
    elif [ -z "$command" ]; then
        want='@WORDS@'
    elif [[ $cur == -* ]]; then
        want=$(@FN@_flags "$command")
    else
        want=$(@FN@_argument "$command")
    fi
    for word in $want; do
        case $word in
        :version)
            mapfile -t found < <(compgen -W "$(@FN@_versions "${words[@]}")" -- "$cur")
            COMPREPLY+=("${found[@]}")
            ;;
        :file | :dir)
            i=-f
            [ "$word" = :file ] || i=-d
            mapfile -t found < <(compgen "$i" -- "$cur")
            COMPREPLY+=("${found[@]}")
            compopt -o filenames 2>/dev/null
            ;;
        "$cur"*) COMPREPLY+=("$word") ;;
        esac
    done
}

complete -F @FN@ @NAME@
`
