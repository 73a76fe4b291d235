package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// A Program is a command line. Its table of commands is what dispatch, the help, the
// completion of the shell and the test of the manual read.
type Program struct {
	Name    string
	Summary string              // "decides which version a device runs"
	Flags   func(*flag.FlagSet) // of every command; each takes a value
	Verbs   []Verb
	Notes   string // for the manual
	Exits   string
}

// A Verb is a command.
type Verb struct {
	Group   string // the heading above it in the help; empty: none
	Name    string // "factory create"
	Args    string // "URL|FILE", "[VERSION...]": in brackets may be absent, with points may be many
	Help    string // the first line is for the list of commands; empty: it is not for people
	Example string
	Flags   func(*flag.FlagSet) // nil: none of its own; `N` in a usage is the name of the value
	Run     func(ctx context.Context, args []string) error
}

// Run runs the command line args. Help and the version go to stdout.
func (p *Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	name, rest := p.command(args)
	switch name {
	case "":
		fmt.Fprint(stderr, p.help(""))
		return Usagef(p.Name, "a command is missing")
	case "version", "-version", "--version":
		_, err := fmt.Fprintf(stdout, "%s %s\n", p.Name, Version)
		return err
	case "help", "-h", "-help", "--help":
		common := p.flagSet(nil) // --root DIR may have stood in front
		if common.Parse(rest) != nil || common.NArg() == 0 || name != "help" {
			_, err := io.WriteString(stdout, p.help(""))
			return err
		}
		name, rest = common.Arg(0), append(common.Args()[1:], "--help")
	}
	v, rest, err := p.verb(name, rest)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(stdout, p.help(name+" "))
		return err
	}
	if err != nil {
		return err
	}
	rest, err = parse(p.flagSet(v), rest, v.Args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(stdout, p.helpOf(v))
		return err
	}
	if err != nil {
		return err
	}
	return v.Run(ctx, rest)
}

// flagSet has the flags of every command and those of v. It reports errors to its
// caller instead of printing them.
func (p *Program) flagSet(v *Verb) *flag.FlagSet {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	if p.Flags != nil {
		p.Flags(fs)
	}
	if v != nil {
		if fs.Init(p.Name+" "+v.Name, flag.ContinueOnError); v.Flags != nil {
			v.Flags(fs)
		}
	}
	return fs
}

// command is the command that args ask for, and its flags and arguments; name is
// empty if there is none. Flags may stand before it, too; they are moved behind it.
// Whether a flag takes the argument after it, its command says.
func (p *Program) command(args []string) (name string, rest []string) {
	n := 0
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		n = leading(p.allFlags(), args)
		for i := range p.Verbs {
			at := leading(p.flagSet(&p.Verbs[i]), args)
			if first, _, _ := strings.Cut(p.Verbs[i].Name, " "); at < len(args) && args[at] == first {
				n = at
				break
			}
		}
	}
	if n >= len(args) {
		return "", nil
	}
	return args[n], slices.Concat(args[:n], args[n+1:])
}

// allFlags has the flags of all commands, of two with one name the first. Without a
// command --version asks for that of the program.
func (p *Program) allFlags() *flag.FlagSet {
	all := p.flagSet(nil)
	for i := range p.Verbs {
		p.flagSet(&p.Verbs[i]).VisitAll(func(f *flag.Flag) {
			if f.Name != "version" && all.Lookup(f.Name) == nil {
				all.Var(f.Value, f.Name, f.Usage)
			}
		})
	}
	return all
}

// leading is how many of args come before the first that is neither a flag of fs nor
// the value of one.
func leading(fs *flag.FlagSet, args []string) (n int) {
	for n < len(args) && strings.HasPrefix(args[n], "-") {
		name, _, whole := strings.Cut(strings.TrimPrefix(args[n][1:], "-"), "=")
		f := fs.Lookup(name)
		if f == nil {
			break
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); whole || ok && b.IsBoolFlag() {
			n++
		} else {
			n += 2
		}
	}
	return n
}

// verb finds the command name; the second word of "factory create" may stand anywhere
// in rest, and the first that can be one is.
func (p *Program) verb(name string, rest []string) (found *Verb, _ []string, _ error) {
	var all, groups, second []string
	at := len(rest)
	for i := range p.Verbs {
		v := &p.Verbs[i]
		if v.Name == name {
			return v, rest, nil
		}
		first, word, two := strings.Cut(v.Name, " ")
		if two && first == name {
			if i := slices.Index(rest[:at], word); i >= 0 {
				found, at = v, i
			}
			second = append(second, word)
		}
		if two {
			groups = append(groups, first)
		}
		if v.Help != "" {
			all = append(all, v.Name)
		}
	}
	if found != nil {
		return found, slices.Delete(slices.Clone(rest), at, at+1), nil
	}
	if n := len(second); n > 0 {
		if slices.ContainsFunc(rest, isHelp) {
			return nil, nil, flag.ErrHelp
		}
		err := Usagef(p.Name, "%s needs %s or %s", name, strings.Join(second[:n-1], ", "), second[n-1])
		if len(rest) > 0 {
			err = suggest(err, name+" "+rest[0], all)
		}
		return nil, nil, err
	}
	if strings.Trim(name, "-") != "" && name[0] == '-' {
		return nil, nil, unknownFlag(p.allFlags(), name)
	}
	return nil, nil, suggest(Usagef(p.Name, "unknown command %q", name), name, append(all, groups...))
}

// suggest puts the word of words that is most like the one that was typed into the
// advice of err.
func suggest(err error, typed string, words []string) error {
	best := bootcheck.Nearest(typed, words)
	if best == "" {
		return err
	}
	return bootcheck.Errorf(bootcheck.ExitUsage, "", "%w", err).WithAdvice("did you mean `%s`? %s", best, bootcheck.Advice(err))
}

// unknownFlag is the error for the flag that was typed, which is none of fs.
func unknownFlag(fs *flag.FlagSet, typed string) error {
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, dashes(f.Name)) })
	typed, _, _ = strings.Cut(dashes(strings.TrimLeft(typed, "-")), "=")
	return suggest(Usagef(fs.Name(), "unknown flag %s", typed), typed, names)
}

// parse reads flags wherever they stand and returns the other arguments, as many as
// want says. After "--" everything is an argument. None may be empty: that is a shell's
// variable that was never set, and to act as if nothing stood there may switch versions.
func parse(fs *flag.FlagSet, args []string, want string) (rest []string, err error) {
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
				return nil, unknownFlag(fs, name)
			}
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, Usagef(fs.Name(), "%s", flagProblem(err.Error()))
		}
		left := fs.Args()
		if len(args) > len(left) && args[len(args)-len(left)-1] == "--" {
			rest = append(rest, left...)
			break
		}
		args = left
		if len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	_, command, _ := strings.Cut(fs.Name(), " ")
	words := strings.Fields(want)
	least := len(slices.DeleteFunc(slices.Clone(words), func(s string) bool { return s[0] == '[' }))
	if len(rest) < least {
		return nil, Usagef(fs.Name(), "%s needs %s", command, want)
	}
	if len(rest) > len(words) && !strings.Contains(want, "...") {
		return nil, Usagef(fs.Name(), "%s: unexpected argument %q", command, rest[len(words)])
	}
	if i := slices.Index(rest, ""); i >= 0 {
		return nil, Usagef(fs.Name(), "%s: argument %d is empty", command, i+1)
	}
	return rest, nil
}

// flagProblem is a text of the flag package in the words of the help.
func flagProblem(text string) string {
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return dashes(name) + " needs a value"
	}
	_, bad, ok := strings.Cut(text, "value ") // "invalid boolean value …"
	if !ok {
		return text
	}
	value, rest, _ := strings.Cut(bad, " for ")
	name, why, _ := strings.Cut(strings.TrimPrefix(rest, "flag "), ": ")
	return dashes(strings.TrimPrefix(name, "-")) + " " + value + ": " + why
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

func dashes(name string) string { return "--"[:min(len(name), 2)] + name }

// help is the list of the commands that begin with group, a line each: on one screen.
func (p *Program) help(group string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s %sCOMMAND [flags] [arguments]\n", p.Name, group)
	for _, v := range p.Verbs {
		if !strings.HasPrefix(v.Name, group) {
			continue
		}
		if v.Group != "" {
			fmt.Fprintf(&b, "%s:\n", v.Group)
		}
		if short, _, _ := strings.Cut(v.Help, "\n"); short != "" {
			b.WriteString(columns(24, strings.TrimSpace(v.Name+" "+v.Args), short))
		}
	}
	fmt.Fprintf(&b, "`%s help %sCOMMAND`: flags, an example, the exit codes\n", p.Name, group)
	return b.String()
}

// helpOf is the help of one command.
func (p *Program) helpOf(v *Verb) string {
	text := strings.TrimRight(fmt.Sprintf("Usage: %s %s [flags] %s", p.Name, v.Name, v.Args), " ") + "\n" + v.Help + "\n\n" + flags(p.flagSet(v))
	example := v.Example
	if example == "" {
		example = strings.TrimSpace(p.Name + " " + v.Name + " " + sample.Replace(v.Args))
	}
	return text + "\nExample: " + example + "\n" + p.Exits
}

// sample fills in the arguments of a command.
var sample = strings.NewReplacer("VERSION|FILE", "1.2.0", "VERSION...", "1.2.0", "VERSION", "1.2.0", "FILE.ota", "1.2.0.ota", "NAME.channel", "stable.channel",
	"KEY", "root", "UNIT", "device-api.service", "DIR", "www", "[", "", "]", "")

func flags(fs *flag.FlagSet) (text string) {
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		text += columns(18, dashes(f.Name)+strings.TrimRight(" "+value, " "), usage)
	})
	return text
}

// columns is left and, beside it or below, right in lines of at most 80 characters.
func columns(width int, left, right string) string {
	text := fmt.Sprintf("  %-*s ", width, left)
	if len(left) > width && len(left)+len(right) > 77 {
		text += "\n" + strings.Repeat(" ", width+3)
	}
	return text + bootcheck.Wrap(width+3, right) + "\n"
}

// Table is the program for a generator: a line a command, "NAME;ARGS;FLAG=VALUE …".
func (p *Program) Table() string {
	var b strings.Builder
	for i := range p.Verbs {
		if v := &p.Verbs[i]; v.Help != "" {
			var all []string
			p.flagSet(v).VisitAll(func(f *flag.Flag) {
				name := dashes(f.Name)
				if value, _ := flag.UnquoteUsage(f); value != "" {
					name += "=" + value
				}
				all = append(all, name)
			})
			fmt.Fprintf(&b, "%s;%s;%s\n", v.Name, v.Args, strings.Join(all, " "))
		}
	}
	return b.String()
}
