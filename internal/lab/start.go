package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/swtpm"
)

// controlLimit bounds short commands to QEMU.
const controlLimit = 20 * time.Second

// saveLimit bounds writing and loading a snapshot of memory.
const saveLimit = 3 * time.Minute

// connect opens the control socket for a short command.
func connect(ctx context.Context, d dir) (*qemu.Client, context.CancelFunc, error) {
	if _, ok := qemu.Running(d.file("qemu.pid")); !ok {
		return nil, nil, fmt.Errorf("lab %s: %w", filepath.Base(string(d)), ErrNotRunning)
	}
	ctx, cancel := context.WithTimeout(ctx, controlLimit)
	client, err := qemu.Dial(ctx, d.file("qmp.sock"))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return client, func() { _ = client.Close(); cancel() }, nil
}

// start starts the machine and what it needs: TPM and release server. incoming is
// a memory image, or empty for a cold start.
func (l *Lab) start(ctx context.Context, d dir, s state, incoming string) error {
	if pid, ok := qemu.Running(d.file("qemu.pid")); ok {
		return fmt.Errorf("starting the machine: it runs already, as process %d", pid)
	}
	if err := l.serveReleases(ctx, d, s); err != nil {
		return err
	}
	if s.APIPort != 0 {
		if _, err := freePort(s.APIPort); err != nil {
			return fmt.Errorf("starting the machine: %w (stop that process, or start again with --fresh)", err)
		}
	}
	if s.Machine.TPM != "" && !pidAlive(d.file("swtpm.pid"), d.file("tpm.sock")) {
		if err := swtpm.Start(ctx, l.runner, l.tools, d.tpm()); err != nil {
			return err
		}
	}
	m := s.Machine
	m.Incoming = incoming
	return qemu.Start(ctx, l.runner, l.tools, m)
}

// stopHard ends QEMU and waits for it and for its TPM to be gone.
func (l *Lab) stopHard(ctx context.Context, d dir) error {
	if client, done, err := connect(ctx, d); err == nil {
		err = client.Quit(ctx)
		done()
		if err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, controlLimit)
	defer cancel()
	if err := qemu.WaitEnd(limited, d.file("qemu.pid")); err != nil {
		if err := qemu.Kill(ctx, d.file("qemu.pid")); err != nil {
			return err
		}
	}
	return stopTPM(limited, d)
}

// stopTPM waits for the TPM to end, which it does when QEMU has gone, and asks it to
// when it does not.
func stopTPM(ctx context.Context, d dir) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for pidAlive(d.file("swtpm.pid"), d.file("tpm.sock")) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return endProcess(d.file("swtpm.pid"), d.file("tpm.sock"))
		}
	}
	return nil
}

// snapshot saves the running machine and starts it again from there: its disks become
// the snapshot's as they are, not copied, and the machine goes on with overlays on
// them. Until the old machine has ended, nothing of it is changed.
func (l *Lab) snapshot(ctx context.Context, d dir, s state) (state, error) {
	next := dir(d.file("snapshot.new"))
	if err := l.saveMemory(ctx, d, s, next); err != nil {
		return state{}, fmt.Errorf("making the snapshot: %w", err)
	}
	if err := l.stopHard(ctx, d); err != nil {
		return state{}, fmt.Errorf("making the snapshot: %w", err)
	}
	if err := os.RemoveAll(d.file("snapshot")); err != nil {
		return state{}, fmt.Errorf("replacing the snapshot: %w", err)
	}
	if err := os.Rename(string(next), d.file("snapshot")); err != nil {
		return state{}, fmt.Errorf("finishing the snapshot: %w", err)
	}
	return l.restore(ctx, d, "")
}

// saveMemory makes the folder next with all that a snapshot is. The machine stands
// still afterwards, or goes on when that failed.
func (l *Lab) saveMemory(ctx context.Context, d dir, s state, next dir) error {
	client, done, err := connect(ctx, d)
	if err != nil {
		return err
	}
	defer done()
	if err := os.RemoveAll(string(next)); err != nil {
		return fmt.Errorf("removing an unfinished snapshot: %w", err)
	}
	if err := os.Mkdir(string(next), 0o700); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	err = client.SaveMemory(limited, next.file("state.bin"))
	if err == nil {
		err = linkDisks(next, s.Machine.Disks)
	}
	if err == nil {
		err = copyFirmware(next, d, s.Machine)
	}
	if err == nil {
		err = s.save(next.file("state.json"))
	}
	if err == nil {
		return nil
	}
	again, cancelAgain := context.WithTimeout(context.WithoutCancel(ctx), controlLimit)
	defer cancelAgain()
	return errors.Join(err, client.Continue(again), os.RemoveAll(string(next)))
}

// linkDisks gives the folder to the disks that stay in a machine, as second names of
// the same files: a copy would take several GB beside them.
func linkDisks(to dir, disks []qemu.Disk) error {
	for _, disk := range disks {
		if disk.Removable {
			continue
		}
		if err := os.Link(disk.Path, to.file(filepath.Base(disk.Path))); err != nil {
			return err
		}
	}
	return nil
}

func copyFirmware(to, from dir, m qemu.Machine) error {
	if m.Vars != "" {
		if err := qemu.CopySparse(to.file("vars.fd"), from.file("vars.fd")); err != nil {
			return err
		}
	}
	if m.TPM == "" {
		return nil
	}
	if err := os.RemoveAll(to.file("tpm")); err != nil {
		return fmt.Errorf("replacing the TPM: %w", err)
	}
	if err := os.Mkdir(to.file("tpm"), 0o700); err != nil {
		return fmt.Errorf("copying the TPM: %w", err)
	}
	entries, err := os.ReadDir(from.file("tpm"))
	if err != nil {
		return fmt.Errorf("copying the TPM: %w", err)
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		name := filepath.Join("tpm", entry.Name())
		if err := qemu.CopySparse(to.file(name), from.file(name)); err != nil {
			return err
		}
	}
	return nil
}

// overlayDisks gives the disks of m as empty overlays in d on the snapshot of from.
func overlayDisks(d, from dir, disks []qemu.Disk) ([]qemu.Disk, error) {
	out := slices.Clone(disks)
	for i, disk := range out {
		if disk.Removable {
			continue
		}
		base := from.file(filepath.Join("snapshot", filepath.Base(disk.Path)))
		size, err := qemu.ImageSize(base, disk.Format)
		if err != nil {
			return nil, err
		}
		out[i].Path, out[i].Format = d.file(disk.ID+".qcow2"), "qcow2"
		if err := os.Remove(out[i].Path); err != nil && !os.IsNotExist(err) { // never write into a file that is the snapshot's too
			return nil, fmt.Errorf("removing the disk after the snapshot: %w", err)
		}
		if err := qemu.MakeOverlay(out[i].Path, base, disk.Format, size); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// restore starts the machine from its snapshot, which stays as it is: the disks are
// overlays on it. What happened since the snapshot is forgotten. writeLog gets what is
// written to the first disk, empty for nothing.
func (l *Lab) restore(ctx context.Context, d dir, writeLog string) (state, error) {
	s, err := loadState(d.file("snapshot/state.json"))
	if err != nil {
		return state{}, err
	}
	old := s.Machine.Disks
	if s.Machine.Disks, err = overlayDisks(d, d, old); err != nil {
		return state{}, err
	}
	if err := copyFirmware(d, dir(d.file("snapshot")), s.Machine); err != nil {
		return state{}, err
	}
	for _, disk := range old { // the disk before the first restore is of no more use
		if disk.Format == "raw" && !disk.Removable {
			if err := os.Remove(disk.Path); err != nil && !os.IsNotExist(err) {
				return state{}, fmt.Errorf("removing the disk before the snapshot: %w", err)
			}
		}
	}
	if err := s.save(d.file("state.json")); err != nil {
		return state{}, err
	}
	started, err := recording(s, writeLog)
	if err != nil {
		return state{}, err
	}
	if err := l.start(ctx, d, started, d.file("snapshot/state.bin")); err != nil {
		return state{}, err
	}
	limited, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	client, err := qemu.Dial(limited, d.file("qmp.sock"))
	if err == nil {
		defer func() { _ = client.Close() }() // the answer to the last command is in
		err = client.ResumeLoaded(limited)
	}
	if err != nil {
		return state{}, fmt.Errorf("restoring the snapshot: %w (see %s; --fresh installs anew)", err, d.file("qemu.log"))
	}
	return s, nil
}

// recording is a machine whose first disk keeps a log; the file is made anew.
func recording(s state, writeLog string) (state, error) {
	if writeLog == "" || len(s.Machine.Disks) == 0 {
		return s, nil
	}
	if err := os.WriteFile(writeLog, nil, 0o600); err != nil {
		return state{}, fmt.Errorf("making the log of writes: %w", err)
	}
	s.Machine.Disks = slices.Clone(s.Machine.Disks)
	s.Machine.Disks[0].WriteLog = writeLog
	return s, nil
}
