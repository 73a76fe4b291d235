package crashpoint

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// A Call is one system call that changes a file system, or makes a change last. A
// log of them, in their order, is all that a run did to the disk: it can be played
// again on another one, call by call.
type Call struct {
	// Point is its number in the run, from 1, over all processes and threads, in
	// the order in which the kernel was asked. The calls were made one after the
	// other: each ended before the next began.
	Point int
	// PID and TID are those of the thread that made it; Program is the base name of the
	// program's file.
	PID, TID int
	Program  string
	// Name is what it does, whichever of its forms was called: one of Names.
	Name string
	// File is what it is about; To is the new name of a link or rename.
	File, To Place
	// Flags are those of open, rename, unlink and fallocate. Mode is that of open,
	// mkdir and chmod, the umask applied.
	Flags int
	Mode  fs.FileMode
	// Offset and Length say which bytes write, copy, clone and fallocate change; of
	// an appending write or one at the file's position, Offset is where it was. Of
	// truncate, Offset is the new end and Length 0.
	Offset, Length int64
	// Data is what write, copy and clone left in these bytes: Length of them, as
	// many as were asked for if the call failed, and nil if a copy or clone failed.
	Data []byte
	// Target is the text of a symlink.
	Target string
	// Source is the file that copy, clone and link took from. Of link, File is the
	// same.
	Source Place
	// Result is what the call returned, a descriptor of open or a number of bytes;
	// Errno is why it failed, 0 if it did not. Injected: it was never made, and
	// told to have failed with Errno.
	Result   int64
	Errno    unix.Errno
	Injected bool
}

// A Place is a file as a call knew it.
type Place struct {
	// Path is absolute and holds no links but maybe its last component. Of a
	// descriptor, it is where the file was at that moment; empty: it had no name.
	Path string
	// ID is the file's identity; zero: nothing was there before the call. Of what
	// open, mkdir and symlink made, it is that of what was made. Of To it is what a
	// rename took the name from.
	ID ID
	// Made: the call made the file.
	Made bool
	Type fs.FileMode // only the bits of the type
}

// An ID is a file, under any of its names. Numbers are used again after a file is
// gone; a reader of the log sees the last unlink.
type ID struct{ Dev, Ino uint64 }

// Names are the names of calls.
var Names = []string{
	"open",      // only if it may make or truncate a file
	"write",     // also pwrite
	"copy",      // copy_file_range
	"clone",     // ioctl FICLONE, FICLONERANGE
	"truncate",  // also ftruncate
	"fallocate", //
	"mkdir",     //
	"symlink",   //
	"link",      //
	"rename",    //
	"unlink",    // also rmdir: Flags has AT_REMOVEDIR
	"chmod",     // also fchmod
	"fsync",     // also fdatasync
	"syncfs",    // also sync
}
