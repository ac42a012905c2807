package media

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// bootFiles judges what the build puts on an ESP beside the UKI, by who signed the UKI.
type bootFiles struct {
	prove Prover
	// signers are DER certificates; none when the UKI is not that of the release.
	signers [][]byte
}

// signedBy takes the signers of a UKI that is the release's own. One without a signature
// has none, and nothing else then has the right one.
func (b *bootFiles) signedBy(uki *io.SectionReader) {
	if p, err := b.prove.Program(uki, uki.Size()); err == nil {
		b.signers = append(b.signers, p.Signers...)
	}
}

// The files by their place on the ESP, in small letters.
var (
	loaderFile = regexp.MustCompile(`^(efi/boot/boot(x64|aa64)\.efi|efi/systemd/systemd-boot(x64|aa64)\.efi)$`)
	keyFile    = regexp.MustCompile(`^loader/keys/auto/(pk|kek|db)\.auth$`)
	// harmlessFile is what a boot loader leaves of itself: nothing in it is started or trusted.
	harmlessFile = regexp.MustCompile(`^loader/(entries\.srel|random-seed)$`)
)

// check gives what is wrong with a file; empty for nothing.
func (b *bootFiles) check(path string, data *io.SectionReader) string {
	switch {
	case loaderFile.MatchString(path):
		return b.checkLoader(data)
	case keyFile.MatchString(path):
		return b.checkKeys(data)
	case path == "loader/loader.conf":
		return checkLoaderConf(data)
	case harmlessFile.MatchString(path):
		return ""
	}
	return "the release does not have this file"
}

func (b *bootFiles) ours(der []byte) bool {
	return slices.ContainsFunc(b.signers, func(s []byte) bool { return bytes.Equal(s, der) })
}

func (b *bootFiles) checkLoader(data *io.SectionReader) string {
	p, err := b.prove.Program(data, data.Size())
	if err != nil {
		return fmt.Sprintf("it cannot be read as a boot loader: %v", err)
	}
	if !slices.ContainsFunc(p.Signers, b.ours) {
		return "it is not signed by who signed the UKI of the release"
	}
	// Every UKI of this signer would pass as a boot loader, an old one and one for tests too.
	if p.Sections[".linux"].Size > 0 || p.Sections[".cmdline"].Size > 0 {
		return "it is a kernel in the place of the boot loader"
	}
	return ""
}

func (b *bootFiles) checkKeys(data *io.SectionReader) string {
	lists, err := authPayload(data)
	var found [][]byte
	if err == nil {
		found, err = b.prove.Certificates(lists)
	}
	if err != nil {
		return fmt.Sprintf("its keys cannot be read: %v", err)
	}
	for _, der := range found {
		if !b.ours(der) {
			return "it has the certificate " + keyOf("", der).Fingerprint + ", which did not sign the UKI of the release"
		}
	}
	if len(found) == 0 {
		return "it has no certificate"
	}
	return ""
}

// maxLoaderConf bounds what is read of the settings of the boot loader, in bytes.
const maxLoaderConf = 16 << 10

// looks are settings of systemd-boot that do not decide what is started or enrolled.
var looks = []string{"timeout", "console-mode", "beep", "log-level"}

func checkLoaderConf(data *io.SectionReader) string {
	if data.Size() > maxLoaderConf {
		return fmt.Sprintf("it has %d bytes, at most %d are read", data.Size(), maxLoaderConf)
	}
	text := make([]byte, data.Size())
	if err := readAt(data, text, 0); err != nil {
		return fmt.Sprintf("it cannot be read: %v", err)
	}
	for n, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		if len(words) > 0 && !strings.HasPrefix(words[0], "#") && !slices.Contains(looks, words[0]) {
			return fmt.Sprintf("line %d sets %.40q, which the release does not", n+1, words[0])
		}
	}
	return ""
}
