// Package zstd runs the zstd program to make frames that refer to other content.
//
// The caller hands in two pieces of memory and gets one frame. In between they lie as
// files in a folder of mode 0700 that is gone when the call returns, also after an error.
// One process, one thread: the same input and the same version of zstd give the same
// frame, whatever the machine.
//
// What can fail: the program is missing or too old (1.4.5 is the first with --patch-from),
// the disk is full, the memory is short: a call takes some ten times the window.
package zstd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// DefaultLevel is the level that Patch uses.
const DefaultLevel = 9

// Zstd makes frames. Run is required.
type Zstd struct {
	// Run starts the program `zstd`.
	Run run.Runner
	// Dir is where the files lie meanwhile. Default os.TempDir().
	Dir string
	// Level is from 1 (fast) to 19 (small). Default DefaultLevel.
	Level int
}

// Patch gives one frame that unpacks to segment if window is the dictionary, as raw
// content. With an empty window it is an ordinary frame. It is safe for concurrent use.
func (z Zstd) Patch(ctx context.Context, window, segment []byte) (_ []byte, err error) {
	dir, err := os.MkdirTemp(z.Dir, "holdfast-zstd-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for zstd: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	level := z.Level
	if level == 0 {
		level = DefaultLevel
	}
	source, frame := filepath.Join(dir, "segment"), filepath.Join(dir, "frame")
	args := []string{"--quiet", "--single-thread", "--no-check", "-" + strconv.Itoa(level)}
	if err := os.WriteFile(source, segment, 0o600); err != nil {
		return nil, fmt.Errorf("preparing a segment for zstd: %w", err)
	}
	if len(window) > 0 {
		base := filepath.Join(dir, "window")
		if err := os.WriteFile(base, window, 0o600); err != nil {
			return nil, fmt.Errorf("preparing a window for zstd: %w", err)
		}
		args = append(args, "--patch-from="+base)
	}
	args = append(args, source, "-o", frame)
	if _, err := z.Run(ctx, run.Command{Name: "zstd", Args: args}); err != nil {
		return nil, fmt.Errorf("packing a segment of %d bytes against %d: %w", len(segment), len(window), err)
	}
	return read(frame, int64(len(segment)))
}

// read gives what zstd wrote. It never makes much more than it was given.
func read(path string, from int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading what zstd wrote: %w", err)
	}
	defer func() { _ = file.Close() }() // read only
	limit := from + from/128 + 4096
	frame, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading what zstd wrote: %w", err)
	}
	if int64(len(frame)) > limit {
		return nil, fmt.Errorf("zstd made more than %d bytes out of %d", limit, from)
	}
	return frame, nil
}
