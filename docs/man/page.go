package main

import (
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

// makePages is each manual page, by the name of its file: "ota-apply.1".
func makePages(tools map[string]*Tool, version, date string) (map[string]string, error) {
	sources, err := fs.Glob(prose, "*.md")
	if err != nil {
		return nil, err
	}
	pages := map[string]string{}
	for _, source := range sources {
		text, err := fs.ReadFile(prose, source)
		if err != nil {
			return nil, err
		}
		page := strings.TrimSuffix(source, ".md")
		dot := strings.LastIndex(page, ".")
		p := roff{tool: tools[page[:dot]]}
		fmt.Fprintf(&p.out, ".\\\" Made by docs/man from %s and the usage text: change those.\n", source)
		fmt.Fprintf(&p.out, ".TH %s %s %q %q \"TOP.E OTA\"\n", escape(strings.ToUpper(page[:dot])), page[dot+1:], date, strings.TrimSpace("ota "+version))
		if err := p.markdown(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		pages[page] = p.out.String()
	}
	return pages, nil
}

// roff writes a page with the macros of man(7), which every man program knows.
type roff struct {
	out  strings.Builder
	tool *Tool // nil: the page is not about a program
}

var insertion = regexp.MustCompile(`^<!-- usage: (\w+) -->$`)

// markdown writes what these pages use of Markdown: headings, paragraphs, lists
// with "* ", code that is indented by four spaces, and items: a line of `code` or
// **bold** and a following paragraph that begins with ": ".
func (p *roff) markdown(text string) error {
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(strings.Trim(block, "\n"), "\n")
		first := lines[0]
		switch m := insertion.FindStringSubmatch(first); {
		case m != nil:
			if p.tool == nil {
				return fmt.Errorf("%s: this page is about no program", first)
			}
			if err := p.usage(m[1]); err != nil {
				return err
			}
		case strings.HasPrefix(first, "# "):
			// The name and what it does: for man -k.
			name, what, ok := strings.Cut(first[2:], " - ")
			if !ok {
				return fmt.Errorf("%q: want NAME - WHAT IT IS", first)
			}
			fmt.Fprintf(&p.out, ".SH NAME\n%s \\- %s\n", escape(name), escape(what))
		case strings.HasPrefix(first, "## "):
			fmt.Fprintf(&p.out, ".SH %s\n", escape(strings.ToUpper(first[3:])))
		case strings.HasPrefix(first, "    "):
			p.verbatim(lines, 4)
		case strings.HasPrefix(first, "* "):
			for _, item := range strings.Split(block, "\n* ") {
				fmt.Fprintf(&p.out, ".IP \\(bu 2\n%s\n", inline(strings.TrimPrefix(item, "* ")))
			}
		case len(lines) > 1 && strings.HasPrefix(lines[1], ": "):
			p.item(inline(first), strings.TrimPrefix(strings.Join(lines[1:], "\n"), ": "))
		default:
			p.heading()
			fmt.Fprintf(&p.out, "%s\n", inline(block))
		}
	}
	return nil
}

// heading begins a paragraph, unless a heading does already.
func (p *roff) heading() {
	text := strings.TrimSuffix(p.out.String(), "\n")
	last := text[strings.LastIndex(text, "\n")+1:]
	if !strings.HasPrefix(last, ".S") {
		p.out.WriteString(".PP\n")
	}
}

func (p *roff) item(tag, text string) {
	fmt.Fprintf(&p.out, ".TP\n%s\n%s\n", tag, inline(text))
}

func (p *roff) verbatim(lines []string, indent int) {
	p.heading()
	p.out.WriteString(".RS 4\n.nf\n")
	for _, line := range lines {
		if len(line) >= indent {
			line = line[indent:]
		}
		fmt.Fprintf(&p.out, "%s\n", escape(line))
	}
	p.out.WriteString(".fi\n.RE\n")
}

// usage writes one part of what the usage text says.
func (p *roff) usage(part string) error {
	t := p.tool
	switch part {
	case "summary":
		fmt.Fprintf(&p.out, ".SH NAME\n%s \\- %s\n", escape(t.Name), escape(t.Summary))
	case "synopsis":
		for i, c := range t.all() {
			if i > 0 {
				p.out.WriteString(".br\n")
			}
			fmt.Fprintf(&p.out, "%s %s\n", bold(t.Name), synopsis(c.Synopsis))
		}
	case "commands":
		for _, g := range t.Groups {
			if g.Title != "" {
				fmt.Fprintf(&p.out, ".SS %s\n", escape(strings.TrimSuffix(g.Title, ":")))
			}
			for _, c := range g.Commands {
				p.item(bold(t.Name)+" "+synopsis(c.Synopsis), c.Text)
				said := false
				for _, f := range c.Flags {
					if f.Text == "" {
						continue
					}
					if !said {
						p.out.WriteString(".RS\n")
						said = true
					}
					p.item(flagTag(f), f.Text)
				}
				if said {
					p.out.WriteString(".RE\n")
				}
			}
		}
	case "flags":
		for _, f := range t.Flags {
			p.item(flagTag(f), f.Text)
		}
	case "notes":
		var code []string
		flush := func() {
			if code != nil {
				p.verbatim(code, 2)
			}
			code = nil
		}
		for _, line := range t.Notes {
			if strings.HasPrefix(line, " ") {
				code = append(code, line)
				continue
			}
			flush()
			if line != "" {
				p.heading()
				fmt.Fprintf(&p.out, "%s\n", inline(line))
			}
		}
		flush()
	case "exits":
		for _, e := range t.Exits {
			p.item(bold(strconv.Itoa(e.Code)), e.Text)
		}
	default:
		return fmt.Errorf("the usage text has no part %q", part)
	}
	return nil
}

func (t *Tool) all() []*Command {
	var all []*Command
	for _, g := range t.Groups {
		all = append(all, g.Commands...)
	}
	return all
}

func flagTag(f Flag) string {
	if f.Arg == "" {
		return bold(f.Name)
	}
	return bold(f.Name) + " " + italic(f.Arg)
}

func bold(s string) string   { return `\fB` + escape(s) + `\fR` }
func italic(s string) string { return `\fI` + escape(s) + `\fR` }

var (
	literal     = regexp.MustCompile(`--?[a-z][a-z0-9-]*|[A-Z][A-Za-z.]*|[a-z]+`)
	inlineMarks = regexp.MustCompile("`[^`]+`|\\*\\*[^*]+\\*\\*|\\*[^*\\s][^*]*\\*")
)

// synopsis is what is typed in bold, and what stands for something in italics.
func synopsis(s string) string {
	var out strings.Builder
	last := 0
	for _, m := range literal.FindAllStringIndex(s, -1) {
		out.WriteString(escape(s[last:m[0]]))
		if word := s[m[0]:m[1]]; word[0] >= 'A' && word[0] <= 'Z' {
			out.WriteString(italic(word))
		} else {
			out.WriteString(bold(word))
		}
		last = m[1]
	}
	return out.String() + escape(s[last:])
}

// inline is a paragraph with its `code`, **bold** and *italics*.
func inline(s string) string {
	var out strings.Builder
	last := 0
	s = strings.ReplaceAll(s, "\n", " ")
	for _, m := range inlineMarks.FindAllStringIndex(s, -1) {
		out.WriteString(escape(s[last:m[0]]))
		switch word := s[m[0]:m[1]]; {
		case strings.HasPrefix(word, "`"):
			out.WriteString(bold(strings.Trim(word, "`")))
		case strings.HasPrefix(word, "**"):
			out.WriteString(bold(strings.Trim(word, "*")))
		default:
			out.WriteString(italic(strings.Trim(word, "*")))
		}
		last = m[1]
	}
	text := out.String() + escape(s[last:])
	// A line may not begin with what begins a request.
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// escape is text that means itself. Letters outside ASCII have the names of
// groff_char(7), which all man programs know.
func escape(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case r == '\\':
			out.WriteString(`\(rs`)
		case r == '-':
			out.WriteString(`\-`)
		case r == '\'':
			out.WriteString(`\(aq`)
		case r == '`':
			out.WriteString(`\(ga`)
		case r == '"':
			out.WriteString(`\(dq`)
		case r == '^':
			out.WriteString(`\(ha`)
		case r == '~':
			out.WriteString(`\(ti`)
		case r > 126:
			fmt.Fprintf(&out, `\[u%04X]`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
