package bundle

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
)

var update = flag.Bool("update", false, "write testdata/golden-v1.ota again; only for a new format: devices in the field must read the old one")

// goldenTree is what testdata/golden-v1.ota holds.
var goldenTree = map[string]string{
	"bin/device-api":                     "#!/bin/sh\nexec sleep infinity\n",
	"bin/tool":                           "-> device-api",
	"etc/device.conf":                    "name = golden\n",
	"etc/" + strings.Repeat("very-", 25): "a name that needs a pax header\n",
	"share/naïve":                        "-> ../etc/device.conf",
	"share/doc/":                         "",
}

// Devices in the field read what earlier ota-bundles wrote, and an earlier
// ota-bundle wrote this file.
func TestGolden(t *testing.T) {
	const golden = "testdata/golden-v1.ota"
	src := treeOf(t, goldenTree)
	chmod(t, src+"/bin/device-api", 0o755)
	c := contents(src)
	c.Level = LevelBest
	if *update {
		if _, err := Create(t.Context(), golden, c); err != nil {
			t.Fatal(err)
		}
	}
	dir, m := unpack(t, golden)
	if diff := cmp.Diff(describe(t, src), describe(t, dir)); diff != "" {
		t.Errorf("%s does not hold what it did (-want +got):\n%s", golden, diff)
	}
	// What is written today differs at most in how it is compressed.
	_, _, today := openBundle(t, mustCreate(t, c))
	m.Frames, today.Frames = nil, nil
	if diff := cmp.Diff(m, today); diff != "" {
		t.Errorf("the same tree gives another manifest than when %s was made:\n%s", golden, diff)
	}
}

// needTool skips a test whose tool is missing, unless in CI, where it must be there.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: apt-get install %s", name, name)
			}
			t.Skipf("%s is missing: apt-get install %s", name, name)
		}
	}
}

func runTool(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// The tools of every Debian read a bundle, and see the same in it.
func TestOtherTools(t *testing.T) {
	needTool(t, "zstd", "tar", "minisign")
	src := sampleTree(t)
	bundles := map[string]string{}
	for name, tree := range map[string]string{"sample": src, "small": treeOf(t, map[string]string{"a": "b"})} {
		bundles[name] = mustCreate(t, contents(tree))
	}
	pub, err := filepath.Abs("testdata/test.pub")
	if err != nil {
		t.Fatal(err)
	}
	for name, bundle := range bundles {
		t.Run(name, func(t *testing.T) {
			_, _, m := openBundle(t, bundle)
			runTool(t, ".", "zstd", "-q", "-t", bundle)
			want := []string{bootcheck.ManifestPath, bootcheck.SignaturePath}
			for i := range m.Entries {
				want = append(want, entryMember(&m.Entries[i]).name)
			}
			got := strings.Split(strings.TrimSuffix(runTool(t, ".", "tar", "--quoting-style=literal", "--zstd", "-tf", bundle), "\n"), "\n")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("tar lists (-want +got):\n%s", diff)
			}
			dir := t.TempDir()
			runTool(t, dir, "tar", "--zstd", "-xpf", bundle)
			t.Cleanup(func() { _ = os.Chmod(dir+"/bin", 0o755) })
			if err := bootcheck.CheckTree(t.Context(), dir, m, bootcheck.Full); err != nil {
				t.Errorf("what tar unpacked: %v", err)
			}
			out := runTool(t, dir, "minisign", "-Vm", bootcheck.ManifestPath, "-p", pub)
			if !strings.Contains(out, "Signature and comment signature verified") {
				t.Errorf("minisign says %s", out)
			}
		})
	}
}
