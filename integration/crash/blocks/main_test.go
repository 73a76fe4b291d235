package blocks

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if len(Missing()) == 0 {
		if code, ended := Isolate(); ended {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}
