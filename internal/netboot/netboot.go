// Package netboot knows how a machine starts from an image that its firmware fetches.
//
// Parties: a server with images (internal/customizer); DHCP or a person, who tell a machine
// the URL; firmware with HTTP boot (UEFI 2.5 and later), which reads the whole image into
// memory, makes a disk of it, and starts its boot loader; Linux, which finds that disk in the
// ACPI table NFIT and shows it as /dev/pmem0, for which early boot needs the modules nfit and
// nd_pmem; and the installer, which copies from that disk as from a stick.
//
// Invariants: nothing is trusted on account of where it came from. The image is what it is on
// a stick: Secure Boot checks its boot loader and its UKI, dm-verity its /usr; who can change
// the transfer can do what somebody with the stick in hand can do, and no more. A URL has no
// secret in it.
//
// What can fail: firmware without HTTP boot or without a RAM disk; too little memory in one
// piece; a URL that is too long for DHCP; a server behind TLS whose certificate the firmware
// does not know. docs/decisions/0018-network-boot.md has the alternatives.
package netboot

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Forms of images that firmware makes a disk of, by the ending of their names.
const (
	Disk = ".img"
	CD   = ".iso"
)

// types are the media types by which firmware tells forms apart; it looks at them before it
// looks at the ending. (UEFI 2.10, 24.7)
var types = map[string]string{Disk: "application/vnd.efi-img", CD: "application/vnd.efi-iso"}

// ContentType is the media type of a form; false for one that firmware does not start from.
func ContentType(form string) (string, bool) {
	kind, known := types[form]
	return kind, known
}

// maxURL is the longest URL that DHCP can give out in one option, in bytes. (RFC 2132, 9.5)
const maxURL = 255

// CheckURL says what keeps firmware from starting from a URL that DHCP gives out. The error
// is what a person has to change.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("checking the boot URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("the boot URL %q does not begin with http:// or https:// and a server", text)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("the boot URL on %s has a login, a query or a fragment, which firmware drops: give the choice a name of its own", u.Host)
	case types[path.Ext(u.Path)] == "":
		return fmt.Errorf("the boot URL %q ends neither in %s nor in %s, and firmware would not know what it is", text, Disk, CD)
	case len(text) > maxURL:
		return fmt.Errorf("the boot URL has %d bytes, and DHCP gives out at most %d: take a shorter name", len(text), maxURL)
	}
	return nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName says what is wrong with the name under which a choice is served.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("the boot name %.70q is not made of small letters, digits and dashes, at most 63", name)
	}
	return nil
}

var memoryDisk = regexp.MustCompile(`^pmem[0-9]+(\.[0-9]+)?s?$`)

// InMemory tells whether a disk, as "/dev/pmem0", is one that firmware has made in memory, or
// other memory that looks like a disk. Such a medium cannot be taken out: it is gone with the
// next start.
func InMemory(disk string) bool {
	name, found := strings.CutPrefix(disk, "/dev/")
	return found && memoryDisk.MatchString(name)
}
