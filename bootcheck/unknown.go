package bootcheck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// A newer program may write keys that this one does not know, into the record or any
// object in it, and may come back. They are written back as they were, as long as the
// object is there: those of a trial while its version is on trial, those of a block or
// of a rollback with it, those of a version wherever it is named.

// unknownKeys are the keys that this program does not know, with their values.
type unknownKeys = map[string]json.RawMessage

// walk calls visit for each object in text, which is a value of type t, with its
// unknown keys. The result is text with those that visit returns. at is the place of
// text in the record; of says what it is about and stays with it when it moves.
func walk(t reflect.Type, text json.RawMessage, at, of string, visit func(at, of string, unknown unknownKeys) unknownKeys) json.RawMessage {
	switch t.Kind() {
	case reflect.Pointer:
		return walk(t.Elem(), text, at, of, visit)
	case reflect.Slice:
		var all []json.RawMessage
		if json.Unmarshal(text, &all) != nil || all == nil {
			return text
		}
		for i := range all {
			all[i] = walk(t.Elem(), all[i], at, of, visit)
		}
		text, _ = json.Marshal(all)
	case reflect.Struct:
		var object unknownKeys
		if json.Unmarshal(text, &object) != nil || object == nil {
			return text
		}
		of = identity(t, object, of)
		text = json.RawMessage{'{'}
		eachField(t, func(field string, t reflect.Type) {
			if value, ok := object[field]; ok {
				text = fmt.Appendf(text, "%q:%s,", field, walk(t, value, at+"."+field, of, visit))
			}
			// encoding/json takes "Phase" for "phase": kept as an unknown key, it would be
			// written back beside the real one and win over it at the next reading.
			for key := range object {
				if strings.EqualFold(key, field) {
					delete(object, key)
				}
			}
		})
		if unknown := visit(at, of, object); len(unknown) > 0 {
			rest, _ := json.Marshal(unknown) // sorted
			return append(text, rest[1:]...)
		}
		text = append(bytes.TrimSuffix(text, []byte(",")), '}')
	}
	return text
}

// identity is what an object of type t is about: what never changes of it. An object of
// which all may change, as a trial, is about what the one around it is about.
func identity(t reflect.Type, object unknownKeys, around string) string {
	var current Ref // of the record
	_ = json.Unmarshal(object["current"], &current)
	of := current.Version + current.Digest
	for _, key := range []string{"version", "digest", "from", "to", "cause", "attempts"} {
		of += string(object[key])
	}
	if of == "" {
		of = around
	}
	return t.Name() + " " + of
}

// eachField calls do with the keys that encoding/json writes for the struct t.
func eachField(t reflect.Type, do func(key string, t reflect.Type)) {
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			eachField(f.Type, do)
		case key != "":
			do(key, f.Type)
		}
	}
}

// keepUnknown remembers what text, of which r was read, has beyond what r knows.
func (r *Record) keepUnknown(text []byte) {
	below := make(map[string]unknownKeys)
	some := false
	walk(reflect.TypeFor[Record](), text, "", "", func(at, of string, unknown unknownKeys) unknownKeys {
		if at == "" {
			delete(unknown, "seal") // of the text that was read
			if len(unknown) > 0 {
				r.unknown = unknown
			}
			return nil
		}
		below[at+" "+of] = unknown
		if len(unknown) > 0 {
			some = true
			below[of] = unknown
		}
		return nil
	})
	if some {
		r.below = below
	}
}

// withUnknown is text, of what r knows, with what keepUnknown remembers.
func (r *Record) withUnknown(text []byte) []byte {
	if len(r.unknown) == 0 && len(r.below) == 0 {
		return text
	}
	return walk(reflect.TypeFor[Record](), text, "", "", func(at, of string, _ unknownKeys) unknownKeys {
		if at == "" {
			return r.unknown
		}
		if unknown, ok := r.below[at+" "+of]; ok {
			return unknown
		}
		return r.below[of] // it was elsewhere in the record
	})
}
