package earlyboot

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
)

// A release is brought from a rescue medium into a slot here, since systemd-sysupdate is not in
// the initrd. The order is that of an update: what could start the slot goes first, the label
// comes when all is there, and the kernel image last. Wherever the power is cut, what starts
// next is the release that started now, and thus this same place, or the new one.

// errMedium is a file that is not what the release promises.
var errMedium = errors.New("it is not what the release promises: the medium is damaged, or was changed")

// releaseParts are the four files of a release that make a system.
type releaseParts struct {
	version string
	// slot are the files for signature, hash tree and content, with the UUIDs of their
	// partitions.
	slot  [3]api.File
	uuids [3]string
	uki   api.File
}

// partsOf finds them in a release whose signature was checked.
func partsOf(update api.Update) (releaseParts, error) {
	parts := releaseParts{version: update.Version}
	uuids := map[int]string{}
	for i, kind := range []api.Type{api.TypeUpdateUsrSignature, api.TypeUpdateUsrVerity, api.TypeUpdateUsr, api.TypeUpdateEFI} {
		at := slices.IndexFunc(update.Files, func(f api.File) bool { return f.Type == kind && f.Component == api.ComponentOS })
		if at < 0 {
			return releaseParts{}, fmt.Errorf("release %s on the medium has no file of the type %s", update.Version, kind)
		}
		file := update.Files[at]
		name, packed := strings.CutSuffix(path.Base(file.Filename), ".gz")
		if !packed {
			return releaseParts{}, fmt.Errorf("release %s on the medium: %s is not packed with gzip", update.Version, file.Filename)
		}
		if kind == api.TypeUpdateEFI {
			parts.uki = file
			continue
		}
		uuid, ok := layout.PartUUID(name)
		if !ok {
			return releaseParts{}, fmt.Errorf("release %s on the medium: the name of %s has no UUID", update.Version, file.Filename)
		}
		parts.slot[i], parts.uuids[i], uuids[layout.SigA+i] = file, uuid, uuid
	}
	// It knows what a version and a UUID look like.
	_, err := layout.TransferFiles(layout.X86_64, parts.version, uuids)
	return parts, err
}

// chooseSlot gives the slot that a release goes to. One that holds the same release is
// repaired: two of the same would have the same ids. Else it is the one that does not run: an
// empty one first, and then the older.
func chooseSlot(slots []sysupdate.Slot, parts releaseParts) (sysupdate.Slot, error) {
	same := func(s sysupdate.Slot) bool {
		return s.Version == parts.version || s.UUIDs[1] == parts.uuids[1] || s.UUIDs[2] == parts.uuids[2]
	}
	var free []sysupdate.Slot
	for _, slot := range slots {
		if same(slot) {
			return slot, nil
		}
		if !slot.Active {
			free = append(free, slot)
		}
	}
	if len(free) == 0 {
		return sysupdate.Slot{}, errors.New("choosing the slot for the release: every slot is in use")
	}
	return slices.MinFunc(free, func(a, b sysupdate.Slot) int {
		if a.Empty != b.Empty {
			return map[bool]int{true: -1, false: 1}[a.Empty]
		}
		return strings.Compare(a.Version, b.Version)
	}), nil
}

// newestVersion is the newest release that the node is known to have had; "" for none.
func newestVersion(slots []sysupdate.Slot, entries []bootloader.Entry) (newest string) {
	take := func(version string) {
		if layout.IsVersion(version) {
			newest = max(newest, version)
		}
	}
	for _, slot := range slots {
		take(slot.Version)
	}
	for _, entry := range entries {
		take(entry.Version)
	}
	return newest
}

// restore is one release on its way into a slot.
type restore struct {
	// files is the folder of the release on the medium.
	files  fs.FS
	slots  sysupdate.Slots
	loader bootloader.Loader
	// startable refuses a kernel image that the firmware would not start.
	startable func(file string) error
	say       func(string)
}

// run writes the release. Everything on the medium is read and compared once before anything
// is changed, and once more while it is written.
func (r restore) run(ctx context.Context, parts releaseParts) error {
	for i, file := range append(parts.slot[:], parts.uki) {
		r.say(fmt.Sprintf("Reading release %s from the medium: file %d of 4.", parts.version, i+1))
		if err := r.compare(ctx, file); err != nil {
			return err
		}
	}
	slots, err := r.slots.Read()
	if err != nil {
		return err
	}
	slot, err := chooseSlot(slots, parts)
	if err != nil {
		return err
	}
	if err := r.clear(ctx, slots, slot); err != nil {
		return err
	}
	numbers := [3]int{slot.Parts.Signature, slot.Parts.Verity, slot.Parts.Usr}
	for i, file := range parts.slot {
		r.say(fmt.Sprintf("Writing release %s to the disk: file %d of 4.", parts.version, i+1))
		if err := r.with(file, func(content io.Reader) error { return r.slots.Fill(ctx, numbers[i], content) }); err != nil {
			return err
		}
	}
	if err := r.label(ctx, slot, parts); err != nil {
		return err
	}
	r.say(fmt.Sprintf("Writing release %s to the disk: file 4 of 4.", parts.version))
	return r.with(parts.uki, func(content io.Reader) error {
		return r.loader.Place(ctx, parts.version, content, r.startable)
	})
}

// clear takes away what could start the slot, then its labels. The slot of this start keeps
// both: it can only be repaired, and its kernel image is what brings the machine back here.
func (r restore) clear(ctx context.Context, slots []sysupdate.Slot, slot sysupdate.Slot) error {
	state, err := r.loader.Read()
	if err != nil {
		return err
	}
	for _, entry := range state.Entries {
		kept := slices.ContainsFunc(slots, func(s sysupdate.Slot) bool { return s.Parts != slot.Parts && s.Version == entry.Version })
		if kept || entry.Booted {
			continue
		}
		if err := r.loader.Remove(entry.File); err != nil {
			return err
		}
	}
	if slot.Active || slot.Empty {
		return nil
	}
	return r.slots.Free(ctx, slot)
}

// label names the slot, and looks whether it is one that can be started.
func (r restore) label(ctx context.Context, slot sysupdate.Slot, parts releaseParts) error {
	if slot.Version != parts.version || slot.UUIDs != parts.uuids || !slot.Active {
		if err := r.slots.Label(ctx, slot.Parts, parts.version, parts.uuids); err != nil {
			return err
		}
	}
	slots, err := r.slots.Read()
	if err != nil {
		return err
	}
	for _, now := range slots {
		if now.Parts == slot.Parts && (!now.Complete() || now.Version != parts.version) {
			return fmt.Errorf("release %s is written, and cannot be started: %s", parts.version, now.Problem)
		}
	}
	return nil
}

// compare reads a file of the medium to its end.
func (r restore) compare(ctx context.Context, file api.File) (err error) {
	f, err := r.files.Open(file.Filename)
	if err != nil {
		return fmt.Errorf("reading %s of the medium: %w", file.Filename, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packed := newPacked(f, file)
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = io.CopyN(io.Discard, packed, 1<<20)
		}
	}
	if errors.Is(err, io.EOF) {
		err = packed.check()
	}
	if err != nil {
		return fmt.Errorf("reading %s of the medium: %w", file.Filename, err)
	}
	return nil
}

// with gives what is in a packed file of the medium. It ends with io.EOF only when the file
// had the promised size and sum.
func (r restore) with(file api.File, use func(io.Reader) error) (err error) {
	f, err := r.files.Open(file.Filename)
	if err != nil {
		return fmt.Errorf("reading %s of the medium: %w", file.Filename, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packed := newPacked(f, file)
	buffered := bufio.NewReaderSize(packed, 1<<20)
	content, err := gzip.NewReader(buffered)
	if err == nil {
		err = use(&unpacked{content, buffered, packed})
	}
	if err != nil {
		return fmt.Errorf("copying %s from the medium: %w", file.Filename, err)
	}
	return nil
}

// packed counts and sums a file of the medium.
type packed struct {
	r    io.Reader
	sum  hash.Hash
	size int64
	want api.File
}

func newPacked(f io.Reader, want api.File) *packed {
	return &packed{r: io.LimitReader(f, want.Size+1), sum: sha256.New(), want: want}
}

func (p *packed) Read(data []byte) (int, error) {
	n, err := p.r.Read(data)
	p.size += int64(n)
	p.sum.Write(data[:n]) // never fails
	return n, err
}

func (p *packed) check() error {
	if p.size != p.want.Size || !strings.EqualFold(hex.EncodeToString(p.sum.Sum(nil)), p.want.SHA256) {
		return errMedium
	}
	return nil
}

// unpacked is the content of a packed file.
type unpacked struct {
	content  *gzip.Reader
	buffered *bufio.Reader
	packed   *packed
}

func (u *unpacked) Read(data []byte) (int, error) {
	n, err := u.content.Read(data)
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) { // it is no end of the content, whatever gzip calls it
		return n, errors.Join(u.packed.check(), fmt.Errorf("unpacking it: %w", err))
	}
	if _, err := io.Copy(io.Discard, u.buffered); err != nil {
		return n, err
	}
	if err := u.packed.check(); err != nil {
		return n, err
	}
	return n, io.EOF
}
