package earlyboot

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// signedCommandLine is the command line that was signed with this initrd, without
// usrhash=, which is known only after the initrd is made.
const signedCommandLine = "/usr/lib/holdfast/cmdline"

var rootHash = regexp.MustCompile(`^usrhash=[0-9a-f]{64}$`)

// CheckCommandLine compares what the kernel was started with to what was signed: the
// root hash of /usr, then the same words in the same order. Firmware tables may not
// add to it, whatever a boot loader makes of them.
func CheckCommandLine(running, signed string) error {
	words := strings.Fields(strings.TrimRight(running, "\x00\n"))
	if len(words) == 0 || !rootHash.MatchString(words[0]) {
		return errors.New("the kernel's command line does not begin with usrhash=: this start is refused, since the running /usr cannot be proved")
	}
	want := strings.Fields(signed)
	for i, word := range words[1:] {
		if i >= len(want) || word != want[i] {
			return fmt.Errorf("the kernel's command line has %q, which was not signed: this start is refused; look for a boot loader entry, a firmware setting or an SMBIOS string that adds it", word)
		}
	}
	if len(words)-1 < len(want) {
		return fmt.Errorf("the kernel's command line lacks %q, which was signed: this start is refused", want[len(words)-1])
	}
	return nil
}
