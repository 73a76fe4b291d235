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
	"fmt"
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

// Fatal is End of a test, which fails then.
func Fatal(t interface {
	Helper()
	Fatalf(format string, args ...any)
}) {
	t.Helper()
	switch f := recover().(type) {
	case nil:
	case failed:
		t.Fatalf("%s: %v", f.where, f.err)
	default:
		panic(f)
	}
}
