package installer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/espdir"
)

// Host is this machine as install.Env, with one medium and one target open. Both
// may be regular files, for tests and for making disks ahead.
type Host struct {
	options Options
	medium  *os.File
	target  targetFile
}

// Open opens the medium and the target. udev leaves the target alone until Close.
func Open(ctx context.Context, o Options, medium, target string) (*Host, error) {
	o = o.withDefaults()
	unix.Sync() // what a mounted ESP of the medium still holds in memory
	from, err := os.Open(medium)
	if err != nil {
		return nil, fmt.Errorf("opening the medium: %w", err)
	}
	to, err := os.OpenFile(target, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the target: %w", err), from.Close())
	}
	host := &Host{options: o, medium: from, target: targetFile{to}}
	if err := errors.Join(block.DropCache(from), lock(ctx, to)); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return host, nil
}

// lock waits up to 30 seconds for udev to finish with the disk.
func lock(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := block.Lock(f)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Close closes medium and target.
func (h *Host) Close() error {
	return errors.Join(h.medium.Close(), h.target.f.Close())
}

// Medium is what is copied from.
func (h *Host) Medium() io.ReaderAt { return h.medium }

// Target is the disk that is written.
func (h *Host) Target() install.TargetDisk { return h.target }

// WipeSignatures removes whatever is still recognised on the target.
func (h *Host) WipeSignatures(ctx context.Context) error {
	return h.options.devices().WipeSignatures(ctx, h.target.f.Name())
}

// WriteTable writes the partition table and makes it durable.
func (h *Host) WriteTable(ctx context.Context, script string) error {
	return h.options.devices().WriteTable(ctx, h.target.f.Name(), script)
}

// Reread lets the kernel take up the new table and gives the ESP's GUID as read back.
func (h *Host) Reread(ctx context.Context) (string, error) {
	if err := h.options.devices().Reread(ctx, h.target.f.Name()); err != nil {
		return "", err
	}
	table, _, err := readTable(h.target.f)
	if err != nil {
		return "", err
	}
	if table.State != block.TableValid {
		return "", fmt.Errorf("reading back the partition table of %s: its state is %q", h.target.f.Name(), table.State)
	}
	for _, entry := range table.Entries {
		if entry.Number == 1 {
			return entry.GUID, nil
		}
	}
	return "", fmt.Errorf("reading back the partition table of %s: it has no partition 1", h.target.f.Name())
}

// Platform is the firmware and the way out.
func (h *Host) Platform() install.Platform {
	return platform{h.options, cmp.Or(h.options.Medium, h.medium.Name()), h.target.f.Name()}
}

// targetFile is a disk or a file as install.TargetDisk.
type targetFile struct{ f *os.File }

func (t targetFile) ReadAt(p []byte, offset int64) (int, error)  { return t.f.ReadAt(p, offset) }
func (t targetFile) WriteAt(p []byte, offset int64) (int, error) { return t.f.WriteAt(p, offset) }
func (t targetFile) Sync() error                                 { return block.Sync(t.f) }
func (t targetFile) Zero(ctx context.Context, offset, length int64) error {
	return block.Zero(ctx, t.f, offset, length)
}

// platform is the real firmware as install.Platform.
type platform struct {
	options Options
	medium  string
	target  string
}

// MarkESP mounts the target's ESP for as long as it takes.
func (p platform) MarkESP(ctx context.Context, names []string) error {
	esp, err := p.options.devices().PartitionNode(ctx, p.target, layout.ESP)
	if err != nil {
		return err
	}
	return espdir.With(esp, filepath.Join(p.options.Root, "run/holdfast/target-esp"), func(dir espdir.Dir) error {
		for _, name := range names {
			if err := dir.Write(name, []byte("1\n")); err != nil {
				return fmt.Errorf("writing %s to the ESP %s: %w", name, esp, err)
			}
		}
		return nil
	})
}

func (p platform) SetInstallComplete(complete bool) error {
	return p.options.vars().SetInstallComplete(complete)
}

func (p platform) SetBootEntry(l install.Loader) error {
	return p.options.vars().SetBootEntry(efi.BootEntry{Label: l.Label, Partition: uint32(l.Partition),
		Start: uint64(l.Start), Size: uint64(l.Size), GUID: l.GUID, Loader: l.Path})
}

// Leave restarts the machine. Without atOnce it waits until the medium is gone;
// from then on no program can be started, because they all lie on it, so this one
// is held in memory before and the restart is a system call.
func (p platform) Leave(ctx context.Context, atOnce bool) error {
	if !atOnce {
		if err := unix.Mlockall(unix.MCL_CURRENT); err != nil {
			p.options.Console(Warn, "holding the installer in memory: "+err.Error()+"; if the machine does not restart after the medium is removed, restart it by hand")
		}
		p.options.Console(Info, "installed: remove the medium "+p.medium+", and the machine restarts")
		if err := waitGone(ctx, p.medium, time.Second); err != nil {
			return err
		}
	}
	p.options.Console(Info, "installed: restarting")
	return p.options.Restart()
}

// waitGone looks every interval whether the medium is still there.
func waitGone(ctx context.Context, path string, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		present, err := block.Present(path)
		if err != nil || !present {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the medium %s to be removed: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}

// restart is the system call: it needs no program and no file. All that matters was
// made durable before; the file systems of the medium may be gone already.
func restart() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("restarting the machine: %w; restart it by hand, the installation is complete", err)
	}
	return nil
}
