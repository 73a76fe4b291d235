package debtest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// TestRelease makes a release of a clean clone, for one processor: what SHA256SUMS and
// provenance.json say is so, of each file, and SHA256SUMS is signed.
func TestRelease(t *testing.T) {
	defer try.Fatal(t)
	dir := t.TempDir()
	script := fmt.Sprintf(`git -c safe.directory='*' clone -q %s ota && cd ota && make -s build-amd64 BIN=../bin
../bin/amd64/ota-bundle keygen --no-password ../k
make -s release BIN=.. ARCHES=amd64 FORMATS=deb KEY=../k.key
cd ../release && sha256sum -c SHA256SUMS && minisign -Vm SHA256SUMS -p ../k.pub
! make -s -C ../ota release BIN=.. ARCHES=amd64 FORMATS=deb # it is made once
cp ../k.pub ../ota/new && git -C ../ota add new && ! make -s -C ../ota release BIN=../again # that is no commit
`, try.Get(debian.RepoDir()))
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	out := try.Run(cmd)
	for _, want := range []string{"built twice with the same bytes, signed with ../k.key", "exists: a release is made once", "there are changes that are not committed"} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing says %q:\n%s", want, out)
		}
	}
	commit := strings.TrimSpace(try.Output(exec.Command("git", "-c", "safe.directory=*", "-C", dir+"/ota", "rev-parse", "HEAD")))
	var statement struct {
		Subject []struct {
			Name   string
			Digest struct{ SHA256 string }
		}
		Predicate struct {
			BuildDefinition struct {
				ResolvedDependencies []struct {
					Digest struct{ GitCommit string }
				}
			}
		}
	}
	try.Check(json.Unmarshal(try.Get(os.ReadFile(dir+"/release/provenance.json")), &statement))
	if got := statement.Predicate.BuildDefinition.ResolvedDependencies[0].Digest.GitCommit; got != commit {
		t.Errorf("made from %s, want %s", got, commit)
	}
	for _, s := range statement.Subject {
		sum := sha256.Sum256(try.Get(os.ReadFile(filepath.Join(dir, "release", s.Name))))
		if got := fmt.Sprintf("%x", sum); got != s.Digest.SHA256 {
			t.Errorf("%s: sha256 %s, the provenance says %s", s.Name, got, s.Digest.SHA256)
		}
	}
	files := try.Get(os.ReadDir(dir + "/release"))
	if got, want := len(statement.Subject), len(files)-len([]string{"provenance.json", "SHA256SUMS", "SHA256SUMS.minisig"}); got != want || want == 0 {
		t.Errorf("the provenance is of %d files, want %d", got, want)
	}
}
