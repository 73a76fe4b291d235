// Package layout is what the host's harness and the guest's /init agree on.
package layout

// Disks are told apart by the serial numbers that QEMU gives them: the order in
// which the kernel finds them is nobody's promise.
const (
	RootSerial = "root" // erofs, read-only
	DataSerial = "data" // ext4; holds the folders of DataFolders
)

// Writable is the word of the kernel's command line that makes the root writable,
// by a layer on the data disk: the folders UpperFolder and WorkFolder of it.
const (
	Writable    = "ota.writable"
	UpperFolder = "root-upper"
	WorkFolder  = "root-work"
)

// A DataFolder is on the data disk and bound over a folder of the read-only root.
type DataFolder struct{ Name, Target string }

// DataFolders are made by /init on a disk that has none.
var DataFolders = []DataFolder{
	{"opt-tope", "/opt/tope"},
	{"etc-ota", "/etc/ota"},
	{"var-lib-ota", "/var/lib/ota"},
}
