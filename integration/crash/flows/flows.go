// Package flows is what the crash tests interrupt: each flow is one command of a
// device, run on a store that was prepared for it, with what may be found on the
// disk whenever it is broken off, and what must be there once it said that it is
// done.
package flows

import "context"

// A World is what all flows take from: programs, keys and bundles. It is made once
// and then only read.
type World struct {
	Dir string
}

// A Site is a device without systemd: a store, its configuration and what was
// downloaded, below one folder. Its store may be on a file system of its own.
type Site struct {
	Dir  string // holds ota.toml, run/ (what a reboot loses) and, unless it is elsewhere, the store
	Root string // the store
}

// A State is what a store says: which version is which; empty: none.
type State struct {
	Phase                      string
	Current, Previous, Factory string
}

// A Flow is one command.
type Flow struct {
	Name string // for FLOW= and the list
	// Prepare makes what is there before. Nothing interrupts it, and all of it is
	// durable when it returns.
	Prepare func(ctx context.Context, w *World, s *Site) error
	// Args is the command: a program of the world, and its arguments.
	Args func(w *World, s *Site) []string
	// Before is the state that Prepare leaves. Allowed are the states in which the
	// command may be broken off, Before among them; After is the one that must be
	// found, whatever happens, once it has exited with 0.
	Before, After State
	Allowed       []State
}
