package systemdtest

// units are what the guest's tests start and stop.
var units = map[string]string{
	// Not simple, which since systemd 255 has started when systemd-executor runs, not yet what it is to run.
	"t-good.service": `
[Service]
Type=exec
ExecStart=/bin/sleep 1000
`,
	"t-slow.service": `
[Service]
ExecStartPre=/bin/sleep 2
ExecStart=/bin/sleep 1000
`,
	"t-once.service": `
[Service]
Type=oneshot
ExecStart=/bin/true
`,
	"t-stays.service": `
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
`,
	// Does what a test writes there.
	"t-run.service": `
[Unit]
StartLimitIntervalSec=0
[Service]
Type=oneshot
ExecStart=/bin/sh /run/t-run
`,
	"t-nothing.service": `
[Service]
Type=oneshot
ExecStart=/no/such/program
`,
	"t-exits.service": `
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'exit 3'
`,
	// A start that never says it is ready.
	"t-silent.service": `
[Service]
Type=notify
TimeoutStartSec=1
ExecStart=/bin/sleep 1000
`,
	// Dies all the time, and the start limit never ends it.
	"t-flaps.service": `
[Unit]
StartLimitIntervalSec=0
[Service]
Restart=always
RestartSec=20ms
ExecStart=/bin/sleep 0.3
`,
	// Dies until the start limit ends it.
	"t-limit.service": `
[Unit]
StartLimitIntervalSec=60
StartLimitBurst=3
[Service]
Restart=always
RestartSec=20ms
ExecStart=/bin/sh -c 'exit 1'
`,
	// A signal that no program has to catch: a shell may get SIGTERM before its trap is set.
	"t-stubborn.service": `
[Service]
TimeoutStopSec=2
KillSignal=SIGWINCH
ExecStart=/bin/sleep 1000
`,
}
