package earlyboot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/earlyboot"
)

// errPower is what a machine without power answers.
var errPower = errors.New("the power is gone")

// world is a machine in memory. Its disk outlives a boot; PCR 15, mounts and open
// volumes do not. It holds what the real parts do to each other: repart writes its
// table in one step, opening the root extends PCR 15, and the TPM opens only at zero.
type world struct {
	// On the disk.
	parts     map[int]bool
	volumeKey string            // the recovery key that the root volume was made with
	files     map[string]string // of the root volume
	install   bool
	seed      string
	seedErr   error
	esp       map[string]string
	espErr    error
	size      int64
	readOnly  bool

	// The machine.
	firmwareChanged bool // the TPM refuses whatever PCR 15 is
	platform        earlyboot.Platform
	tpm             string
	tpmErr          error
	unlockErr       error // the volume opens, and something else is wrong
	repartMakes     []int

	// One boot.
	extended, mounted, temporary bool
	espMounted, emulated         bool
	tpmOpens                     int
	left                         int // changes until the power goes; negative for never
	calls                        []string
	said                         []string
}

func medium() *world {
	return &world{parts: map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true}, repartMakes: []int{6, 7, 8, 9, 10, 11},
		platform: earlyboot.Platform{SecureBoot: true, TPM: true}, tpm: "bound", esp: map[string]string{}, size: 20 << 30}
}

// boot starts the machine; the power goes after cut changes, or never.
func (w *world) boot(cut int) (bootinfo.Info, error) {
	w.extended, w.mounted, w.temporary, w.tpmOpens = false, false, false, 0
	w.espMounted, w.emulated = false, false
	w.left, w.calls, w.said = cut, nil, nil
	keys := earlyboot.Keys{
		RecoveryKey: func() (string, error) { return "the recovery key", nil },
		MachineID:   func() (string, error) { return "0123456789abcdef0123456789abcdef", nil },
	}
	return earlyboot.OpenRoot(context.Background(), w, keys, func(line string) { w.said = append(w.said, line) })
}

// change notes something done to the machine, while there is power.
func (w *world) change(format string, args ...any) error {
	if w.left == 0 {
		return errPower
	}
	w.left--
	w.calls = append(w.calls, fmt.Sprintf(format, args...))
	return nil
}

func (w *world) SystemDisk(context.Context) (earlyboot.Disk, error) {
	disk := earlyboot.Disk{Path: "/dev/vda", Medium: "/dev/vda", Partitions: map[int]string{}, Size: w.size, ReadOnly: w.readOnly}
	for number := range w.parts {
		disk.Partitions[number] = fmt.Sprintf("/dev/vda%d", number)
	}
	return disk, nil
}

func (w *world) HasInstallSeed(_ context.Context, device string, media bool) (bool, error) {
	if media == w.parts[10] {
		return false, fmt.Errorf("asked for media: %t, and there is a root volume: %t", media, w.parts[10])
	}
	if device != "/dev/vda2" {
		return false, fmt.Errorf("asked for the seed on %q", device)
	}
	return w.install, w.seedErr
}

func (w *world) Table() earlyboot.Table { return worldTable{w} }

type worldTable struct{ *world }

func (w worldTable) Make(_ context.Context, disk string, o earlyboot.PartitionOptions) error {
	what := "partition %s"
	if o.BindPrograms {
		what += " and bind programs"
	}
	if err := w.change(what, disk); err != nil {
		return err
	}
	for _, number := range w.repartMakes {
		w.parts[number] = true
	}
	w.volumeKey, w.files = o.RecoveryKey, map[string]string{}
	return nil
}

func (w worldTable) Remove(_ context.Context, disk string, numbers ...int) error {
	if w.mounted {
		return errors.New("the root volume is in use")
	}
	if err := w.change("remove %s %v", disk, numbers); err != nil {
		return err
	}
	for _, number := range numbers {
		if !w.parts[number] {
			return fmt.Errorf("sfdisk: no partition %d", number)
		}
		delete(w.parts, number)
	}
	return nil
}

func (w *world) Unlock(_ context.Context, device string, ask bool) error {
	if device != "/dev/vda10" || !w.parts[10] || w.mounted {
		return fmt.Errorf("unlocking %q", device)
	}
	if err := w.change("unlock %s ask=%t", device, ask); err != nil {
		return err
	}
	if !ask && (w.firmwareChanged || w.extended || !w.platform.TPM && !w.emulated) {
		return fmt.Errorf("%w: the policy is not met", earlyboot.ErrLocked)
	}
	if !ask {
		w.tpmOpens++
	}
	w.extended = true
	if w.unlockErr != nil {
		return w.unlockErr
	}
	w.mounted = true
	return nil
}

func (w *world) Root() earlyboot.RootFiles { return worldRoot{w} }

type worldRoot struct{ *world }

func (r worldRoot) MountTemporary() error {
	if err := r.change("tmpfs"); err != nil {
		return err
	}
	r.temporary = true
	return nil
}

func (r worldRoot) Unmount(context.Context) error {
	if err := r.change("unmount"); err != nil {
		return err
	}
	r.mounted = false
	return nil
}

func (r worldRoot) Exists(name string) (bool, error) {
	if !r.mounted {
		return false, errors.New("nothing is mounted")
	}
	_, found := r.files[name]
	return found, nil
}

func (r worldRoot) WriteNew(name, content string) error {
	if !r.mounted {
		return errors.New("nothing is mounted")
	}
	if err := r.change("write %s", name); err != nil {
		return err
	}
	r.files[name] = content
	return nil
}

// node is an installed node that ran before.
func node() *world {
	w := medium()
	for number := range 6 {
		w.parts[number+6] = true
	}
	w.volumeKey = "the recovery key"
	w.files = map[string]string{earlyboot.MachineIDFile: "0123456789abcdef0123456789abcdef\n", earlyboot.RecoveryKeyFile: "the recovery key"}
	return w
}

func (w *world) numbers() []int {
	var out []int
	for number := range w.parts {
		out = append(out, number)
	}
	slices.Sort(out)
	return out
}
