package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/bootcheck"
)

// checkFrame returns what b says to decode to, bytes. b must be exactly one
// zstd frame that says it, uses no dictionary and ends where b ends: a decoder
// would continue with a second frame, and skip a skippable one.
func checkFrame(b []byte) (size uint64, err error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, fmt.Errorf("not a zstd frame: %v", err)
	}
	switch {
	case h.Skippable:
		return 0, errors.New("a skippable zstd frame")
	case h.DictionaryID != 0:
		return 0, errors.New("a zstd frame that needs a dictionary")
	case !h.HasFCS:
		return 0, errors.New("a zstd frame that does not say what it decodes to")
	}
	// Blocks, RFC 8878, 3.1.1.2: three bytes each, then what they announce.
	rest := b[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return 0, errors.New("a zstd frame that is cut off")
		}
		v := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		last = v&1 != 0
		n := int(v >> 3)
		switch v >> 1 & 3 {
		case 1: // RLE: one byte, n times
			n = 1
		case 3:
			return 0, errors.New("a zstd frame with a block of unknown type")
		}
		if len(rest) < 3+n {
			return 0, errors.New("a zstd frame that is cut off")
		}
		rest = rest[3+n:]
	}
	if h.HasCheckSum {
		if len(rest) < 4 {
			return 0, errors.New("a zstd frame that is cut off")
		}
		rest = rest[4:]
	}
	if len(rest) != 0 {
		return 0, fmt.Errorf("%d bytes after the end of a zstd frame", len(rest))
	}
	return h.FrameContentSize, nil
}

// newDecoder makes a decoder for decodeInto, of frames that decode to at most max bytes.
func newDecoder(max int64) (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(uint64(max)),
		zstd.WithDecoderMaxMemory(uint64(max)),
		// Never append beyond the buffer that was made for the announced size.
		zstd.WithDecodeAllCapLimit(true),
		// The hashes in the manifest say more than a frame's own checksum.
		zstd.IgnoreChecksum(true),
	)
}

// decodeSlack is what the decoder's fast loop writes beyond the end, bytes. In a
// buffer without it the last block is decoded by a slower one.
const decodeSlack = 64

// decodeInto decodes b, one whole zstd frame of exactly size bytes that says so, into buf,
// which it enlarges if need be: to decodeSlack more.
func decodeInto(d *zstd.Decoder, b, buf []byte, size int64) ([]byte, error) {
	announced, err := checkFrame(b)
	if err != nil {
		return nil, err
	}
	if announced != uint64(size) {
		return nil, fmt.Errorf("a zstd frame of %d bytes, want %d", announced, size)
	}
	if int64(cap(buf)) < size+decodeSlack {
		buf = make([]byte, 0, size+decodeSlack)
	}
	out, err := d.DecodeAll(b, buf[:0:size+decodeSlack])
	if err != nil {
		return nil, fmt.Errorf("cannot decode it: %v", err)
	}
	if int64(len(out)) != size {
		return nil, fmt.Errorf("it decodes to %d bytes, want %d", len(out), size)
	}
	return out, nil
}

// DecodeFrame decodes b, one whole zstd frame that says that it decodes to at most max bytes.
func DecodeFrame(b []byte, max int64) ([]byte, error) {
	size, err := checkFrame(b)
	if err != nil {
		return nil, err
	}
	if size > uint64(max) {
		return nil, fmt.Errorf("it decodes to %d bytes, at most %d are allowed", size, max)
	}
	d, err := newDecoder(max)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return decodeInto(d, b, nil, int64(size))
}

// A FrameReader reads the frames of a bundle or a patch. It is used by one goroutine.
type FrameReader struct {
	Rest []byte // what NewFrameReader was asked for besides

	r     io.ReaderAt
	what  string // a "bundle" or a "patch"
	again Again

	zstd          *zstd.Decoder
	buffer        []byte
	packed, frame []byte // of buffer
}

// NewFrameReader makes a reader of the frames of r; what says whether that is a "bundle" or a
// "patch". A frame has at most packed bytes, and decodes to at most size bytes. Rest gets rest bytes.
// again repairs a frame that is damaged; nil: nothing does. The caller closes the reader.
func NewFrameReader(r io.ReaderAt, what string, again Again, packed, size, rest int64) (f *FrameReader, err error) {
	f = &FrameReader{r: r, what: what, again: again}
	end := packed + size + decodeSlack
	if f.buffer, err = bootcheck.Buffer(end + rest); err != nil {
		return nil, err
	}
	if f.zstd, err = newDecoder(bootcheck.MaxFrameSize); err != nil {
		bootcheck.Unmap(f.buffer)
		return nil, err
	}
	f.packed, f.frame, f.Rest = f.buffer[:packed:packed], f.buffer[packed:end:end], f.buffer[end:]
	return f, nil
}

// Close gives the memory back.
func (f *FrameReader) Close() {
	f.zstd.Close()
	bootcheck.Unmap(f.buffer)
}

// Read reads the length bytes at offset at, which messages call name, and compares their SHA-256
// with sum. Where again repairs them, it reads them once more.
func (f *FrameReader) Read(ctx context.Context, name string, at, length int64, sum string) error {
	f.packed = f.packed[:length]
	for {
		if err := ReadFull(f.r, f.what, f.packed, at); err != nil {
			return err
		}
		got := Sum(f.packed)
		if got == sum {
			return nil
		}
		err := damaged(bootcheck.CodeHashMismatch, "%s is damaged: sha256 %s of its %d bytes at %d, want %s", name, got, length, at, sum)
		if f.again == nil {
			return err
		}
		if err := f.again(ctx, Span{at, at + length}, err); err != nil {
			return err
		}
	}
}

// Decode decodes what Read read to size bytes, with dict, if that is not nil, as a raw
// dictionary. The result is the reader's, until the next call.
func (f *FrameReader) Decode(size int64, dict []byte) ([]byte, error) {
	options := []zstd.DOption{zstd.WithDecoderDictDelete()}
	if dict != nil {
		options = append(options, zstd.WithDecoderDictRaw(0, dict))
	}
	if err := f.zstd.ResetWithOptions(nil, options...); err != nil {
		return nil, err
	}
	return decodeInto(f.zstd, f.packed, f.frame[:0], size)
}
