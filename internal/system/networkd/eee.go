package networkd

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eeeSettings is struct ethtool_eee of the kernel.
type eeeSettings struct {
	command, supported, advertised, partner, active, enabled uint32
	lowPower, lowPowerTimer                                  uint32
	reserved                                                 [2]uint32
}

// deviceRequest is struct ifreq of the kernel, with a pointer to data.
type deviceRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// DisableEEE turns Energy-Efficient Ethernet off on cards that have it; udev before 258
// cannot. A card that knows nothing of it, or that is not there, is left as it is. Root
// is not honoured: it is always the running kernel that is asked.
func DisableEEE(cards []string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("turning Energy-Efficient Ethernet off: %w", err)
	}
	for _, card := range cards {
		if e := disableEEE(socket, card); e != nil {
			err = errors.Join(err, fmt.Errorf("turning Energy-Efficient Ethernet off on %s: %w", card, e))
		}
	}
	return errors.Join(err, unix.Close(socket))
}

func disableEEE(socket int, card string) error {
	settings := eeeSettings{command: unix.ETHTOOL_GEEE}
	err := ethtool(socket, card, &settings)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil || settings.enabled == 0 {
		return err
	}
	settings.command, settings.enabled = unix.ETHTOOL_SEEE, 0
	return ethtool(socket, card, &settings)
}

func ethtool(socket int, card string, settings *eeeSettings) error {
	if len(card) >= unix.IFNAMSIZ {
		return unix.EINVAL
	}
	request := deviceRequest{data: unsafe.Pointer(settings)}
	copy(request.name[:], card)
	// The kernel reads and writes what the request points to, which must stay where it
	// is for the call.
	var pinned runtime.Pinner
	pinned.Pin(settings)
	defer pinned.Unpin()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
