package systemd

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Confined are the restrictions that every transient unit of ours has. It sees the
// system read-only but for write, paths that need not exist, and may not change
// the kernel, the clock or the machine. What it may do beside that, its network,
// capabilities and system calls, its user says.
func Confined(write ...string) []Property {
	var paths []string
	for _, p := range write {
		paths = append(paths, "-"+p)
	}
	return []Property{
		{Name: "ProtectSystem", Value: "strict"},
		{Name: "ReadWritePaths", Value: paths},
		{Name: "PrivateMounts", Value: true},
		{Name: "PrivateDevices", Value: true},
		{Name: "DevicePolicy", Value: "closed"},
		{Name: "NoNewPrivileges", Value: true},
		{Name: "RestrictSUIDSGID", Value: true},
		{Name: "ProtectClock", Value: true},
		{Name: "ProtectHostname", Value: true},
		{Name: "ProtectKernelLogs", Value: true},
		{Name: "ProtectKernelModules", Value: true},
		{Name: "ProtectKernelTunables", Value: true},
		{Name: "ProtectControlGroups", Value: true},
		{Name: "RestrictNamespaces", Value: uint64(0)}, // those that are allowed
		{Name: "RestrictRealtime", Value: true},
		{Name: "LockPersonality", Value: true},
		{Name: "RemoveIPC", Value: true},
		{Name: "KeyringMode", Value: "private"},
		{Name: "SystemCallArchitectures", Value: []string{"native"}},
		// The call fails. The default kills the program, and Go itself makes some of
		// these when it starts.
		{Name: "SystemCallErrorNumber", Value: int32(unix.EPERM)},
	}
}

// CheckSandbox is what health checks are run in, before a switch and after it: one
// that failed only in one of the two places would condemn a good version, or be
// excused for ever. It has the network, since a script may ask a server, and what
// ping needs; it sees all files, since a script may look at one. It cannot change
// the system nor the versions, nor reset the machine.
func CheckSandbox() []Property {
	return slices.Concat(Confined("/run", "/tmp", "/var/tmp"), []Property{
		{Name: "ProtectHome", Value: "yes"},
		{Name: "RestrictAddressFamilies", Value: Filter{Allow: true, Items: []string{"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}}},
		{Name: "CapabilityBoundingSet", Value: uint64(1<<unix.CAP_NET_RAW | 1<<unix.CAP_DAC_READ_SEARCH)},
		{Name: "SystemCallFilter", Value: Filter{Allow: true, Items: []string{"@system-service"}}},
		{Name: "SystemCallFilter", Value: Filter{Items: []string{"@privileged"}}},
	})
}
