package bootcheck

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"
	"unsafe"
)

// A jsonScan looks at a manifest before encoding/json does, which makes ten bytes
// and more of two: it counts what would be made, and looks at the keys, of which
// encoding/json takes the last of duplicates and ignores the case. Other readers do
// neither.
type jsonScan struct {
	listed map[string]int // how much each list of the manifest has
	badKey error          // a key that is refused; nil: none is
}

// mostListed is how much each list of a manifest may have. Nothing is made of other lists.
var mostListed = map[string]int{
	"entries": MaxEntries, "frames": MaxFrames, "models": maxModels, "services": maxServices, "revoked_keys": maxRevoked,
}

// errTooLarge is more than a manifest can need, and more than a device has memory for.
var errTooLarge = errors.New("not a manifest: it has more in it than any manifest needs")

// run returns an error for what must not be parsed. Whether raw is JSON at all is not
// known then: encoding/json sees to that before it makes anything.
func (s *jsonScan) run(raw []byte) error {
	var stack [maxNesting]struct {
		object bool
		keys   [][]byte
		list   string // its key in mostListed; empty: it is none of these
	}
	s.listed = make(map[string]int)
	depth, expectKey := -1, false
	text := len(raw) // bytes, with the strings that are made
	number := 0      // bytes since the last that cannot be in a number
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case ' ', '\t', '\r', '\n', ':':
			number = 0
		case '{', '[':
			number = 0
			if depth++; depth == len(stack) {
				return errTooLarge
			}
			l := &stack[depth]
			l.object, l.keys, l.list = raw[i] == '{', l.keys[:0], ""
			if expectKey = l.object; depth == 1 && !l.object && len(stack[0].keys) > 0 {
				if key := string(stack[0].keys[len(stack[0].keys)-1]); mostListed[key] > 0 {
					l.list, s.listed[key] = key, 1 // commas are between them
				}
			}
		case '}', ']':
			number = 0
			if depth--; depth < -1 {
				return nil
			}
			expectKey = false
		case ',':
			number = 0
			if depth < 0 {
				return nil
			}
			l := &stack[depth]
			expectKey = l.object
			if most := mostListed[l.list]; most > 0 {
				if s.listed[l.list]++; s.listed[l.list] > most {
					return fmt.Errorf("it lists more than %d %s", most, l.list)
				}
			}
		case '"':
			start := i + 1
			for i++; i < len(raw) && raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			if i >= len(raw) {
				return nil
			}
			if i-start > maxString {
				return errTooLarge
			}
			if expectKey && depth >= 0 {
				s.key(raw[start:i], &stack[depth].keys)
			} else {
				text += i - start
			}
			expectKey = false
		default:
			if number++; number > maxNumber {
				return errTooLarge
			}
		}
	}
	if text+s.listed["entries"]*int(unsafe.Sizeof(Entry{}))+s.listed["frames"]*int(unsafe.Sizeof(Frame{})) > maxParsed {
		return errTooLarge
	}
	return nil
}

// CheckKeys refuses raw, JSON, of which two readers could read two different things: it is UTF-8,
// and keys are lower-case letters, digits and _, once in an object. Whether it is JSON is not known then.
func CheckKeys(raw []byte) error {
	var s jsonScan
	if !utf8.Valid(raw) {
		return errors.New("it is not UTF-8")
	}
	if s.run(raw) != nil {
		return errors.New("it has more in it than is ever needed")
	}
	return s.badKey
}

// key looks at a key after those that its object had.
func (s *jsonScan) key(key []byte, before *[][]byte) {
	switch {
	case s.badKey != nil:
		return
	case !plainKey(key):
		s.badKey = fmt.Errorf("key %.80q is not lower-case letters, digits and _", key)
	case len(*before) == 64:
		s.badKey = errors.New("an object has more than 64 keys")
	}
	for _, k := range *before {
		if bytes.Equal(k, key) {
			s.badKey = fmt.Errorf("key %.80q stands twice in one object", key)
		}
	}
	*before = append(*before, key)
}

func plainKey(key []byte) bool {
	for _, c := range key {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return len(key) > 0
}
