// Package try ends a story at its first error, without three lines for each step. It is
// for tests, their stories and their machines: what a product calls says what failed.
//
//	func story(ctx context.Context, d *machine.Device) (err error) {
//		defer try.End(&err)
//		url := try.Get(d.Offer(ctx, version))
//		try.Check(d.Reach(ctx, want))
//		return nil
//	}
package try

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
)

// failed is what a story ends with.
type failed struct {
	err   error
	where string
}

// Check ends the function that deferred End or Fatal if err is not nil.
func Check(err error) {
	if err != nil {
		fail(err)
	}
}

// Get is v, if err is nil, and ends the function as Check does otherwise.
func Get[T any](v T, err error) T {
	if err != nil {
		fail(err)
	}
	return v
}

// Failf ends the function with an error of its own.
func Failf(format string, args ...any) { fail(fmt.Errorf(format, args...)) }

// Run runs cmd, which has to succeed, and returns what it printed, on both streams.
func Run(cmd *exec.Cmd) string {
	out, err := cmd.CombinedOutput()
	if err != nil {
		fail(fmt.Errorf("%q: %w\n%s", cmd.Args, err, out))
	}
	return string(out)
}

// Output is Run without what went to stderr.
func Output(cmd *exec.Cmd) string {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		fail(fmt.Errorf("%q: %w\n%s%s", cmd.Args, err, out, &stderr))
	}
	return string(out)
}

// fail ends the function that called the one that calls it.
func fail(err error) {
	_, file, line, _ := runtime.Caller(2)
	panic(failed{err, fmt.Sprintf("%s:%d", filepath.Base(file), line)})
}

// End is deferred by a function that calls Check or Get: what these were given becomes
// its error.
func End(err *error) {
	switch f := recover().(type) {
	case nil:
	case failed:
		*err = f.err
	default:
		panic(f)
	}
}

// Say is deferred by a function whose failures need words before them.
func Say(format string, args ...any) {
	switch f := recover().(type) {
	case nil:
	case failed:
		panic(failed{fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), f.err), f.where})
	default:
		panic(f)
	}
}

// Fatal is End of a test, which fails then.
func Fatal(t interface {
	Fatalf(format string, args ...any)
}) {
	if t, ok := t.(interface{ Helper() }); ok {
		t.Helper()
	}
	switch f := recover().(type) {
	case nil:
	case failed:
		t.Fatalf("%s: %v", f.where, f.err)
	default:
		panic(f)
	}
}
