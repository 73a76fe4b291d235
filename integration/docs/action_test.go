package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"github.com/tope-ota/ota/integration/try"
)

// action is what this test needs to know of an action.yml.
type action struct {
	Inputs map[string]struct {
		Required bool
		Default  string
	}
	Outputs map[string]struct{ Value string }
	Runs    struct {
		Using string
		Steps []struct {
			ID, Shell, Run string
			Env            map[string]string
		}
	}
}

// expression is what a runner replaces: inputs.NAME or steps.ID.outputs.NAME.
var expression = regexp.MustCompile(`\$\{\{ *([a-z.-]+) *\}\}`)

// run does what a runner does with the steps, in dir, and returns the outputs; code is
// that of the first step that fails.
func (a *action) run(t *testing.T, dir, path string, inputs map[string]string) (outputs map[string]string, text string, code int) {
	t.Helper()
	defer try.Fatal(t)
	known := map[string]string{}
	for name, input := range a.Inputs {
		known["inputs."+name] = input.Default
		if value, ok := inputs[name]; ok {
			known["inputs."+name] = value
		} else if input.Required {
			t.Fatalf("the input %s is missing", name)
		}
	}
	expand := func(s string) string {
		return expression.ReplaceAllStringFunc(s, func(e string) string {
			value, ok := known[expression.FindStringSubmatch(e)[1]]
			if !ok {
				t.Fatalf("%s is not known", e)
			}
			return value
		})
	}
	for _, step := range a.Runs.Steps {
		if step.Shell != "bash" || strings.Contains(step.Run, "${{") {
			t.Fatalf("step %s: an input in the script itself can be a command", step.ID)
		}
		out := filepath.Join(t.TempDir(), "output")
		cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.Run)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + path, "TMPDIR=" + t.TempDir(), "GITHUB_OUTPUT=" + out}
		for name, value := range step.Env {
			cmd.Env = append(cmd.Env, name+"="+expand(value))
		}
		said, err := cmd.CombinedOutput()
		text += string(said)
		if err != nil {
			return nil, text, cmd.ProcessState.ExitCode()
		}
		if left, _ := filepath.Glob(strings.TrimPrefix(cmd.Env[1], "TMPDIR=") + "/*"); len(left) > 0 {
			t.Errorf("step %s leaves %s", step.ID, left)
		}
		lines, _ := os.ReadFile(out)
		for line := range strings.Lines(string(lines)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			known["steps."+step.ID+".outputs."+name] = value
		}
	}
	outputs = map[string]string{}
	for name, output := range a.Outputs {
		outputs[name] = expand(output.Value)
	}
	return outputs, text, 0
}

// TestAction runs the steps of docs/ci/ota-bundle/action.yml as a runner does.
func TestAction(t *testing.T) {
	defer try.Fatal(t)
	var a action
	try.Check(yaml.Unmarshal(try.Get(os.ReadFile(filepath.Join(root(t), "docs/ci/ota-bundle/action.yml"))), &a))
	if a.Runs.Using != "composite" || len(a.Runs.Steps) == 0 {
		t.Fatalf("it is not composite: %+v", a)
	}
	bin, dir := programs(t), t.TempDir()
	path := bin + ":" + os.Getenv("PATH")
	setup := exec.Command("bash", "-ec", `mkdir tree && echo hello >tree/app && echo '{"bomFormat": "CycloneDX"}' >app.json && ota-bundle keygen --no-password k && ota-bundle keygen --no-password other`)
	setup.Dir, setup.Env = dir, append(os.Environ(), "PATH="+path)
	try.Run(setup)
	key := string(try.Get(os.ReadFile(filepath.Join(dir, "k.key"))))
	with := func(more ...string) map[string]string {
		inputs := map[string]string{"dir": "tree", "version": "1.2.0", "release": "7", "models": "x1\nx2\n", "public-key": "k.pub", "key": key}
		for i := 0; i < len(more); i += 2 {
			inputs[more[i]] = more[i+1]
		}
		return inputs
	}
	for _, row := range []struct {
		name   string
		inputs map[string]string
		code   int
		want   string // of what is printed
	}{
		{"with a key", with("out", "key.ota", "sbom", "app.json"), 0, "key.ota: good: version 1.2.0 for x1, x2, 2 files"},
		{"with a command", with("key", "", "sign-with", "cat >m.json && ota-bundle sign --force --key k.key m.json >&2 && cat m.json.minisig"), 0, "1.2.0.ota: good"},
		{"an input that would be a command", with("version", "1.0.0; touch hacked", "out", "hacked.ota"), 2, "is not a letter or digit"},
		{"a key that devices do not trust", with("out", "x.ota", "public-key", "other.pub"), 4, "not trusted"},
		{"no key", with("out", "y.ota", "key", ""), 1, "is not a minisign private key"},
		{"what is no SBOM", with("out", "z.ota", "sbom", "tree/app"), 4, "it is not a JSON object"},
	} {
		outputs, text, code := a.run(t, dir, path, row.inputs)
		if code != row.code || !strings.Contains(text, row.want) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s", row.name, code, row.code, row.want, text)
		}
		if code == 0 && (!regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(outputs["digest"]) || !strings.HasSuffix(outputs["bundle"], ".ota")) {
			t.Errorf("%s: the outputs are %q", row.name, outputs)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "hacked")); err == nil {
		t.Error("an input was run as a command")
	}
}
