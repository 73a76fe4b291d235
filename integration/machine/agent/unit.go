package agent

import _ "embed"

// Where the agent is in a guest. UnitWants is a symbolic link to UnitPath: no
// `systemctl enable` runs in a root that is read-only.
const (
	Path      = "/usr/lib/ota-test/ota-test-agent"
	UnitPath  = "/etc/systemd/system/ota-test-agent.service"
	UnitWants = "/etc/systemd/system/sysinit.target.wants/ota-test-agent.service"
)

// Unit is the text of the agent's systemd unit, for UnitPath.
//
//go:embed ota-test-agent.service
var Unit string
