// Package layout is what the host's harness and the guest's /init agree on.
package layout

// Disks are told apart by the serial numbers that QEMU gives them: the order in
// which the kernel finds them is not promised.
const (
	RootSerial = "root" // erofs, read-only
	DataSerial = "data" // ext4; holds the directories of DataDirs
)

// Writable is the word of the kernel's command line that makes the root writable,
// by a layer on the data disk: the directories UpperDir and WorkDir of it.
const (
	Writable = "ota.writable"
	UpperDir = "root-upper"
	WorkDir  = "root-work"
)

// A DataDir is on the data disk and bound over a directory of the read-only root.
type DataDir struct{ Name, Target string }

// DataDirs are made by /init on a disk that has none.
var DataDirs = []DataDir{
	{"opt-tope", "/opt/tope"},
	{"etc-ota", "/etc/ota"},
	{"var-lib-ota", "/var/lib/ota"},
}
