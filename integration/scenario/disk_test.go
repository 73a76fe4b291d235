package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/scenario"
)

func TestDiskOfTheStore(t *testing.T) { inContainer(t, scenario.DiskOfTheStore) }
