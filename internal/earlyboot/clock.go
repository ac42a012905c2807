package earlyboot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// advanceClock sets a clock that is behind the release that runs to the release's time. A machine
// without a battery starts in the past, where no certificate is valid yet. systemd would do it by
// the time of /usr/lib/clock-epoch, which is the same in every build.
func (h Host) advanceClock(now time.Time, set func(time.Time) error) error {
	text, err := os.ReadFile(filepath.Join(h.paths.Sysusr, "usr/lib/os-release"))
	if err != nil {
		return fmt.Errorf("reading the time of the release: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		version, found := strings.CutPrefix(strings.TrimSpace(line), "IMAGE_VERSION=")
		if !found {
			continue
		}
		made, err := time.Parse("200601021504", strings.Trim(version, `"`))
		if err != nil {
			return fmt.Errorf("reading the time of the release: %w", err)
		}
		if !now.Before(made) {
			return nil
		}
		return set(made)
	}
	return errors.New("reading the time of the release: its os-release has no IMAGE_VERSION")
}

func setClock(to time.Time) error {
	tv := unix.NsecToTimeval(to.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("setting the clock to %s: %w", to.UTC().Format(time.DateTime), err)
	}
	return nil
}
