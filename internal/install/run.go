package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// Disk access is in bytes from the start of the whole disk.

// TargetDisk is the disk that is written.
type TargetDisk interface {
	io.ReaderAt
	io.WriterAt
	// Zero makes a range read as zeros.
	Zero(ctx context.Context, offset, length int64) error
	// Sync makes everything durable; the next read comes from the disk, not from memory.
	Sync() error
}

// Env is the machine that a plan runs on.
type Env interface {
	// Medium is what is copied from.
	Medium() io.ReaderAt
	// Target is the disk that is written.
	Target() TargetDisk
	// WipeSignatures removes whatever is still recognised on the target.
	WipeSignatures(ctx context.Context) error
	// WriteTable writes the partition table and makes it durable.
	WriteTable(ctx context.Context, script string) error
	// Reread lets the kernel take up the new table and gives the ESP's GUID, in lower case, as read back.
	Reread(ctx context.Context) (esp string, err error)
	// Platform is the firmware and the way out.
	Platform() Platform
}

// Platform is the machine around the disk, and how it will start from it.
type Platform interface {
	// MarkESP makes files on the ESP of the target, whose table the kernel has taken up.
	MarkESP(ctx context.Context, names []string) error
	// SetInstallComplete sets or clears the note that the machine is installed.
	SetInstallComplete(complete bool) error
	// SetBootEntry puts the loader first in the boot order.
	SetBootEntry(Loader) error
	// Leave restarts the machine, at once or when the medium is gone.
	Leave(ctx context.Context, atOnce bool) error
}

// Observer is told how an installation goes. Every function may be nil.
type Observer struct {
	// Step is called before each step.
	Step func(Step)
	// Progress counts the bytes of a step.
	Progress func(step string, done, total int64)
	// Warn tells of something that does not stop the installation.
	Warn func(message string)
}

// chunk is the unit of copying, in bytes.
const chunk = 4 << 20

var zeros = make([]byte, chunk)

// Run does the steps of a plan. It stops at the first error, and can be called again
// with a fresh plan whatever was cut. Only the firmware's part may fail without
// stopping it: the disk can be started without a boot entry.
func Run(ctx context.Context, plan Plan, env Env, watch Observer) error {
	for _, step := range plan.Steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("installing %s: %w", plan.Target, err)
		}
		if watch.Step != nil {
			watch.Step(step)
		}
		if err := do(ctx, plan, step, env, watch); err != nil {
			return fmt.Errorf("installing %s, step %s: %w", plan.Target, step, err)
		}
	}
	return nil
}

func do(ctx context.Context, plan Plan, step Step, env Env, watch Observer) error {
	target := env.Target()
	switch step.Action {
	case Forget:
		return env.Platform().SetInstallComplete(false)
	case Wipe:
		return wipe(ctx, plan, env)
	case Zero:
		return target.Zero(ctx, step.Offset, step.Size)
	case Copy:
		return copyRange(ctx, step, env.Medium(), target, watch)
	case WriteSeed:
		return copyRange(ctx, Step{Action: WriteSeed, Name: step.Name, Offset: step.Offset, Size: step.Size},
			shifted{bytes.NewReader(plan.Seed), step.Offset}, target, watch)
	case Sync:
		return target.Sync()
	case WriteTab:
		return env.WriteTable(ctx, plan.Table)
	case Reread:
		esp, err := env.Reread(ctx)
		if err == nil && esp != plan.ESP {
			err = fmt.Errorf("the table that was read back has the ESP %q, want %q", esp, plan.ESP)
		}
		return err
	case MarkESP:
		return env.Platform().MarkESP(ctx, plan.Marks)
	case BootEntry:
		watch.tolerate("making the firmware's boot entry; the firmware will look for the disk by itself", env.Platform().SetBootEntry(plan.Loader))
		return nil
	case Complete:
		watch.tolerate("noting in the firmware that the machine is installed; remove the medium before the next start", env.Platform().SetInstallComplete(true))
		return nil
	case Unmark:
		return errors.Join(target.Zero(ctx, MarkOffset, MarkSize), target.Sync())
	case Leave:
		return env.Platform().Leave(ctx, plan.Restart)
	}
	return fmt.Errorf("no such action: %q", step.Action)
}

func (o Observer) tolerate(doing string, err error) {
	if err != nil && o.Warn != nil {
		o.Warn(doing + ": " + err.Error())
	}
}

// wipe takes the backup table first: a cut then leaves the old table, or none. The
// mark is set before the rest of the gap is zeroed, and each part is durable before
// the next.
func wipe(ctx context.Context, plan Plan, env Env) error {
	target := env.Target()
	zero := func(offset, length int64) func() error {
		return func() error { return target.Zero(ctx, offset, length) }
	}
	for _, act := range []func() error{
		zero(plan.TargetSize-wipeSize, wipeSize), target.Sync,
		zero(0, MarkOffset), target.Sync,
		func() error { _, err := target.WriteAt(encodeMark(plan.ESP), MarkOffset); return err }, target.Sync,
		zero(MarkOffset+MarkSize, wipeSize-MarkOffset-MarkSize), target.Sync,
		func() error { return env.WipeSignatures(ctx) },
	} {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}

// shifted lets a reader begin at an offset of the disk.
type shifted struct {
	io.ReaderAt
	by int64
}

func (s shifted) ReadAt(p []byte, offset int64) (int, error) {
	return s.ReaderAt.ReadAt(p, offset-s.by)
}

// copyRange copies what is used of a range that was zeroed before: chunks of zeros
// are left out. What was written is read back from the disk and compared by its sums,
// which are there to find a faulty disk: what the medium holds is proved by signatures.
func copyRange(ctx context.Context, step Step, from io.ReaderAt, to TargetDisk, watch Observer) error {
	written := map[int64]uint64{}
	var done int64
	total := step.Bytes()
	err := eachChunk(ctx, step, from, nil, func(offset int64, data []byte) error {
		done += int64(len(data))
		if watch.Progress != nil {
			defer watch.Progress(string(step.Action)+" "+step.Name, done, total)
		}
		if bytes.Equal(data, zeros[:len(data)]) {
			return nil
		}
		written[offset] = xxhash.Sum64(data)
		_, err := to.WriteAt(data, offset)
		return err
	})
	if err != nil {
		return fmt.Errorf("copying from the medium: %w", err)
	}
	if err := to.Sync(); err != nil {
		return err
	}
	wanted := func(offset int64) bool { _, ok := written[offset]; return ok }
	err = eachChunk(ctx, step, to, wanted, func(offset int64, data []byte) error {
		if written[offset] != xxhash.Sum64(data) {
			return errors.New("it is not what was written: the disk or the medium is faulty")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	return nil
}

// part is a piece of a disk in memory, or why there is none.
type part struct {
	offset int64
	data   []byte
	err    error
}

// ahead is how many chunks are read before they are asked for.
const ahead = 2

// eachChunk reads the chunks of a step that are wanted, nil for all, and hands them to
// work in their order. The next ones are read while work is busy.
func eachChunk(ctx context.Context, step Step, from io.ReaderAt, wanted func(offset int64) bool, work func(offset int64, data []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	free, filled := make(chan []byte, ahead+1), make(chan part, ahead)
	for range cap(free) {
		free <- make([]byte, min(chunk, step.Size))
	}
	ended := make(chan struct{})
	defer func() { cancel(); <-ended }()
	go func() {
		defer close(ended)
		defer close(filled)
		readChunks(ctx, step, from, wanted, free, filled)
	}()
	for p := range filled {
		err := p.err
		if err == nil {
			err = work(p.offset, p.data)
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w", p.offset, err)
		}
		free <- p.data[:cap(p.data)]
	}
	return ctx.Err()
}

// readChunks fills buffers until the step or the context ends.
func readChunks(ctx context.Context, step Step, from io.ReaderAt, wanted func(int64) bool, free <-chan []byte, filled chan<- part) {
	for _, piece := range step.pieces() {
		for done := int64(0); done < piece.Size; {
			offset, size := piece.Offset+done, min(chunk, piece.Size-done)
			done += size
			if wanted != nil && !wanted(offset) {
				continue
			}
			var p part
			select {
			case <-ctx.Done():
				return
			case buffer := <-free:
				p = part{offset: offset, data: buffer[:size]}
			}
			p.err = readFull(from, p.data, offset)
			select {
			case <-ctx.Done():
				return
			case filled <- p:
			}
			if p.err != nil {
				return
			}
		}
	}
}

func readFull(from io.ReaderAt, data []byte, offset int64) error {
	n, err := from.ReadAt(data, offset)
	if n == len(data) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
