package machine

import (
	"fmt"
	"path"
	"strings"

	"github.com/tope-ota/ota/docs/schema"
	"github.com/tope-ota/ota/integration/machine/agent"
)

func init() { agent.Check = CheckOutput }

// CheckOutput says what is wrong with the JSON that one of our programs printed; argv that
// does not begin with one is not looked at, nor is a program that a signal ended.
func CheckOutput(argv []string, r Result) error {
	switch path.Base(argv[0]) {
	case "ota", "ota-apply", "ota-bundle", "ota-guardian":
		if r.Code < 128 {
			if err := schema.CheckOutput(argv[1:], []byte(r.Stdout)); err != nil {
				return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
			}
		}
	}
	return nil
}
