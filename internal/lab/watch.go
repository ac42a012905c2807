package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// askEvery is the pause between two questions to a machine that is coming up.
const askEvery = 200 * time.Millisecond

// errOff says that the machine switched itself off, or QEMU ended.
var errOff = errors.New("the machine switched itself off")

// watcher hears what QEMU says by itself.
type watcher struct {
	client *qemu.Client
	events <-chan qemu.Event
}

func (w *watcher) close() { _ = w.client.Close() }

// newWatcher connects to the events socket of a machine that was just started.
func newWatcher(ctx context.Context, d dir) (*watcher, error) {
	ctx, cancel := context.WithTimeout(ctx, controlLimit)
	defer cancel()
	client, err := qemu.Dial(ctx, d.file("events.sock"))
	if err != nil {
		return nil, err
	}
	return &watcher{client: client, events: client.Events()}, nil
}

// until waits until one of two things holds: reset answers true after a reset of
// the machine, or asked answers true. Either may be nil.
func (w *watcher) until(ctx context.Context, reset func() (bool, error), asked func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("it takes longer than it may: %w", ctx.Err())
		case event, open := <-w.events:
			if !open || event.Name == "SHUTDOWN" {
				return errOff
			}
			if event.Name == "RESET" && reset != nil {
				if ok, err := reset(); ok || err != nil {
					return err
				}
			}
		case <-ticker.C:
			if asked == nil {
				continue
			}
			if ok, err := asked(ctx); ok || err != nil {
				return err
			}
		}
	}
}

// follow watches an installation to its end.
func (u *up) follow(ctx context.Context) error {
	var err error
	if u.watch == nil {
		if u.watch, err = newWatcher(ctx, u.d); err != nil {
			return err
		}
	}
	// A reset with a table on the disk ends the installation; one without was the
	// enrolment of the keys.
	installed := false
	atReset := func() (bool, error) {
		count, err := partitions(u.s.Machine.Disks[0].Path, u.s.Machine.Disks[0].Sector)
		installed = count >= installedPartitions
		return true, err
	}
	if err := u.phase(ctx, "Secure Boot keys", keysLimit, func(ctx context.Context) error {
		if u.s.Machine.BIOS || u.s.Machine.NoSecureBoot || u.keysEnrolled() {
			return nil
		}
		return u.watch.until(ctx, atReset, u.answers)
	}); err != nil {
		return err
	}
	if u.o.Hardware.Live {
		u.s.Stage = stageInstalled
		if err := u.s.save(u.d.file("state.json")); err != nil {
			return err
		}
		return u.finish(ctx)
	}
	if err := u.phase(ctx, "install", installLimit, func(ctx context.Context) error {
		if installed {
			return nil
		}
		return u.watch.until(ctx, func() (bool, error) {
			if _, err := atReset(); err != nil {
				return false, err
			}
			return installed, nil
		}, u.answers)
	}); err != nil {
		return err
	}
	u.s.Stage = stageInstalled
	if !installed { // it answers already: this run came too late to see the reset
		if err := u.s.save(u.d.file("state.json")); err != nil {
			return err
		}
		return u.finish(ctx)
	}
	return u.pullMedium(ctx)
}

// installedPartitions is how many partitions an installed disk has at least; the
// installer writes the table last, in one step.
const installedPartitions = 5

// keysEnrolled tells whether the firmware variables hold keys: an Up that begins
// late must not wait for a reset that has been. The variable PK is written last.
func (u *up) keysEnrolled() bool {
	vars, err := os.ReadFile(u.s.Machine.Vars)
	return err == nil && holdsPK(vars)
}

// pullMedium starts the installed machine without its medium.
func (u *up) pullMedium(ctx context.Context) error {
	u.watch.close()
	u.watch = nil
	if err := u.stopHard(ctx, u.d); err != nil {
		return err
	}
	u.s.Machine = withoutMedium(u.s.Machine)
	if err := u.s.save(u.d.file("state.json")); err != nil {
		return err
	}
	if err := os.Remove(u.d.file("medium.raw")); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing the medium: %w", err)
	}
	if err := u.powerOn(ctx); err != nil {
		return err
	}
	return u.finish(ctx)
}

// powerOn starts the machine cold and listens to it.
func (u *up) powerOn(ctx context.Context) error {
	return u.phase(ctx, "start", 0, func(ctx context.Context) (err error) {
		started, err := recording(u.s, u.o.WriteLog)
		if err != nil {
			return err
		}
		u.o.WriteLog = "" // a start after this one would write it anew
		if err := u.start(ctx, u.d, started, ""); err != nil {
			return err
		}
		if u.o.NoWait {
			return nil
		}
		u.watch, err = newWatcher(ctx, u.d)
		return err
	})
}

// answers tells whether the API shows a certificate. A node that does not answer
// yet is no error.
func (u *up) answers(ctx context.Context) (bool, error) {
	if u.s.APIPort == 0 {
		return false, nil
	}
	_, err := serverCert(ctx, u.s.APIPort)
	return err == nil, nil
}

// finish waits for the API of a running machine, saves who answered, and makes the
// snapshot.
func (u *up) finish(ctx context.Context) (err error) {
	if u.watch == nil {
		if u.watch, err = newWatcher(ctx, u.d); err != nil {
			return err
		}
	}
	boot := "boot"
	if !exists(u.d.file("env")) {
		boot = "first boot"
	}
	if err := u.phase(ctx, boot, bootLimit, func(ctx context.Context) error {
		if ok, err := u.answers(ctx); ok || err != nil {
			return err
		}
		return u.watch.until(ctx, nil, u.answers)
	}); err != nil {
		return err
	}
	if err := u.phase(ctx, "API ready", readyLimit, u.waitReady); err != nil {
		return err
	}
	u.s.Stage = stageReady
	if err := u.s.save(u.d.file("state.json")); err != nil {
		return err
	}
	if err := writeFile(u.d.file("env"), []byte(envFile(u.d, u.s))); err != nil {
		return err
	}
	if u.o.NoSnapshot || exists(u.d.file("snapshot/state.bin")) {
		return nil
	}
	return u.phase(ctx, "snapshot", saveLimit, func(ctx context.Context) error {
		again, err := u.snapshot(ctx, u.d, u.s)
		if err == nil {
			u.s = again
		}
		return err
	})
}

// waitReady waits until the node says that it has finished its start.
func (u *up) waitReady(ctx context.Context) error {
	var last error
	ask := func(ctx context.Context) (bool, error) {
		server, err := u.server(ctx)
		if err != nil {
			last = err
			return false, nil
		}
		ok, err := ready(ctx, u.d, u.s.APIPort, server)
		if errors.Is(err, errOtherServer) && knownServer(u.d) != nil {
			return false, err
		}
		last = err
		if !ok {
			return false, nil
		}
		return true, writeFile(u.d.file("server.crt"), server)
	}
	if ok, err := ask(ctx); ok || err != nil {
		return err
	}
	err := u.watch.until(ctx, nil, ask)
	if err != nil && last != nil {
		return fmt.Errorf("%w; the last answer: %w", err, last)
	}
	return err
}

// server is the certificate to expect: that of the first meeting, or for the first
// time the one that is shown.
func (u *up) server(ctx context.Context) ([]byte, error) {
	if known := knownServer(u.d); known != nil {
		return known, nil
	}
	return serverCert(ctx, u.s.APIPort)
}

// fromSnapshot restores the machine and asks its API.
func (u *up) fromSnapshot(ctx context.Context) error {
	if err := u.phase(ctx, "restore", saveLimit, func(ctx context.Context) (err error) {
		u.s, err = u.restore(ctx, u.d, u.o.WriteLog)
		return err
	}); err != nil || u.o.NoWait {
		return err
	}
	return u.finish(ctx)
}

// goodbye says where the machine is and what to try.
func (u *up) goodbye(took time.Duration) {
	if u.s.Stage != stageReady {
		u.p.note("started after %.0f s; its serial log is %s", took.Seconds(), u.d.file("serial.log"))
		return
	}
	commands := u.o.Try
	if len(commands) == 0 {
		curl := fmt.Sprintf("curl -sk --cert %s --key %s %s", u.d.file("client.crt"), u.d.file("client.key"), u.s.endpoint())
		commands = []string{curl + "/os/1.0", curl + "/1.0", "tail -n 20 " + u.d.file("serial.log")}
	}
	u.p.note("ready after %.0f s at %s; try:", took.Seconds(), u.s.endpoint())
	for _, command := range commands {
		u.p.note("  %s", command)
	}
}
