// Package crashpoint runs real programs and stops the world at their every change to
// a file system: there it kills them, makes the call fail, or only takes note.
package crashpoint
