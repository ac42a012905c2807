package networkd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// SetHostname names the running machine and the next start. The name has at most
// 64 bytes.
func (h Host) SetHostname(name string) error {
	if name == "" || len(name) > 64 || strings.ContainsAny(name, "\n\x00/ ") {
		return fmt.Errorf("setting the host name: %q is not one of 1 to 64 bytes without spaces", name)
	}
	if err := h.replace("etc/hostname", name+"\n"); err != nil {
		return fmt.Errorf("writing /etc/hostname: %w", err)
	}
	// The kernel takes the name from this file as from sethostname(2).
	if err := os.WriteFile(h.path("proc/sys/kernel/hostname"), []byte(name), 0o644); err != nil {
		return fmt.Errorf("setting the host name to %s: %w", name, err)
	}
	return nil
}

// WriteHosts replaces /etc/hosts.
func (h Host) WriteHosts(content string) error {
	if err := h.replace("etc/hosts", content); err != nil {
		return fmt.Errorf("writing /etc/hosts: %w", err)
	}
	return nil
}

// SetTimezone points /etc/localtime at a zone of the IANA database. A zone that
// this system does not have is an error.
func (h Host) SetTimezone(zone string) error {
	const database = "usr/share/zoneinfo"
	if !filepath.IsLocal(zone) {
		return fmt.Errorf("setting the time zone: %q is not the name of a zone", zone)
	}
	info, err := os.Stat(h.path(database, zone))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("setting the time zone: this system has no zone %q; names are as Europe/Zurich", zone)
	}
	if err != nil {
		return fmt.Errorf("setting the time zone %s: %w", zone, err)
	}
	link := h.path("etc/localtime")
	if err := os.Remove(link + ".next"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("setting the time zone %s: %w", zone, err)
	}
	if err := os.Symlink(filepath.Join("..", database, zone), link+".next"); err != nil {
		return fmt.Errorf("setting the time zone %s: %w", zone, err)
	}
	if err := os.Rename(link+".next", link); err != nil {
		return fmt.Errorf("setting the time zone %s: %w", zone, err)
	}
	return nil
}

// SetTimesyncd replaces the drop-in of systemd-timesyncd and restarts the service;
// an empty content removes the drop-in.
func (h Host) SetTimesyncd(ctx context.Context, content string) error {
	const dropIn = "run/systemd/timesyncd.conf.d/10-holdfast.conf"
	var err error
	if content == "" {
		if err = os.Remove(h.path(dropIn)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		err = h.replace(dropIn, content)
	}
	if err != nil {
		return fmt.Errorf("writing /%s: %w", dropIn, err)
	}
	if err := h.do(ctx, "systemctl", "try-restart", "systemd-timesyncd.service"); err != nil {
		return fmt.Errorf("restarting systemd-timesyncd: %w", err)
	}
	return nil
}

// ErrNotSynchronized means that no time server answered in time.
var ErrNotSynchronized = errors.New("no time server answered; look at time.ntp_servers and at the network")

// synchronizedFile is made by timesyncd each time it sets the clock.
const synchronizedFile = "run/systemd/timesync/synchronized"

// SyncTime restarts systemd-timesyncd and waits until it has set the clock. When the
// timeout passes first, errors.Is(err, ErrNotSynchronized) holds.
func (h Host) SyncTime(ctx context.Context, timeout time.Duration) error {
	if err := os.Remove(h.path(synchronizedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting that the clock was set: %w", err)
	}
	if err := h.do(ctx, "systemctl", "restart", "systemd-timesyncd.service"); err != nil {
		return fmt.Errorf("restarting systemd-timesyncd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for {
		_, err := os.Stat(h.path(synchronizedFile))
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("waiting for the clock to be set: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (waited %s)", ErrNotSynchronized, timeout)
		case <-look.C:
		}
	}
}

// replace writes a file in one step, with mode 0644.
func (h Host) replace(name, content string) error {
	path := h.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".holdfast-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
