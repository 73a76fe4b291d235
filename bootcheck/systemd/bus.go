package systemd

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// The names of systemd on D-Bus, org.freedesktop.systemd1(5).
const (
	service    = "org.freedesktop.systemd1"
	objectPath = "/org/freedesktop/systemd1"
	manager    = service + ".Manager"
	properties = "org.freedesktop.DBus.Properties"
)

// A bus is one connection to a D-Bus peer, for one goroutine. It speaks as much of the
// D-Bus specification (version 0.43) as this package needs: calls whose arguments are
// strings, answers of any type, and the signal JobRemoved. A library that speaks all of it
// is 330 kB of a program that each boot reads from flash.
type bus struct {
	file   *os.File
	r      *bufio.Reader
	serial uint32            // of the last call
	ended  map[string]string // results of jobs, by the path of the job
}

// callError is the error that a peer answers with.
type callError struct {
	name string // "org.freedesktop.systemd1.NoSuchUnit"
	text string
}

func (e *callError) Error() string {
	if e.text == "" {
		return e.name
	}
	return e.text
}

var errMessage = errors.New("it does not speak D-Bus as this program does")

// openBus connects to the socket at path. Nothing was sent yet.
func openBus(path string) (*bus, error) {
	file, err := bootcheck.DialUnix(path)
	if err != nil {
		return nil, err
	}
	return &bus{file: file, r: bufio.NewReader(file), ended: map[string]string{}}, nil
}

// greet names the caller, which the kernel confirms. It is one write, with BEGIN in it, as
// libsystemd does it: a PID 1 that reads BEGIN together with what follows waits for more.
func (b *bus) greet() error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if _, err := io.WriteString(b.file, "\x00AUTH EXTERNAL "+uid+"\r\nBEGIN\r\n"); err != nil {
		return err
	}
	line, err := b.r.ReadSlice('\n')
	if err == nil && !strings.HasPrefix(string(line), "OK ") {
		err = fmt.Errorf("it refuses user %d: %q", os.Geteuid(), line)
	}
	return err
}

// join makes b a connection to systemd by way of the system's bus, where a client needs a
// name, and gets the signals that it asks for.
func (b *bus) join() error {
	const daemon, path = "org.freedesktop.DBus", "/org/freedesktop/DBus"
	if _, err := b.callTo(daemon, path, daemon, "Hello"); err != nil {
		return err
	}
	_, err := b.callTo(daemon, path, daemon, "AddMatch", "type='signal',interface='"+manager+"',member='JobRemoved'")
	return err
}

// call asks systemd and returns the values of its answer. Its error is a *callError.
func (b *bus) call(path, iface, method string, args ...string) ([]any, error) {
	return b.callTo(service, path, iface, method, args...)
}

// Types of messages, and codes of the fields in their headers.
const (
	methodCall, methodReturn, methodError, signal = 1, 2, 3, 4

	fieldPath, fieldInterface, fieldMember, fieldErrorName = 1, 2, 3, 4
	fieldReplySerial, fieldDestination, _, fieldSignature  = 5, 6, 7, 8
)

// A field of a message's header whose value is a string.
type field struct {
	code, kind byte
	value      string
}

// marshal is a message whose body holds values of the types in signature.
func marshal(kind byte, serial uint32, signature string, body []byte, fields []field) []byte {
	var head []byte
	for _, f := range fields {
		head = appendString(append(pad(head, 8), f.code, 1, f.kind, 0), f.value)
	}
	if signature != "" {
		head = append(pad(head, 8), fieldSignature, 1, 'g', 0, byte(len(signature)))
		head = append(append(head, signature...), 0)
	}
	m := []byte{'l', kind, 0, 1} // little-endian, no flags, version 1
	m = binary.LittleEndian.AppendUint32(m, uint32(len(body)))
	m = binary.LittleEndian.AppendUint32(m, serial)
	m = binary.LittleEndian.AppendUint32(m, uint32(len(head)))
	return append(pad(append(m, head...), 8), body...)
}

func (b *bus) callTo(to, path, iface, method string, args ...string) ([]any, error) {
	b.serial++
	var body []byte
	for _, a := range args {
		body = appendString(body, a)
	}
	m := marshal(methodCall, b.serial, strings.Repeat("s", len(args)), body, []field{
		{fieldPath, 'o', path}, {fieldInterface, 's', iface}, {fieldMember, 's', method}, {fieldDestination, 's', to},
	})
	if _, err := b.file.Write(m); err != nil {
		return nil, err
	}
	for {
		m, err := b.read()
		switch {
		case err != nil:
			return nil, err
		case m.replyTo != b.serial:
		case m.kind == methodReturn:
			return m.body, nil
		case m.kind == methodError:
			return nil, &callError{m.errorName, str(m.body, 0)}
		}
	}
}

// result waits for the end of a job that b asked for, and returns how it ended.
func (b *bus) result(job string) (string, error) {
	for b.ended[job] == "" {
		if _, err := b.read(); err != nil {
			return "", err
		}
	}
	return b.ended[job], nil
}

// A message is what b reads of one.
type message struct {
	kind              byte
	serial, replyTo   uint32
	member, errorName string
	body              []any
}

// maxMessage is the most that a message may hold, in bytes: the properties of a unit are 50 KB.
const maxMessage = 4 << 20

// read returns the next message. The end of a job it keeps, too: systemd may tell of that
// before it answers.
func (b *bus) read() (m message, err error) {
	var head [16]byte
	if _, err := io.ReadFull(b.r, head[:]); err != nil {
		return m, err
	}
	size, fieldsSize := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
	if head[0] != 'l' || size > maxMessage || fieldsSize > maxMessage {
		return m, errMessage
	}
	start := (int(fieldsSize) + 7) &^ 7
	rest := make([]byte, start+int(size))
	if _, err := io.ReadFull(b.r, rest); err != nil {
		return m, err
	}
	m.kind, m.serial = head[1], binary.LittleEndian.Uint32(head[8:])
	signature := ""
	d := decoder{b: rest[:fieldsSize]}
	for d.at < len(d.b) && !d.bad {
		d.take(8, 0)
		code := d.take(1, 1)[0]
		switch v := d.variant(); code {
		case fieldMember:
			m.member, _ = v.(string)
		case fieldErrorName:
			m.errorName, _ = v.(string)
		case fieldReplySerial:
			m.replyTo, _ = v.(uint32)
		case fieldSignature:
			signature, _ = v.(string)
		}
	}
	body := decoder{b: rest[start:]}
	for signature != "" && !body.bad {
		var v any
		v, signature = body.value(signature)
		m.body = append(m.body, v)
	}
	if d.bad || body.bad {
		return m, errMessage
	}
	if m.kind == signal && m.member == "JobRemoved" { // (uoss): number, path, unit, result
		b.ended[str(m.body, 1)] = str(m.body, 3)
	}
	return m, nil
}

// str is the string values[i]; "": there is none.
func str(values []any, i int) string {
	if i >= len(values) {
		return ""
	}
	s, _ := values[i].(string)
	return s
}

func pad(b []byte, to int) []byte {
	for len(b)%to != 0 {
		b = append(b, 0)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(pad(b, 4), uint32(len(s)))
	return append(append(b, s...), 0)
}

// A decoder reads values that D-Bus has marshalled. b begins where a message does, or a
// multiple of 8 later.
type decoder struct {
	b     []byte
	at    int
	depth int
	bad   bool // b ends too early, or holds a type that there is not
}

// take returns the next n bytes that begin at a multiple of align. When bad, up to 8
// bytes are zeros.
func (d *decoder) take(align, n int) []byte {
	at := (d.at + align - 1) &^ (align - 1)
	if d.bad || n < 0 || n > len(d.b)-at { // negative: too large for 32 bits
		d.bad = true
		return make([]byte, min(uint(n), 8))
	}
	d.at = at + n
	return d.b[at:d.at]
}

func (d *decoder) uint32() uint32 { return binary.LittleEndian.Uint32(d.take(4, 4)) }

// text takes a string of n bytes and the NUL behind it.
func (d *decoder) text(n int) string {
	s := string(d.take(1, n))
	d.take(1, 1)
	return s
}

func (d *decoder) variant() any {
	v, rest := d.value(d.text(int(d.take(1, 1)[0])))
	d.bad = d.bad || rest != ""
	return v
}

// value takes a value of the first type in signature, and returns the types that follow.
// Integers keep their size, but are unsigned unless they have 32 bits; an array of bytes is
// a []byte, one of strings a []string, any other, a struct, and an entry of a dictionary are []any.
func (d *decoder) value(signature string) (v any, rest string) {
	if d.depth++; d.depth > 64 || signature == "" {
		d.bad = true
		return nil, ""
	}
	defer func() { d.depth-- }()
	kind, rest := signature[0], signature[1:]
	switch kind {
	case 'y':
		return d.take(1, 1)[0], rest
	case 'b':
		return d.uint32() != 0, rest
	case 'n', 'q':
		return binary.LittleEndian.Uint16(d.take(2, 2)), rest
	case 'i':
		return int32(d.uint32()), rest
	case 'u', 'h':
		return d.uint32(), rest
	case 'x', 't', 'd':
		return binary.LittleEndian.Uint64(d.take(8, 8)), rest
	case 's', 'o':
		return d.text(int(d.uint32())), rest
	case 'g':
		return d.text(int(d.take(1, 1)[0])), rest
	case 'v':
		return d.variant(), rest
	case 'a':
		return d.array(rest)
	case '(', '{':
		var list []any
		for d.take(8, 0); rest != "" && rest[0] != ')' && rest[0] != '}' && !d.bad; {
			v, rest = d.value(rest)
			list = append(list, v)
		}
		if rest != "" {
			return list, rest[1:]
		}
	}
	d.bad = true
	return nil, ""
}

// array takes an array of the first type in signature.
func (d *decoder) array(signature string) (v any, rest string) {
	n := int(d.uint32())
	element := firstType(signature)
	if element == "" {
		d.bad = true
		return nil, ""
	}
	rest = signature[len(element):]
	d.take(alignment(element[0]), 0)
	if element == "y" {
		return d.take(1, n), rest
	}
	end := d.at + n
	var list []any
	var texts []string
	for d.at < end && !d.bad {
		v, _ := d.value(element)
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
		list = append(list, v)
	}
	d.bad = d.bad || d.at != end
	if element == "s" {
		return texts, rest
	}
	return list, rest
}

// firstType is the first complete type in signature; empty: there is none.
func firstType(signature string) string {
	depth := 0
	for i := range len(signature) {
		switch signature[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		case 'a':
			continue
		}
		if depth == 0 {
			return signature[:i+1]
		}
	}
	return ""
}

// alignment is the multiple at which a value of a type begins, in bytes.
func alignment(kind byte) int {
	switch kind {
	case 'y', 'g', 'v':
		return 1
	case 'n', 'q':
		return 2
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 4
}
