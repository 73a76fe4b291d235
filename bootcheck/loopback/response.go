package loopback

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// readResponse reads one answer of an HTTP/1.0 or 1.1 server. What the two
// sides could understand differently (two lengths, a length and chunks, a line
// that is no header) is refused.
func readResponse(r io.Reader) (status int, body []byte, err error) {
	var h head
	br := bufio.NewReaderSize(r, 4<<10)
	left := maxHead
	for {
		if h, err = readHead(br, &left); err != nil {
			return 0, nil, err
		}
		// 1xx is an interim answer; HTTP/1.0 clients are not sent one, but a
		// careless server costs nothing: maxHead bounds them together.
		if h.status >= 200 {
			break
		}
	}
	if h.status == 204 || h.status == 304 { // have no body, whatever the headers say
		return h.status, nil, nil
	}
	switch {
	case h.chunked:
		body, err = readChunks(br)
	case h.length >= 0:
		body, err = readLength(br, h.length)
	default:
		body, err = readRest(br)
	}
	return h.status, body, err
}

type head struct {
	status  int
	length  int64 // -1: the end of the connection ends the body
	chunked bool
}

func readHead(br *bufio.Reader, left *int) (head, error) {
	h := head{length: -1}
	line, err := readLine(br, left)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the connection was closed without an answer")
		}
		return h, err
	}
	if h.status, err = parseStatus(line); err != nil {
		return h, err
	}
	for {
		line, err := readLine(br, left)
		if errors.Is(err, io.EOF) {
			err = errors.New("the answer ends in its headers")
		}
		if err != nil {
			return h, err
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return h, fmt.Errorf("the answer holds a line that is no header: %.80q", line)
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "content-length":
			n, err := parseDigits(value)
			if err != nil || h.length >= 0 && h.length != n {
				return h, fmt.Errorf("cannot understand the length of the body: %.80q", value)
			}
			h.length = n
		case "transfer-encoding":
			if !strings.EqualFold(value, "chunked") || h.chunked {
				return h, fmt.Errorf("cannot decode transfer encoding %.80q", value)
			}
			h.chunked = true
		}
	}
	if h.chunked && h.length >= 0 {
		return h, errors.New("the answer is chunked and gives a length as well")
	}
	return h, nil
}

// parseStatus reads "HTTP/1.x NNN" and an optional reason.
func parseStatus(line string) (int, error) {
	bad := fmt.Errorf("the answer is not HTTP: it begins %.80q", line)
	rest, ok := strings.CutPrefix(line, "HTTP/1.")
	if !ok || len(rest) < 5 || rest[0] != '0' && rest[0] != '1' || rest[1] != ' ' {
		return 0, bad
	}
	code, _, _ := strings.Cut(rest[2:], " ")
	n, err := parseDigits(code)
	if err != nil || len(code) != 3 || n < 100 || n > 599 {
		return 0, bad
	}
	return int(n), nil
}

// parseDigits is strconv without signs, spaces or underscores.
func parseDigits(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseInt(s, 10, 64)
}

// readLine reads to the next line feed, takes the carriage return away and
// counts the bytes against left. io.EOF means: not a single byte came.
func readLine(br *bufio.Reader, left *int) (string, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return "", errors.New("the head of the answer is larger than 16 KiB")
		}
		line = append(line, part...)
		switch {
		case err == nil:
			line = line[:len(line)-1]
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			return string(line), nil
		case err == io.EOF && len(line) > 0:
			return "", fmt.Errorf("the answer ends in the middle of a line: %.80q", line)
		case err != bufio.ErrBufferFull:
			return "", err
		}
	}
}

func readLength(r io.Reader, length int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, min(length, MaxBody)))
	switch {
	case err != nil:
		return body, err
	case length > MaxBody:
		return body, ErrTooLarge
	case int64(len(body)) < length:
		return body, fmt.Errorf("the body is cut short (got %d bytes, want %d)", len(body), length)
	}
	return body, nil
}

func readRest(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if len(body) > MaxBody {
		return body[:MaxBody], ErrTooLarge
	}
	return body, err
}

// readChunks is for servers that answer HTTP/1.0 with chunks all the same. What
// follows the last chunk is not looked at: the connection is closed anyway.
func readChunks(br *bufio.Reader) ([]byte, error) {
	var body []byte
	left := 2 * MaxBody // for the lines between the chunks; bounds a body of chunks of one byte
	cut := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("the body is cut short in its chunks")
		}
		return err
	}
	for {
		line, err := readLine(br, &left)
		if err != nil {
			return body, cut(err)
		}
		size, _, _ := strings.Cut(line, ";") // chunk extensions mean nothing to us
		size = strings.TrimRight(size, " \t")
		if size == "" || strings.Trim(size, "0123456789abcdefABCDEF") != "" {
			return body, fmt.Errorf("the body holds a chunk without a size: %.80q", line)
		}
		n, err := strconv.ParseUint(size, 16, 63)
		if err != nil || n > uint64(MaxBody-len(body)) {
			return body, ErrTooLarge
		}
		if n == 0 {
			return body, nil
		}
		chunk := make([]byte, n)
		got, err := io.ReadFull(br, chunk)
		body = append(body, chunk[:got]...)
		if err != nil {
			return body, cut(err)
		}
		if line, err = readLine(br, &left); err != nil {
			return body, cut(err)
		}
		if line != "" {
			return body, errors.New("the body holds a chunk that is longer than its size")
		}
	}
}
