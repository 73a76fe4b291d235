package deviceapi

import _ "embed"

// Unit is the text of device-api.service.
//
//go:embed device-api.service
var Unit string

// State is the directory in which Unit's device-api keeps reports.jsonl.
const State = "/data/device-api"
