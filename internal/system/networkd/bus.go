package networkd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/godbus/dbus/v5"
)

// busSocket is where programs talk to systemd's services.
const busSocket = "run/dbus/system_bus_socket"

// reload has networkd read its files again, in one call over the bus: starting networkctl
// for it takes longer than networkd does. Without a bus it is networkctl, which knows more
// ways to the service.
func (h Host) reload(ctx context.Context) (err error) {
	path := h.path(busSocket)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return h.do(ctx, "networkctl", "reload")
	}
	conn, err := dbus.Connect("unix:path="+dbus.EscapeBusAddressValue(path), dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connecting to the bus: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	manager := conn.Object("org.freedesktop.network1", "/org/freedesktop/network1")
	return manager.CallWithContext(ctx, "org.freedesktop.network1.Manager.Reload", 0).Err
}
