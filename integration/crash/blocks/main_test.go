package blocks

import (
	"os"
	"testing"

	"github.com/tope-ota/ota/integration/crash/flows"
)

func TestMain(m *testing.M) {
	if len(Missing()) == 0 {
		if code, ended := Isolate(); ended {
			os.Exit(code)
		}
	}
	os.Exit(flows.Main(m))
}
