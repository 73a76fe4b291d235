// Package blocks cuts the power of a disk after its every write. A flow runs on a
// real file system, on a disk that logs what is written to it; then the log is
// played again, as far as some moment, and the file system is mounted, plays its own
// journal, and the store on it is checked.
//
//	record.go   the disk: qemu-storage-daemon serves a file by FUSE, a loop device is
//	            on that file, the file system on the loop device
//	log.go      the format of that log
//	replay.go   what the disk may hold when the power goes: all that was flushed, and
//	            any part of the rest
//	image.go    disks in memory
//	campaign.go a flow on a file system: which states, and what is wrong with them
//
//	run ─ ext4 ─ /dev/loopN ─ export (FUSE) ─ blklogwrites ┬ disk
//	                                                       └ log
//
// What is not modelled: a disk that lies about a flush, or that damages what it is
// not writing.
package blocks
