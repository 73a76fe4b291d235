package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A sum is what came of a part.
type sum struct {
	name                   string
	tests, failed, skipped int // that have no tests below them
	engines                []engine
	took                   time.Duration
	err                    error        // of go test
	failures               bytes.Buffer // what the failed tests printed, and how each is run once more
}

// An engine is what one of the crash suite made, by the line that it ends with.
type engine struct {
	name              string
	made, all, failed int
	took              time.Duration
}

var engineLine = regexp.MustCompile(`^crash: (.*): (\d+) of (\d+) points, (\d+) failed, (\d+) s\n$`)

func (s *sum) String() string {
	word := "ok  "
	if s.failed > 0 || s.err != nil {
		word = "FAIL"
	}
	return fmt.Sprintf("%s  %-48s %s, %d failed, %.1f min", word, s.name, tests(s), s.failed, s.took.Minutes())
}

// An event is what test2json writes: see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
}

func (p *part) run(ctx context.Context, tier string) *sum {
	s := &sum{name: p.name}
	began := time.Now()
	defer func() { s.took = time.Since(began) }()
	args := slices.Concat([]string{"test", "-json", "-count=1", "-timeout", timeouts[tier]}, p.args)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = time.Minute // what the tests started ends with them
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.err = err
		fmt.Fprintf(&s.failures, "%s: %v\n", p.name, err)
		return s
	}
	l := newLog(p, s)
	d := json.NewDecoder(out)
	for {
		var e event
		if d.Decode(&e) != nil {
			break // the end; or what is no event, and then go test fails
		}
		l.add(&e)
	}
	s.err = cmd.Wait()
	l.sum()
	if s.err != nil && s.failures.Len() == 0 {
		fmt.Fprintf(&s.failures, "%s: %v\n%s", p.name, s.err, stderr.String())
	}
	return s
}

// A log is what the tests of a part said. Its keys are packages, and tests as
// package\x00test.
type log struct {
	p       *part
	s       *sum
	printed map[string]*bytes.Buffer
	parent  map[string]bool
	ended   map[string]string
	order   []string // the tests, as they ended
}

func newLog(p *part, s *sum) *log {
	return &log{p: p, s: s, printed: make(map[string]*bytes.Buffer), parent: make(map[string]bool), ended: make(map[string]string)}
}

func (l *log) add(e *event) {
	key := e.Package
	if e.Package == "" {
		key = e.ImportPath // it did not build
	}
	if e.Test != "" {
		key += "\x00" + e.Test
	}
	switch e.Action {
	case "output", "build-output":
		if l.printed[key] == nil {
			l.printed[key] = new(bytes.Buffer)
		}
		l.printed[key].WriteString(e.Output)
		if m := engineLine.FindStringSubmatch(e.Output); m != nil {
			number := func(i int) int { n, _ := strconv.Atoi(m[i]); return n }
			l.s.engines = append(l.s.engines, engine{m[1], number(2), number(3), number(4), time.Duration(number(5)) * time.Second})
		}
	case "run":
		if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
			l.parent[e.Package+"\x00"+e.Test[:i]] = true
		}
	case "pass", "fail", "skip", "build-fail":
		l.ended[key] = e.Action
		l.order = append(l.order, key)
		if e.Action == "pass" {
			delete(l.printed, key)
		}
	}
}

// sum counts, and tells of each test that failed what it printed, with what its parents
// printed after it, and how it is run once more.
func (l *log) sum() {
	told := make(map[string]bool) // packages
	for _, key := range l.order {
		pkg, test, isTest := strings.Cut(key, "\x00")
		end := l.ended[key]
		if isTest && !l.parent[key] {
			l.s.tests++
			if end == "skip" {
				l.s.skipped++
				fmt.Fprintf(&l.s.failures, "skipped: %s %s\n", pkg, test)
			}
		}
		if end != "fail" && end != "build-fail" {
			continue
		}
		if !isTest && told[pkg] {
			continue // it failed because one of its tests did
		}
		told[pkg] = true
		if !isTest || !l.parent[key] {
			l.s.failed++
		}
		if !isTest {
			l.sumCrash(pkg)
		}
		if text := l.printed[key]; text != nil {
			l.s.failures.Write(text.Bytes())
		}
		if isTest && !l.parent[key] {
			if text := l.printed[key]; text != nil {
				fmt.Fprintf(&l.s.failures, "in short:\n%s", inShort(text.String()))
			}
			fmt.Fprintf(&l.s.failures, "once more: %s\n\n", l.p.again(pkg, test))
		}
	}
}

// sumCrash tells what the tests of pkg printed that never ended, as the process of all of them
// did: the reason is behind what one of them said last.
func (l *log) sumCrash(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(l.printed)) {
		if of, test, isTest := strings.Cut(key, "\x00"); isTest && of == pkg && l.ended[key] == "" {
			fmt.Fprintf(&l.s.failures, "%s never ended; it printed:\n%s", test, l.printed[key])
		}
	}
}

// Where a test says something in its own file, and anything of the testing package's.
var (
	ownWord = regexp.MustCompile(`^ +\w+_test\.go:\d+: `)
	anyWord = regexp.MustCompile(`^(---|===| +\w+\.go:\d+:) `)
)

// inShort is what a test said last in its own file, at most shortLines of it. Behind it
// come the logs of its machines, and a reader of the end alone must not have to guess.
func inShort(text string) string {
	var last []string
	ended := true
	for line := range strings.Lines(text) {
		switch {
		case ownWord.MatchString(line):
			last, ended = []string{line}, false
		case anyWord.MatchString(line):
			ended = true
		case !ended && len(last) < shortLines:
			last = append(last, line)
		}
	}
	return strings.Join(last, "")
}

const shortLines = 12

// again is the command that runs one test of the part once more.
func (p *part) again(pkg, test string) string {
	var names []string
	for name := range strings.SplitSeq(test, "/") {
		names = append(names, "^"+regexp.QuoteMeta(name)+"$")
	}
	return strings.Join(append(slices.Clone(p.env), "go test -count=1 -v", pkg, "-run", "'"+strings.Join(names, "/")+"'"), " ")
}
