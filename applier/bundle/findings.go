package bundle

import (
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
)

// A kind of finding is what some entries of a tree have in common that a device would not
// take, that is not meant to be published, or that a bundle does not hold.
type kind struct {
	title string
	hint  string
	warns bool // it is packed all the same
}

// The kinds, in the order in which they are told. In braces is a flag of create, or a
// command, for the entries that were found, in backticks: it is to be pasted.
var (
	badName    = &kind{"names that a bundle cannot hold", "rename them, or leave them out: {--exclude}", false}
	notPacked  = &kind{"sockets, FIFOs and devices", "leave them out: {--exclude}", false}
	badLink    = &kind{"links that are absolute, leave the tree or lead nowhere", "name their targets, which the device must have: {--allow-link}; for a venv also: `python3 -m venv --copies`", false}
	privateKey = &kind{"private keys", "leave them out: {--exclude}; to publish them: {--allow}", false}
	writable   = &kind{"entries that every user can write", "{chmod o-w}; as they are: {--allow}", false}
	special    = &kind{"setuid, setgid or sticky, which bundles do not hold", "{chmod u-s,g-s,-t}; without these bits: {--allow}", false}
	capability = &kind{"capabilities and ACLs, which bundles do not hold", "give the unit AmbientCapabilities=; without them: {--allow}", false}
	unreadable = &kind{"modes with which the owner could not read the entry", "{chmod u+rX}", false}
	twoBills   = &kind{"the tree has the file that --sbom makes", "leave it out: {--exclude}; or pack it, without --sbom", false}
	exists     = &kind{"the output exists", "replace it: `--overwrite`", false}
	lost       = &kind{"setuid, setgid, sticky, capabilities or ACLs are lost", "the unit of the service can give what is needed: User=, AmbientCapabilities=", true}
	attributes = &kind{"extended attributes are lost: bundles hold none", "", true}
	owners     = &kind{"owners are lost: only root can use these on the device", "{chmod o+rX}, or keep them in StateDirectory= of the service", true}
	copies     = &kind{"hard links are packed as copies", "one file and symbolic links to it are smaller", true}
	sparse     = &kind{"sparse files are packed in full", "a service can make them at its first start", true}
	oddBill    = &kind{"the SBOM is neither CycloneDX nor SPDX", "", true}
	private    = &kind{"a repository or its secrets are packed", "leave them out: `--exclude .git --exclude .env`", true}
)

var kinds = []*kind{badName, notPacked, badLink, privateKey, writable, special, capability, unreadable, twoBills, exists,
	lost, attributes, owners, copies, sparse, private, oddBill}

// maxShown is how many entries of a kind are named.
const maxShown = 20

// findings are what was found, by kind.
type findings map[*kind][]finding

// A finding is an entry of the tree.
type finding struct {
	name string // of the entry, or the target of a link: what the hint is about
	text string // what there is to say
}

func (f findings) add(k *kind, name, text string) { f[k] = append(f[k], finding{name, text}) }

// tell tells all of it to say, if not nil, and refuses what is not packed.
func (f findings) tell(dir string, say func(line string)) error {
	refusals := 0
	if say == nil {
		say = func(string) {}
	}
	for _, k := range kinds {
		list, state := f[k], "refused"
		if len(list) == 0 {
			continue
		}
		if k.warns {
			state = "warning"
		} else {
			refusals += len(list)
		}
		say(fmt.Sprintf("%s: %s: %d", state, k.title, len(list)))
		for _, entry := range list[:min(len(list), maxShown)] {
			say("  " + entry.text)
		}
		if more := len(list) - maxShown; more > 0 {
			say(fmt.Sprintf("  and %d more", more))
		}
		if hint := k.advice(dir, list); hint != "" {
			say("  hint: " + bootcheck.Wrap(len("  hint: "), hint))
		}
	}
	if refusals > 0 {
		return refused("cannot pack %s: %s, named above", dir, cli.Plural(refusals, "problem", "problems"))
	}
	return nil
}

// advice is the hint of k about list, of the tree dir: with the names of a few of many.
func (k *kind) advice(dir string, list []finding) string {
	var names []string
	for _, entry := range list {
		names = append(names, entry.name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	more := ""
	if len(names) > 3 {
		names, more = names[:3], " …"
	}
	text, rest, ok := strings.Cut(k.hint, "{")
	for ok {
		var what, plain string
		text += "`"
		what, rest, _ = strings.Cut(rest, "}")
		if strings.HasPrefix(what, "--") {
			for i, name := range names {
				text += " "[:min(i, 1)] + what + " " + quote(pattern(name))
			}
		} else {
			text += what
			for _, name := range names {
				text += " " + quote(filepath.Join(dir, name))
			}
		}
		plain, rest, ok = strings.Cut(rest, "{")
		text += "`" + more + plain
	}
	return text
}

// pattern makes a pattern of a name, to be pasted: ? is for what has a meaning in one, and
// for what a terminal does not show.
func pattern(name string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) || strings.ContainsRune(`*[\`, r) {
			return '?'
		}
		return r
	}, name)
}

// quote is s as a word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(bootcheck.OneLine(s), "'", `'\''`) + "'" }

// maxKey bounds the files in which private keys are looked for, bytes: they are small.
const maxKey = 64 << 10

// isPrivateKey reports whether there is a private key in data: of minisign, or in PEM, as
// OpenSSH and OpenSSL write them.
func isPrivateKey(data []byte) bool {
	var key minisign.PrivateKey
	if minisign.IsEncrypted(data) || key.UnmarshalText(data) == nil {
		return true
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return false
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return true
		}
		data = rest
	}
}
