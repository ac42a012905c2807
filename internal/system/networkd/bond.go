package networkd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// maxProc is how much of a file in /proc is read, in bytes.
const maxProc = 1 << 20

// readLACP adds what the members of a bond know of the switch. The kernel tells it in
// this file alone, and to a process with CAP_NET_ADMIN only. A bond that speaks no LACP
// adds nothing.
func (h Host) readLACP(bond string, to map[string]api.NetworkLACP) error {
	file, err := os.Open(h.path("proc/net/bonding", bond))
	if errors.Is(err, fs.ErrNotExist) {
		// It was deleted a moment ago.
		return nil
	}
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxProc+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if len(data) > maxProc {
		return fmt.Errorf("more than %d bytes", maxProc)
	}
	for member, lacp := range parseLACP(string(data)) {
		to[member] = lacp
	}
	return nil
}

// parseLACP reads the section of each member. Within it, one heading says whose
// address follows.
func parseLACP(text string) map[string]api.NetworkLACP {
	members := map[string]api.NetworkLACP{}
	member, whose := "", ""
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "Slave Interface":
			member = value
		case "details actor lacp pdu", "details partner lacp pdu":
			whose = key
		case "system mac address":
			lacp := members[member]
			if whose == "details actor lacp pdu" {
				lacp.LocalMAC = value
			} else {
				lacp.RemoteMAC = value
			}
			if member != "" && whose != "" {
				members[member] = lacp
			}
		}
	}
	return members
}
