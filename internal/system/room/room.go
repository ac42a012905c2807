// Package room says before long work whether its folder has the space that the work
// will take, so that it is refused at once and not cut in its middle.
package room

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrFull is returned, wrapped, when a folder has less room than asked for.
var ErrFull = errors.New("not enough room")

// Check returns ErrFull, with both figures, when less than need bytes can be written
// below the folder, which must exist.
func Check(folder string, need int64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil {
		return fmt.Errorf("looking how much room %s has: %w", folder, err)
	}
	return enough(folder, need, int64(stat.Bavail)*stat.Bsize)
}

func enough(folder string, need, free int64) error {
	if free >= need {
		return nil
	}
	return fmt.Errorf("%w in %s: %.1f GiB are needed, %.1f GiB are free", ErrFull, folder, gib(need), gib(free))
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }
