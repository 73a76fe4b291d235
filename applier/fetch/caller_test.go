package fetch

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
)

const headSize, frameSize = 5_000, 100_000

var errDamaged = bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "a frame is damaged")

// A caller is a program that downloads in these tests: it knows files by their heads, and what
// follows by its hashes.
type caller struct {
	files [][]byte // all that there are; none: it takes any
	head  int64    // bytes; 0: headSize
	parts []Part   // that it wants; nil: all

	refuse func(f *File) error        // what is wrong with the head; nil: nothing
	reads  func(f *File, d *Download) // before it looks at the frames; nil: nothing
}

// Fetch downloads src, of which files are all that there are, and returns it open.
func Fetch(ctx context.Context, src Source, opt Options, files ...[]byte) (*os.File, Stats, error) {
	return caller{files: files}.fetch(ctx, src, opt)
}

func (c caller) fetch(ctx context.Context, src Source, opt Options) (*os.File, Stats, error) {
	if c.head == 0 {
		c.head = headSize
	}
	opt.Prefix, opt.HeadSize = 24, func([]byte) (int64, error) { return c.head, nil }
	d := Start(ctx, src, opt)
	for {
		f, err := d.Next()
		if err == nil {
			err = c.read(ctx, f, d)
		}
		switch {
		case errors.Is(err, ErrStartedOver):
		case err != nil:
			return nil, d.Close(), err
		default:
			file, err := os.Open(d.spool.part)
			return file, d.Close(), err
		}
	}
}

func (c caller) read(ctx context.Context, f *File, d *Download) error {
	var file []byte
	if len(c.files) > 0 {
		head := make([]byte, min(headSize, f.Have))
		if _, err := f.ReadAt(head, 0); err != nil {
			return f.Refuse(err)
		}
		i := slices.IndexFunc(c.files, func(b []byte) bool { return bytes.HasPrefix(b, head) })
		if i < 0 {
			return f.Refuse(bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeSignatureInvalid, "the signature is wrong"))
		}
		file = c.files[i]
	}
	if c.refuse != nil {
		if err := c.refuse(f); err != nil {
			return f.Refuse(err)
		}
	}
	f.Want(c.parts)
	if c.reads != nil {
		c.reads(f, d)
	}
	for at := headSize; at < len(file); at += frameSize {
		p := Part{int64(at), int64(min(at+frameSize, len(file)))}
		for got := make([]byte, p.End-p.First); ; {
			if _, err := f.ReadAt(got, p.First); err != nil {
				if broken, ok := errors.AsType[*Broken](err); ok {
					return broken.Err
				}
			} else if bytes.Equal(got, file[p.First:p.End]) {
				break
			}
			if err := f.Again(ctx, p, errDamaged); err != nil {
				return err
			}
		}
	}
	_, err := f.Finish()
	return err
}

// Remove deletes what is kept of src in dir.
func Remove(dir string, src Source) error {
	from, err := src.parse()
	if err != nil {
		return err
	}
	return removeFiles(dir, from.name)
}
