package networkd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// waitOnline is not on the search path.
const waitOnline = "/usr/lib/systemd/systemd-networkd-wait-online"

// ErrOffline means that the network did not come up in time.
var ErrOffline = errors.New("the network is not online; look at the cable, at the DHCP server, and at the addresses configured")

// WaitOnline waits until one of the devices has an address that is valid beyond its
// link. Without devices it waits for all that networkd knows as required. The
// timeout is rounded up to seconds; when it passes, errors.Is(err, ErrOffline) holds.
//
// Devices have to be named when none is required: wait-online otherwise ignores
// those that are not, and would wait in vain.
func (h Host) WaitOnline(ctx context.Context, devices []string, timeout time.Duration) error {
	seconds := int64((timeout + time.Second - 1) / time.Second)
	args := []string{"--timeout=" + strconv.FormatInt(max(seconds, 1), 10)}
	if len(devices) > 0 {
		args = append(args, "--any")
	}
	for _, device := range devices {
		args = append(args, "--interface="+device+":routable")
	}
	_, err := h.Run(ctx, run.Command{Name: waitOnline, Args: args})
	if err == nil {
		return nil
	}
	if _, ended := run.ExitCode(err); ended {
		return fmt.Errorf("%w (waited %d s): %w", ErrOffline, max(seconds, 1), err)
	}
	return fmt.Errorf("waiting for the network: %w", err)
}
