package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/bootcheck"
)

// A Level is how much time Create takes to make a bundle small. Empty: LevelBest. Every
// device reads every level in the same time and memory.
type Level string

const (
	LevelFast    Level = "fast"
	LevelDefault Level = "default"
	LevelBest    Level = "best"
	// LevelMax is about 6 % smaller than LevelBest and takes five times as long. It needs
	// the program zstd, and the same version of it makes the same bytes. An update
	// without a patch downloads about 8 % more, as small files share larger frames.
	LevelMax Level = "max"
)

// A packing is what a Level means.
type packing struct {
	encoder zstd.EncoderLevel // 0: the program zstd
	group   int64             // bytes: see cutFrames
}

// maxGroup is the group of LevelMax, bytes: 1.3 % smaller than with groupSize.
const maxGroup = 1 << 20

var packings = map[Level]packing{
	"":           {zstd.SpeedBestCompression, groupSize},
	LevelFast:    {zstd.SpeedFastest, groupSize},
	LevelDefault: {zstd.SpeedDefault, groupSize},
	LevelBest:    {zstd.SpeedBestCompression, groupSize},
	LevelMax:     {0, maxGroup},
	"fastest":    {zstd.SpeedFastest, groupSize}, // the names of 0.1
	"better":     {zstd.SpeedBetterCompression, groupSize},
}

// Valid reports whether l is a level.
func (l Level) Valid() bool {
	_, ok := packings[l]
	return ok && l != ""
}

// compressor makes one zstd frame of tar, for several goroutines at once. It fails if the program
// that p needs is not installed.
func (p packing) compressor() (func(ctx context.Context, tar []byte) ([]byte, error), error) {
	if p.encoder != 0 {
		enc, err := bestEncoder()
		if p.encoder != zstd.SpeedBestCompression {
			enc, err = newEncoder(p.encoder)
		}
		return func(_ context.Context, tar []byte) ([]byte, error) {
			return enc.EncodeAll(tar, make([]byte, 0, len(tar)/2)), nil
		}, err
	}
	program, err := exec.LookPath("zstd")
	if err != nil {
		e := bootcheck.Errorf(bootcheck.ExitFailed, "", "cannot compress at the level max: the program zstd is not installed")
		return nil, e.WithAdvice("apt-get install zstd, or --level best")
	}
	return func(ctx context.Context, tar []byte) ([]byte, error) {
		frame, err := runZstd(ctx, program, tar)
		if err != nil {
			return nil, fmt.Errorf("cannot compress with %s: %w", program, err)
		}
		got, err := DecodeFrame(frame, bootcheck.MaxFrameSize)
		if err == nil && !bytes.Equal(got, tar) {
			err = errors.New("it decodes to other bytes")
		}
		if err != nil {
			return nil, fmt.Errorf("%s made a wrong frame: %w", program, err)
		}
		return frame, nil
	}, nil
}

// runZstd compresses tar with the program zstd, as newEncoder would. Neither the number
// of cores nor the environment changes the frame.
func runZstd(ctx context.Context, program string, tar []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, "-19", "-q", "-c", "--single-thread", "--check", "--stream-size="+strconv.Itoa(len(tar)))
	cmd.Stdin = bytes.NewReader(tar)
	frame, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok && len(e.Stderr) > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(e.Stderr))
	}
	return frame, err
}
