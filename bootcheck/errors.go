package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// An ExitCode is what a program says to its caller. The numbers are API:
// scripts and device-api branch on them, so a number never changes its meaning.
type ExitCode int

const (
	ExitDone           ExitCode = 0  // what was asked for is so
	ExitFailed         ExitCode = 1  // failed, nothing changed; also every cause that has no number of its own
	ExitUsage          ExitCode = 2  // the command line or the configuration is wrong
	ExitBusy           ExitCode = 3  // another install or the guardian holds the lock; try again
	ExitRefused        ExitCode = 4  // signature, model, downgrade, blocked, expired
	ExitDamaged        ExitCode = 5  // damaged or hostile bundle or snapshot
	ExitDownloadFailed ExitCode = 6  // the download failed; asking again resumes it
	ExitNoSpace        ExitCode = 7  // no room for it on the device
	ExitRolledBack     ExitCode = 8  // the new version failed and the device runs another again
	ExitHeld           ExitCode = 9  // hold: an operator is needed
	ExitUnknown        ExitCode = 10 // switched, but not certainly durable
)

// The words that begin the "error" of a progress report to device-api. They are
// API like the exit codes.
const (
	CodeDownloadFailed   = "DOWNLOAD_FAILED"
	CodeAddressExpired   = "ADDRESS_EXPIRED" // of a download that an address of today would continue
	CodeSizeMismatch     = "SIZE_MISMATCH"
	CodeHashMismatch     = "HASH_MISMATCH"
	CodeSignatureInvalid = "SIGNATURE_INVALID"
	CodeInvalidManifest  = "INVALID_MANIFEST"
	CodeDiskFull         = "DISK_FULL"
	CodeDeploymentFailed = "DEPLOYMENT_FAILED"
	CodeRolledToPrevious = "ROLLED_BACK_TO_PREVIOUS"
	CodeRolledToFactory  = "ROLLED_BACK_TO_FACTORY"
	CodeRollbackFailed   = "ROLLBACK_FAILED"
)

// Line is the text of err in one line, for people: what packages context and signal say of a
// program that was told to end is "interrupted".
func Line(err error) string {
	line := OneLine(err.Error())
	for _, said := range []string{context.Canceled.Error(), os.Interrupt.String() + " signal received", syscall.SIGTERM.String() + " signal received"} {
		line = strings.ReplaceAll(line, said, "interrupted")
	}
	if first, found := strings.CutSuffix(line, ": interrupted"); found && strings.Contains(first, "interrupted") {
		return first
	}
	return line
}

// Error is a failure that knows how its program ends and what device-api is
// told. Its text is one clear line: what could not be done, to what, why.
type Error struct {
	Exit   ExitCode // 0 means not classified, see func Exit
	Code   string   // one of the Code constants; empty means CodeDeploymentFailed
	Advice string   // what an operator does next, for a line of its own; empty: nothing sensible to say
	Err    error    // never nil
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an *Error; format and args are those of fmt.Errorf.
func Errorf(exit ExitCode, code, format string, args ...any) *Error {
	return &Error{Exit: exit, Code: code, Err: fmt.Errorf(format, args...)}
}

// WithAdvice adds what an operator does next and returns e.
func (e *Error) WithAdvice(format string, args ...any) *Error {
	e.Advice = fmt.Sprintf(format, args...)
	return e
}

// Exit says how a program that ends with err exits. An error that no one
// classified is ExitFailed, except the two that any write can meet: a full
// disk or quota (ExitNoSpace).
func Exit(err error) ExitCode {
	if err == nil {
		return ExitDone
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Exit != ExitDone {
		return e.Exit
	}
	if IsNoSpace(err) {
		return ExitNoSpace
	}
	return ExitFailed
}

// ReportCode is the word that begins the "error" of a report about err.
func ReportCode(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Code != "" {
		return e.Code
	}
	if IsNoSpace(err) {
		return CodeDiskFull
	}
	return CodeDeploymentFailed
}

// Advice is what an operator should do about err; empty if nothing is known.
func Advice(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Advice != "" {
		return e.Advice
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run it as root"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only: look for errors of the disk in `dmesg`, then remount it"
	}
	return ""
}

// IsNoSpace reports whether err means that the disk, its inodes or a quota is
// used up.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
