// Command man makes the manual pages and the completion for bash.
//
//	usage text of a program ──┬─> completions/ota-apply …
//	  (PROGRAM --help)        │
//	prose, NAME.SECTION.md ───┴─> man/ota-apply.1 …
//
// Commands, flags and exit codes are in the usage texts and nowhere else; the
// prose says with <!-- usage: … --> where they go.
//
//	usage: go run ./docs/man [-o DIR] [-version V] [-date YYYY-MM-DD]
package main

import (
	"bytes"
	"context"
	"embed"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/guardian"
)

//go:embed *.md
var prose embed.FS

func main() {
	out := flag.String("o", "bin", "the folder to write man/ and completions/ into")
	version := flag.String("version", "", "the version of the programs")
	date := flag.String("date", "", "the day of this version, as 2026-11-26")
	flag.Parse()
	if err := write(*out, *version, *date); err != nil {
		fmt.Fprintf(os.Stderr, "man: %v\n", err)
		os.Exit(1)
	}
}

// write writes everything into dir.
func write(dir, version, date string) error {
	tools, err := readTools()
	if err != nil {
		return err
	}
	pages, err := makePages(tools, version, date)
	if err != nil {
		return err
	}
	files := map[string]string{}
	for name, text := range pages {
		files["man/"+name] = text
	}
	for name, t := range tools {
		files["completions/"+name] = completion(t)
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

// programs are the three command lines, as their main functions call them.
var programs = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode{
	"ota-apply":    applier.Main,
	"ota-guardian": guardian.Main,
	"ota-bundle": func(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode {
		return bundlecmd.Main(ctx, args, strings.NewReader(""), stdout, stderr)
	},
}

// readTools asks each program for its usage text.
func readTools() (map[string]*Tool, error) {
	tools := map[string]*Tool{}
	for name, main := range programs {
		var out bytes.Buffer
		if code := main(context.Background(), []string{"--help"}, &out, os.Stderr); code != 0 {
			return nil, fmt.Errorf("%s --help ends with %d", name, code)
		}
		t, err := readUsage(name, out.String())
		if err != nil {
			return nil, err
		}
		tools[name] = t
	}
	return tools, nil
}
