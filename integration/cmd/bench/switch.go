package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/tope-ota/ota/bootcheck"
)

// switches measures the switch and the durable commit, each beside the bare system
// call that it cannot do without, in turns on the same disk.
func (b *bench) switches(ctx context.Context) error {
	const rounds = 300
	dir, err := b.fresh()
	if err != nil {
		return err
	}
	store, err := bootcheck.Create(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	record := &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: &bootcheck.Ref{Version: "1.0.0"}, Previous: &bootcheck.Ref{Version: "1.1.0"}}
	for _, ref := range []*bootcheck.Ref{record.Current, record.Previous} {
		if err := os.Mkdir(store.VersionDir(ref.Version), 0o755); err != nil {
			return err
		}
	}
	file, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		return err
	}
	defer file.Close()
	steps := []struct {
		name string
		run  func() error
	}{
		{"rename of a link", func() error {
			if err := os.Symlink("a", filepath.Join(dir, "link.new")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "link.new"), filepath.Join(dir, "link"))
		}},
		{"the switch: who looks sees the new version", func() error { return renameio.Symlink("a", filepath.Join(dir, "switch")) }},
		{"fsync of 4 KiB", func() error {
			_, err := file.WriteAt(make([]byte, 4096), 0)
			return errors.Join(err, file.Sync())
		}},
		{"Commit: record, links and switch, durable", func() error {
			record.Current, record.Previous = record.Previous, record.Current
			return store.Commit(record.Clone())
		}},
	}
	took := make([][]time.Duration, len(steps))
	for range rounds {
		for i, s := range steps {
			if err := ctx.Err(); err != nil {
				return err
			}
			began := time.Now()
			if err := s.run(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	fmt.Printf("\nSwitch and commit, %d times each, in turns\n\n| | median | p99 |\n|---|---|---|\n", rounds)
	for i, s := range steps {
		slices.Sort(took[i])
		fmt.Printf("| %s | %.3f ms | %.3f ms |\n", s.name, ms(took[i][rounds/2]), ms(took[i][rounds*99/100]))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
