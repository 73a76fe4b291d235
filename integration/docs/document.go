// Package docs runs what the documents of this repository show: README.md and
// docs/*.md. A reader copies commands from them to devices that stand far away.
//
// Every fenced block has a kind, the word behind ```:
//
//	console   a transcript. A line that begins with "$ " is a command for the
//	          workstation, one with "# " for the device, as root; the lines after
//	          it are what it prints, stdout and stderr. "…" in them stands for
//	          anything, a line that is only "…" for any number of lines. A command
//	          must succeed: one that is to fail shows its exit code (`; echo $?`).
//	sh        commands for the workstation, without their output
//	toml      a configuration: read by the programs' own parser, no key unknown
//	json      one or more JSON values
//	go        a program of its own: go vet likes it
//	python    the device's python3 compiles it
//	ini       a unit, or a drop-in of one: systemd-analyze verify of the device likes it
//	bitbake   a recipe; TestRecipes runs its shell functions
//	make      a recipe of Buildroot; TestRecipes runs it
//	mermaid   a picture; that of the phases is compared with what the code says
//	text      not for a machine
//
// An HTML comment just before a block says more, one thing a line:
//
//	file: NAME      the block is written to NAME on the workstation
//	device: PATH    the block is written to PATH on the device
//	on the device   an sh block is for the device
//
// One at the beginning of a document says what its commands need, "machine: device"
// (a Debian with the product, the default), "machine: bare" (without it) or
// "machine: none" (the workstation alone).
//
// A document's blocks run in their order, on one new machine. Device and
// workstation are two: files go from one to the other by `scp FILE device:PATH`,
// which here, without a login, is a program of this package. Bundles go to
// the server the same way (`scp x.ota updates.example.com:`); the device gets them
// from http://updates.example.com:8000/.
package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A document is a Markdown file.
type document struct {
	name    string // for messages
	lines   []string
	machine string
	blocks  []*block
}

// A block is a fenced block of a document.
type block struct {
	doc   *document
	first int // index of the line with the ```
	end   int // index of the closing one
	kind  string
	notes notes
}

// notes are what the comment before a block says.
type notes struct {
	file     string
	device   string
	onDevice bool
}

// kinds are all that a block may be.
var kinds = []string{"console", "sh", "toml", "json", "go", "python", "ini", "bitbake", "make", "mermaid", "text"}

func (b *block) String() string { return fmt.Sprintf("%s:%d", b.doc.name, b.first+1) }

// text is what stands between the fences.
func (b *block) text() string {
	return strings.Join(b.doc.lines[b.first+1:b.end], "\n") + "\n"
}

var fence = regexp.MustCompile("^( *)```([a-z]*)$")

// parse reads a document. A block that nothing is known to be done with is an error.
func parse(name, text string) (*document, error) {
	d := &document{name: name, lines: strings.Split(text, "\n"), machine: "device"}
	for i := 0; i < len(d.lines); i++ {
		m := fence.FindStringSubmatch(d.lines[i])
		if m == nil {
			if strings.HasPrefix(strings.TrimSpace(d.lines[i]), "```") {
				return nil, fmt.Errorf("%s:%d: %q is no fence: want ``` and the kind of the block", name, i+1, d.lines[i])
			}
			if at, ok := strings.CutPrefix(d.lines[i], "<!-- machine: "); ok {
				d.machine = strings.TrimSuffix(at, " -->")
			}
			continue
		}
		b := &block{doc: d, first: i, kind: m[2]}
		for i++; i < len(d.lines) && d.lines[i] != m[1]+"```"; i++ {
		}
		if i == len(d.lines) {
			return nil, fmt.Errorf("%s: the block has no end", b)
		}
		b.end = i
		if err := b.readNotes(); err != nil {
			return nil, err
		}
		if !slices.Contains(kinds, b.kind) {
			return nil, fmt.Errorf("%s: nothing is done with a block of kind %q: name one of %s", b, b.kind, strings.Join(kinds, ", "))
		}
		d.blocks = append(d.blocks, b)
	}
	if !slices.Contains([]string{"device", "bare", "none"}, d.machine) {
		return nil, fmt.Errorf("%s: the machine %q is not known", name, d.machine)
	}
	return d, nil
}

// readNotes reads the comment that ends in the line before the block.
func (b *block) readNotes() error {
	lines := b.doc.lines
	last := b.first - 1
	if last < 0 || !strings.HasSuffix(lines[last], "-->") {
		return nil
	}
	start := last
	for start > 0 && !strings.HasPrefix(lines[start], "<!--") {
		start--
	}
	comment := strings.Join(lines[start:last+1], "\n")
	comment = strings.TrimSuffix(strings.TrimPrefix(comment, "<!--"), "-->")
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
		case line == "on the device":
			b.notes.onDevice = true
		case value == "":
			return fmt.Errorf("%s: the comment before it says %q, which means nothing here", b, line)
		case key == "file":
			b.notes.file = value
		case key == "device":
			b.notes.device = value
		default:
			return fmt.Errorf("%s: the comment before it says %q, which means nothing here", b, line)
		}
	}
	return nil
}

// A step is a command of a transcript and what it prints.
type step struct {
	device  bool // else on the workstation
	command string
	first   int // index of the first line of the output in the document
	output  []string
}

// heredoc finds the word that ends a document in a command line.
var heredoc = regexp.MustCompile(`<<-?\s*['"]?(\w+)['"]?`)

// steps reads a transcript.
func (b *block) steps() ([]step, error) {
	var all []step
	lines := b.doc.lines
	for i := b.first + 1; i < b.end; i++ {
		line := lines[i]
		if !strings.HasPrefix(line, "$ ") && !strings.HasPrefix(line, "# ") {
			if len(all) == 0 {
				return nil, fmt.Errorf("%s: a transcript begins with a command (`$ ` or `# `), not with %q", b, line)
			}
			s := &all[len(all)-1]
			s.output = append(s.output, line)
			continue
		}
		s := step{device: line[0] == '#', command: line[2:]}
		if m := heredoc.FindStringSubmatch(line); m != nil {
			for i++; i < b.end; i++ {
				s.command += "\n" + lines[i]
				if lines[i] == m[1] {
					break
				}
			}
			if i == b.end {
				return nil, fmt.Errorf("%s: nothing ends %q", b, m[0])
			}
		}
		for strings.HasSuffix(s.command, "\\") && i+1 < b.end {
			i++
			s.command += "\n" + strings.TrimPrefix(lines[i], "> ")
		}
		s.first = i + 1
		all = append(all, s)
	}
	return all, nil
}

// replaceOutput puts got in the place of the output of s.
func (d *document) replaceOutput(s *step, got []string) {
	end := s.first + len(s.output)
	d.lines = slices.Concat(d.lines[:s.first], got, d.lines[end:])
	moved := len(got) - len(s.output)
	for _, b := range d.blocks {
		if b.first >= end {
			b.first += moved
		}
		if b.end >= end {
			b.end += moved
		}
	}
}
