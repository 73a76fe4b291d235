package invariants

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/tope-ota/ota/integration/try"
)

type manifest struct {
	Version string
	Size    int64
	Entries []entry
}

type entry struct {
	Path, Type, Mode, SHA256, Target string
	Size                             int64
}

// version looks at one version: a directory with its final name is complete.
func (l *looker) version(directory string, r *record) {
	version, dir := versionOf(directory), filepath.Join(l.root, directory)
	counts := directory == Directory(l.root, version)
	about := version // in problems
	if !counts {
		about = directory // rebuilt, and no link leads to it yet
	}
	if _, err := os.Lstat(filepath.Join(dir, ".ota")); l.adopted && errors.Is(err, fs.ErrNotExist) {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
			l.broken(version, "it has no manifest, and nothing else (%v)", err)
		}
		l.digest(version, noManifest, r)
		l.found.Versions[version] = noManifest
		return
	}
	raw, err := os.ReadFile(filepath.Join(dir, ".ota/manifest.json"))
	if err != nil {
		l.broken(about, "%v", err)
		return
	}
	sum := sha256.Sum256(raw)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if counts {
		l.digest(version, digest, r)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		l.broken(about, "manifest: %v", err)
		return
	}
	if m.Version != version {
		l.broken(about, "its manifest is that of %q", m.Version)
	}
	isFactory := counts && r != nil && r.Factory != nil && r.Factory.Version == version
	if _, err := os.Lstat(filepath.Join(dir, ".ota/manifest.json.minisig")); l.adopted && errors.Is(err, fs.ErrNotExist) {
		isFactory = false // as the other updater left it; its manifest was written here
	}
	there := l.tree(about, dir, isFactory)
	for _, e := range m.Entries {
		got, ok := there[e.Path]
		delete(there, e.Path)
		mode, _ := strconv.ParseUint(e.Mode, 8, 32)
		want := file{kind: e.Type, mode: fs.FileMode(mode)}
		switch e.Type {
		case "file":
			want.size, want.content = e.Size, e.SHA256
		case "link":
			want.mode, want.content = 0, e.Target
		}
		// Factory is read-only (tree tells); so is what was factory once, and, in parts,
		// what was being made factory when the power went.
		if isFactory || got.mode == want.mode&^0o222 {
			want.mode &^= 0o222
			got.mode &^= 0o222
		}
		if !ok || got != want {
			l.broken(about, "%q is %v, want %v", e.Path, got, want)
		}
	}
	for name := range there {
		l.broken(about, "%q is not in its manifest", name)
	}
	if counts {
		l.found.Versions[version] = digest
	}
}

// noManifest is what a record says in the place of the digest of a manifest that a
// version does not have.
const noManifest = "none"

// digest compares what version is with what the record says.
func (l *looker) digest(version, digest string, r *record) {
	if r == nil {
		return
	}
	for _, name := range links {
		if to := r.link(name); to != nil && to.Version == version && to.Digest != digest {
			l.torn("version %s has the manifest %.14s, the record says %.14s (%s)", version, digest, to.Digest, name)
		}
	}
}

// A file is what must be right of one: its mode's permissions, and the SHA-256 of
// its content or the target of the link.
type file struct {
	kind    string
	mode    fs.FileMode
	size    int64
	content string
}

// tree reads everything below dir but its .ota. Nothing of the factory may be
// writable.
func (l *looker) tree(version, dir string, isFactory bool) map[string]file {
	all := make(map[string]file)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		info := try.Get(d.Info())
		if isFactory && d.Type() != fs.ModeSymlink && info.Mode().Perm()&0o222 != 0 {
			l.broken(version, "it is the factory, and %s is %v", name, info.Mode())
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil || rel == "." {
			return err
		}
		if rel == ".ota" || path.Dir(rel) == ".ota" {
			return nil
		}
		f := file{kind: "other"}
		switch info.Mode().Type() {
		case fs.ModeDir:
			f = file{kind: "dir", mode: info.Mode().Perm()}
		case 0:
			data := try.Get(os.Open(name))
			defer data.Close()
			h := sha256.New()
			n := try.Get(io.Copy(h, data))
			f = file{kind: "file", mode: info.Mode().Perm(), size: n, content: hex.EncodeToString(h.Sum(nil))}
		case fs.ModeSymlink:
			target := try.Get(os.Readlink(name))
			f = file{kind: "link", content: target}
		}
		all[rel] = f
		return nil
	})
	if err != nil {
		l.broken(version, "%v", err)
	}
	return all
}

// refs looks at the versions that the record names.
func (l *looker) refs(r *record) {
	for name, to := range map[string]*ref{"current": r.Current, "previous": r.Previous, "factory": r.Factory, "next": r.Next} {
		if to == nil {
			continue
		}
		if _, ok := l.found.Versions[to.Version]; !ok {
			l.torn("%s is version %s, which is not there whole", name, to.Version)
		}
	}
}

// Fingerprint is a text that changes with every byte, name, mode and time of
// change of what is below dir, but for the manifest, which an adoption writes. It is how "not touched" is told; files that have
// several names may get and lose other ones.
func Fingerprint(dir string) (string, error) {
	return Hash(dir, func(rel string, info fs.FileInfo, st *syscall.Stat_t) (string, error) {
		switch rel {
		case ".ota":
			return "", fs.SkipDir
		case ".":
			return fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid), nil
		}
		return fmt.Sprintf("%v %d:%d %d", info.Mode(), st.Uid, st.Gid, st.Mtim.Nano()), nil
	})
}

// Hash is a text that changes with every name below dir, with what of says of it, and with
// what it holds or leads to. of leaves out what it calls "", and a directory by fs.SkipDir.
func Hash(dir string, of func(rel string, info fs.FileInfo, st *syscall.Stat_t) (string, error)) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		info := try.Get(d.Info())
		rel := try.Get(filepath.Rel(dir, name))
		text := try.Get(of(rel, info, info.Sys().(*syscall.Stat_t)))
		if text == "" {
			return nil
		}
		fmt.Fprintf(h, "%q %s\n", rel, text)
		switch info.Mode().Type() {
		case 0:
			data := try.Get(os.ReadFile(name))
			fmt.Fprintln(h, len(data))
			h.Write(data)
		case fs.ModeSymlink:
			fmt.Fprintln(h, try.Get(os.Readlink(name)))
		}
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// Stray lists what is in dir beside the names that are allowed.
func Stray(dir string, allowed ...string) (stray []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) {
			stray = append(stray, e.Name())
		}
	}
	return stray, err
}
