package daemon

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Activated is the API's socket from systemd; nil when there is none.
func Activated() (net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("taking over the API socket from systemd: %w", err)
	}
	switch len(listeners) {
	case 0:
		return nil, nil
	case 1:
		if socket, ok := listeners[0].(*net.UnixListener); ok {
			// It is systemd's: the path stays when this daemon ends.
			socket.SetUnlinkOnClose(false)
			return socket, nil
		}
	}
	return nil, fmt.Errorf("taking over the API socket from systemd: %d sockets were given, want one unix socket", len(listeners))
}
