package systemd

import "golang.org/x/sys/unix"

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
