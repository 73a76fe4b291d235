package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Tool is what the usage text of a program says.
type Tool struct {
	Name    string // "ota-apply"
	Summary string // of the first line, without the name and the full stop
	Groups  []Group
	Flags   []Flag   // of every command
	Notes   []string // the lines about something else
	Exits   []Exit
}

// A Group is commands below one heading.
type Group struct {
	Title    string // "Run by systemd:"; empty: none
	Commands []*Command
}

// A Command is one command, in one of its forms.
type Command struct {
	Name     string // "factory create"; empty: the program's own flags
	Synopsis string // what follows the program's name: "factory create [VERSION]"
	Text     string
	Args     []string // "URL|FILE"; without brackets
	Flags    []Flag   // in the order of the text
}

// A Flag is a flag.
type Flag struct {
	Name string // "--size"
	Arg  string // "N"; empty: it takes none
	Text string // empty: the synopsis says it all
}

// An Exit is an exit code.
type Exit struct {
	Code int
	Text string
}

// column is what stands between two columns.
var column = regexp.MustCompile(` {2,}`)

// between is that or the point between two exit codes on a line.
var between = regexp.MustCompile(` · | {2,}`)

// readUsage understands a usage text. A line that it does not understand is an
// error: it would be missing from the manual.
func readUsage(name, text string) (*Tool, error) {
	t := &Tool{Name: name}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	summary, ok := strings.CutPrefix(lines[0], name+" ")
	if !ok {
		return nil, fmt.Errorf("the usage text of %s begins %q, want its name", name, lines[0])
	}
	t.Summary = strings.TrimSuffix(summary, ".")

	const commands, flags, notes, exits = "commands", "flags", "notes", "exits"
	in := commands
	group := &Group{}
	var command *Command // the one that further lines belong to
	var flag *Flag       // likewise
	var of string        // whose flags: a command's name, or empty
	for _, line := range lines[1:] {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		said := line[indent:]
		switch {
		case said == "":
			if in == notes {
				t.Notes = append(t.Notes, "")
			}
			command, flag = nil, nil
			continue
		case indent == 0 && said == "Exit codes:":
			in = exits
			continue
		case indent == 0 && strings.HasPrefix(said, "Flags of "):
			in, of = flags, strings.TrimSuffix(strings.TrimPrefix(said, "Flags of "), ":")
			if of == "every command" {
				of = ""
			}
			continue
		case indent == 0 && in == commands && strings.HasSuffix(said, ":"):
			t.Groups = append(t.Groups, *group)
			group = &Group{Title: said}
			continue
		case indent == 0:
			in = notes
		}
		switch in {
		case notes:
			t.Notes = append(t.Notes, line)
		case exits:
			for _, part := range between.Split(said, -1) {
				digits, meaning, _ := strings.Cut(part, " ")
				code, err := strconv.Atoi(digits)
				if err != nil || meaning == "" {
					return nil, fmt.Errorf("%s: not an exit code: %q", name, part)
				}
				t.Exits = append(t.Exits, Exit{code, meaning})
			}
		case flags:
			if indent > 2 && flag != nil {
				flag.Text += " " + said
				continue
			}
			if !strings.HasPrefix(said, "-") {
				return nil, fmt.Errorf("%s: not a flag: %q", name, line)
			}
			f := readFlag(said)
			if of == "" {
				t.Flags = append(t.Flags, f)
				flag = &t.Flags[len(t.Flags)-1]
				continue
			}
			c := findCommand(append(t.Groups, *group), of)
			if c == nil {
				return nil, fmt.Errorf("%s: flags of %q, which is no command", name, of)
			}
			flag = c.setFlag(f)
		case commands:
			rest, isNew := strings.CutPrefix(line, "  "+name+" ")
			switch {
			case isNew:
				parts := column.Split(rest, 2)
				command, flag = &Command{Synopsis: parts[0]}, nil
				if len(parts) == 2 {
					command.Text = parts[1]
				}
				group.Commands = append(group.Commands, command)
			case command == nil:
				return nil, fmt.Errorf("%s: neither a command nor part of one: %q", name, line)
			case strings.HasPrefix(said, "[") && command.Text == "":
				command.Synopsis += " " + said
			case strings.HasPrefix(said, "-"):
				command.parse()
				f := readFlag(said)
				flag = command.setFlag(f)
			case flag != nil:
				flag.Text += " " + said
			default:
				command.Text = strings.TrimSpace(command.Text + " " + said)
			}
		}
	}
	t.Groups = append(t.Groups, *group)
	t.Groups = slices.DeleteFunc(t.Groups, func(g Group) bool { return len(g.Commands) == 0 })
	// The text has them in columns.
	slices.SortFunc(t.Exits, func(a, b Exit) int { return a.Code - b.Code })
	for _, g := range t.Groups {
		for _, c := range g.Commands {
			c.parse()
			if c.Text == "" {
				return nil, fmt.Errorf("%s %s: nothing says what it does", name, c.Synopsis)
			}
		}
	}
	return t, nil
}

// readFlag reads "--size N            the bundle has N bytes".
func readFlag(line string) Flag {
	parts := column.Split(line, 2)
	head := strings.SplitN(parts[0], " ", 3)
	f := Flag{Name: head[0]}
	if len(head) > 1 {
		f.Arg = head[1]
	}
	if len(head) > 2 { // the argument is so long that one space is left
		f.Text = head[2]
	}
	if len(parts) > 1 {
		f.Text = strings.TrimSpace(f.Text + " " + parts[1])
	}
	return f
}

func findCommand(groups []Group, name string) *Command {
	for _, g := range groups {
		for _, c := range g.Commands {
			if c.parse(); c.Name == name {
				return c
			}
		}
	}
	return nil
}

// setFlag adds f, or what it says to the flag that the synopsis has.
func (c *Command) setFlag(f Flag) *Flag {
	for i := range c.Flags {
		if c.Flags[i].Name == f.Name {
			c.Flags[i].Text = f.Text
			return &c.Flags[i]
		}
	}
	c.Flags = append(c.Flags, f)
	return &c.Flags[len(c.Flags)-1]
}

// parse finds the name, the flags and the arguments in the synopsis.
func (c *Command) parse() {
	words := strings.Fields(c.Synopsis)
	for len(words) > 0 && strings.Trim(words[0], "abcdefghijklmnopqrstuvwxyz-") == "" && words[0][0] != '-' {
		words = words[1:]
	}
	c.Name = strings.Join(strings.Fields(c.Synopsis)[:len(strings.Fields(c.Synopsis))-len(words)], " ")
	c.Args = nil
	for i := 0; i < len(words); i++ {
		word := strings.TrimPrefix(words[i], "[")
		name := strings.TrimSuffix(word, "]")
		switch {
		case word == "|" || name == "flags":
		case strings.HasPrefix(name, "-"):
			f := Flag{Name: name}
			if name == word && i+1 < len(words) && words[i+1] != "|" && words[i+1][0] != '[' && words[i+1][0] != '-' {
				i++
				f.Arg = strings.TrimSuffix(words[i], "]")
			}
			if !slices.ContainsFunc(c.Flags, func(o Flag) bool { return o.Name == f.Name }) {
				c.Flags = append(c.Flags, f)
			}
		default:
			c.Args = append(c.Args, strings.TrimSuffix(name, "..."))
		}
	}
}

// Command is the command of that name with all its forms in one.
func (t *Tool) Command(name string) *Command {
	all := &Command{Name: name}
	for _, g := range t.Groups {
		for _, c := range g.Commands {
			if c.Name != name {
				continue
			}
			for _, f := range c.Flags {
				if i := slices.IndexFunc(all.Flags, func(o Flag) bool { return o.Name == f.Name }); i < 0 {
					all.Flags = append(all.Flags, f)
				} else if all.Flags[i].Text == "" {
					all.Flags[i].Text = f.Text
				}
			}
			if all.Args == nil {
				all.Args = c.Args
			}
		}
	}
	return all
}

// Commands are the names of all commands, in the order of the text.
func (t *Tool) Commands() []string {
	var names []string
	for _, g := range t.Groups {
		for _, c := range g.Commands {
			if c.Name != "" && !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	return names
}
