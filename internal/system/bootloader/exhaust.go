package bootloader

import (
	"fmt"
	"strings"
)

// Exhaust takes all tries from an image that does not run, so that it is started only when
// nothing else is there. One without tries is left alone; the one that runs is MarkBad's.
func (l Loader) Exhaust(e Entry) error {
	if e.Bad() {
		return nil
	}
	if e.Booted {
		return fmt.Errorf("taking all tries from %s: %w", e.File, ErrBooted)
	}
	name, _, _ := strings.Cut(strings.TrimSuffix(e.File, ".efi"), "+")
	to := name + "+0.efi"
	if e.TriesDone > 0 {
		to = fmt.Sprintf("%s+0-%d.efi", name, e.TriesDone)
	}
	if err := l.rename(e.File, to); err != nil {
		return fmt.Errorf("taking all tries from %s: %w", e.File, err)
	}
	return nil
}
