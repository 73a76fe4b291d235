package bundle

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

const (
	blockSize = 512           // of tar
	endSize   = 2 * blockSize // zeros that end a tar archive
	nameSize  = 100           // of a ustar header's name and linkname
)

// Fields of a ustar header that are compared one by one: offset and end.
var (
	fieldName  = [2]int{0, 100}
	fieldMode  = [2]int{100, 108}
	fieldSize  = [2]int{124, 136}
	fieldSum   = [2]int{148, 156}
	fieldLink  = [2]int{157, 257}
	fieldMagic = [2]int{257, 265}
)

// Typeflags of the members that a bundle has.
const (
	typeFile = '0'
	typeDir  = '5'
	typeLink = '2'
)

const (
	typeOffset = 156
	ustarMagic = "ustar\x0000"
)

// A member is what a tar header says.
type member struct {
	name string // a directory's ends in a slash
	mode bootcheck.Mode
	size int64
	kind byte // typeflag
	link string
}

func entryMember(e *bootcheck.Entry) member {
	switch e.Type {
	case bootcheck.TypeDir:
		return member{name: e.Path + "/", mode: e.Mode, kind: typeDir}
	case bootcheck.TypeLink:
		return member{name: e.Path, mode: 0o777, kind: typeLink, link: e.Target}
	}
	return member{name: e.Path, mode: e.Mode, size: e.Size, kind: typeFile}
}

// headerLen is the length of the header that appendHeader makes.
func (m member) headerLen() int64 {
	if pax := m.paxRecords(); pax != "" {
		return 2*blockSize + roundUp(int64(len(pax)))
	}
	return blockSize
}

// memberLen is the length of header, content and padding.
func (m member) memberLen() int64 { return m.headerLen() + roundUp(m.size) }

func roundUp(n int64) int64 { return (n + blockSize - 1) / blockSize * blockSize }

// appendHeader appends the one header that the format allows for m.
func (m member) appendHeader(b []byte) []byte {
	if pax := m.paxRecords(); pax != "" {
		b = appendUstar(b, member{name: "././@PaxHeader", mode: 0o644, size: int64(len(pax)), kind: 'x'})
		b = append(b, pax...)
		b = append(b, make([]byte, roundUp(int64(len(pax)))-int64(len(pax)))...)
	}
	return appendUstar(b, m)
}

func appendUstar(b []byte, m member) []byte {
	start := len(b)
	b = append(b, make([]byte, blockSize)...)
	h := b[start:]
	copy(h[fieldName[0]:fieldName[1]], short(m.name))
	copy(h[fieldMode[0]:], fmt.Sprintf("%07o", uint16(m.mode)))
	copy(h[108:], "0000000\x000000000") // uid and gid
	copy(h[fieldSize[0]:], fmt.Sprintf("%011o", m.size))
	copy(h[136:], "00000000000") // mtime
	h[typeOffset] = m.kind
	copy(h[fieldLink[0]:fieldLink[1]], short(m.link))
	copy(h[fieldMagic[0]:], ustarMagic)
	copy(h[329:], "0000000\x000000000") // device numbers
	copy(h[fieldSum[0]:], fmt.Sprintf("%06o\x00 ", checksum(h)))
	return b
}

// checksum is the sum of the header's bytes, its own field as spaces.
func checksum(h []byte) int {
	sum := 0
	for i, c := range h[:blockSize] {
		if fieldSum[0] <= i && i < fieldSum[1] {
			c = ' '
		}
		sum += int(c)
	}
	return sum
}

// fits reports whether a ustar header can hold s as it is.
func fits(s string) bool {
	return len(s) <= nameSize && !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// short is what stands in the ustar header for s.
func short(s string) string {
	b := []byte(s[:min(len(s), nameSize)])
	for i := range b {
		if b[i] >= 0x80 {
			b[i] = '_'
		}
	}
	return string(b)
}

// paxRecords is the content of m's pax header, empty if it needs none.
func (m member) paxRecords() string {
	text := ""
	if !fits(m.name) {
		text += paxRecord("path", m.name)
	}
	if !fits(m.link) {
		text += paxRecord("linkpath", m.link)
	}
	return text
}

// paxRecord makes "LENGTH KEY=VALUE\n", where LENGTH counts itself.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + len(" =\n")
	size := n + len(strconv.Itoa(n))
	// One digit more may make the number itself one longer.
	size = n + len(strconv.Itoa(size))
	return strconv.Itoa(size) + " " + key + "=" + value + "\n"
}

// checkHeader compares the beginning of tar, a member of the payload, with the
// header that want must have. entries are all that the manifest lists.
func checkHeader(tar []byte, want member, entries []bootcheck.Entry) error {
	header := want.appendHeader(make([]byte, 0, 3*blockSize))
	if bytes.HasPrefix(tar, header) {
		return nil
	}
	return fmt.Errorf("member %q: %w", want.name, explain(tar, want, entries))
}

// explain says how tar is not the header of want. It is not what decides: it is
// called when the bytes differ, and always returns an error.
func explain(tar []byte, want member, entries []bootcheck.Entry) error {
	if len(tar) < blockSize {
		return errors.New("its header is cut off")
	}
	h := tar[:blockSize]
	if zero(h) {
		return errors.New("the archive ends before it")
	}
	if string(h[fieldSum[0]:fieldSum[1]]) != fmt.Sprintf("%06o\x00 ", checksum(h)) {
		return errors.New("its tar header is damaged")
	}
	switch kind := h[typeOffset]; kind {
	case 'x':
		if want.paxRecords() == "" {
			return errors.New("a pax header that it does not need")
		}
		return errors.New("its pax header is not what the format says")
	case typeFile, typeLink, typeDir:
		if got := cString(h, fieldName); got != short(want.name) {
			path := strings.TrimSuffix(got, "/")
			if !slices.ContainsFunc(entries, func(e bootcheck.Entry) bool { return e.Path == path }) {
				return fmt.Errorf("in its place is %q, which the manifest does not list", got)
			}
			return fmt.Errorf("in its place is %q", got)
		}
		if kind != want.kind {
			return fmt.Errorf("it is a %s, the manifest says %s", kindName(kind), kindName(want.kind))
		}
	default:
		return fmt.Errorf("in its place is a %s, and bundles hold only files, directories and symbolic links", kindName(kind))
	}
	if got := cString(h, fieldMode); got != fmt.Sprintf("%07o", uint16(want.mode)) {
		return fmt.Errorf("mode %q, the manifest says %v", got, want.mode)
	}
	if got := cString(h, fieldSize); got != fmt.Sprintf("%011o", want.size) {
		n, err := strconv.ParseInt(got, 8, 64)
		if err != nil {
			return fmt.Errorf("size %q is not octal", got)
		}
		return fmt.Errorf("size %d, the manifest says %d", n, want.size)
	}
	if got := cString(h, fieldLink); got != short(want.link) {
		return fmt.Errorf("it is a link to %q, the manifest says %q", got, want.link)
	}
	return errors.New("its tar header is not what the format says")
}

func cString(h []byte, field [2]int) string {
	s, _, _ := strings.Cut(string(h[field[0]:field[1]]), "\x00")
	return s
}

// kindNames are those of typeflags, for messages.
var kindNames = map[byte]string{
	typeFile: "file",
	typeDir:  "directory",
	typeLink: "symbolic link",
	'1':      "hard link",
	'3':      "character device",
	'4':      "block device",
	'6':      "FIFO",
	'g':      "global pax header",
	'S':      "sparse file",
	'L':      "GNU long name",
	'K':      "GNU long name",
}

func kindName(kind byte) string {
	return cmp.Or(kindNames[kind], fmt.Sprintf("member of type %q", kind))
}

// cutMember takes the member named name off the front of tar, the decoded head.
// Its size is the only thing that its header may choose.
func cutMember(tar []byte, name string, max int64) (content, rest []byte, err error) {
	if len(tar) < blockSize {
		return nil, nil, errors.New("its header is cut off")
	}
	digits := cString(tar, fieldSize)
	size, err := strconv.ParseInt(digits, 8, 64)
	if err != nil || size < 0 {
		return nil, nil, fmt.Errorf("size %q is not octal", digits)
	}
	want := member{name: name, mode: 0o644, size: size, kind: typeFile}
	err = checkHeader(tar, want, nil)
	switch end := want.memberLen(); {
	case err != nil:
		return nil, nil, err
	case size > max:
		return nil, nil, fmt.Errorf("size %d, at most %d are allowed", size, max)
	case int64(len(tar)) < end:
		return nil, nil, errors.New("its content is cut off")
	case !zero(tar[blockSize+size : end]):
		return nil, nil, errors.New("its padding is not zero")
	default:
		return tar[blockSize : blockSize+size : blockSize+size], tar[end:], nil
	}
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
