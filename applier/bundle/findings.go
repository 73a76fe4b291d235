package bundle

import (
	"encoding/pem"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck/cli"
)

// A kind of finding is what some entries of a tree have in common that a device would not
// take, that nobody means to publish, or that a bundle does not hold.
type kind struct {
	title string
	hint  string
	warns bool // it is packed all the same
}

// The kinds, in the order in which they are told. --allow is for those that name it.
var (
	badName    = &kind{"names that a bundle cannot hold", "rename them, or leave them out with --exclude", false}
	notPacked  = &kind{"sockets, FIFOs and devices", "leave them out with --exclude, or a line of .otaignore", false}
	badLink    = &kind{"links that are absolute, leave the tree or lead nowhere", "name their targets, which the device must have: --allow-link '/usr/bin/python3*'; for a venv also: python3 -m venv --copies", false}
	privateKey = &kind{"private keys", "move them away, or leave them out with --exclude; to publish one: --allow PATTERN", false}
	writable   = &kind{"entries that everybody can write", "chmod o-w; as they are: --allow PATTERN", false}
	special    = &kind{"setuid, setgid or sticky, which bundles do not hold", "chmod u-s,g-s,-t; without these bits: --allow PATTERN", false}
	capability = &kind{"capabilities and ACLs, which bundles do not hold", "give the unit AmbientCapabilities=; without them: --allow PATTERN", false}
	unreadable = &kind{"modes with which the owner could not read the entry", "chmod u+rX", false}
	exists     = &kind{"the output exists", "replace it: --overwrite", false}
	lost       = &kind{"setuid, setgid, sticky, capabilities or ACLs are lost", "the unit of the service can give what is needed: User=, AmbientCapabilities=", true}
	attributes = &kind{"extended attributes are lost: bundles hold none", "", true}
	owners     = &kind{"owners are lost: root alone could use these on the device", "chmod o+rX, or keep them in StateDirectory= of the service", true}
	copies     = &kind{"hard links are packed as copies", "one file and symbolic links to it are smaller", true}
	sparse     = &kind{"sparse files are packed whole", "a service can make them at its first start", true}
	private    = &kind{"a repository or its secrets are packed", "leave them out: --exclude .git --exclude .env", true}
)

var kinds = []*kind{badName, notPacked, badLink, privateKey, writable, special, capability, unreadable, exists,
	lost, attributes, owners, copies, sparse, private}

// maxShown is how many entries of a kind are named.
const maxShown = 20

// findings are what was found, by kind: the entries, and what there is to say of each.
type findings map[*kind][]string

func (f findings) add(k *kind, entry string) { f[k] = append(f[k], entry) }

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
			say("  " + entry)
		}
		if more := len(list) - maxShown; more > 0 {
			say(fmt.Sprintf("  and %d more", more))
		}
		if k.hint != "" {
			say("  hint: " + k.hint)
		}
	}
	if refusals > 0 {
		return refused("cannot pack %s: %s, named above", dir, cli.Plural(refusals, "problem", "problems"))
	}
	return nil
}

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
