// Package reset brings a node back to what it was after its installation: a factory reset of
// the system.
//
// It writes the seed anew, clears the TPM, removes the partitions that hold what a node has
// (swap, root, local-data), and restarts. The next start then is a first one: early boot
// makes the partitions, their keys and the machine id anew. The release stays.
//
// Parties: the daemon begins a reset and carries it out (Begin, Carry); early boot carries on
// with one that a power cut has stopped (Continue), before it opens anything, and removes what
// a cut has left of one. Both have the Hands. What lasts in between lies on the ESP, which no reset removes:
//
//	holdfast/reset-seed.tar    the new seed archive, whole
//	holdfast/reset.json        the journal: its presence is the decision
//	holdfast/reset-committed   the TPM was cleared, or its failure is allowed
//
// Invariants:
//
//   - Without a journal that can be read nothing has happened, and nothing will.
//   - With it, each step can be done again. The steps are in the order of their journal:
//     TPM, seed, leftovers of degraded modes, partitions, end.
//   - A TPM that cannot be cleared ends the reset before anything else was done, unless that
//     is allowed. Behind reset-committed there is no way back.
//   - The journal goes first at the end: a new node never finds one of before.
//
// What can fail: an ESP that cannot be written (nothing happens), a TPM whose lockout
// hierarchy has a password, a disk that cannot be written (the journal stays, the next start
// goes on).
package reset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// Names on the ESP, relative to its root.
const (
	folder        = "holdfast"
	JournalFile   = folder + "/reset.json"
	SeedFile      = folder + "/reset-seed.tar"
	CommittedFile = folder + "/reset-committed"
)

// Files are all that a reset leaves on the ESP while it lasts. Where none is there, Continue
// has nothing to do.
func Files() []string { return []string{JournalFile, CommittedFile, SeedFile} }

// maxJournal is the longest journal, in bytes.
const maxJournal = 64 << 10

// leftovers are what the degraded modes keep on the ESP: the emulated TPM, and a mark of
// IncusOS. What an installation was allowed to do without is not among them: the node that
// comes is on the same machine.
var leftovers = []string{"swtpm", "sb-disabled"}

// partitions are removed, in this order.
var partitions = []int{layout.Swap, layout.Root, layout.LocalData}

// ErrTPM is a TPM that could not be cleared, when that is not allowed. Nothing was changed.
var ErrTPM = errors.New("the TPM cannot be cleared")

// Hands is what a reset does to the machine. What has returned is on the disk.
type Hands interface {
	// Read gives a file of the ESP of at most limit bytes; fs.ErrNotExist when there is none.
	Read(name string, limit int64) ([]byte, error)
	// Write makes a file of the ESP, with its folder. A power cut may leave a part of it.
	Write(name string, data []byte) error
	// Remove removes a file or folder of the ESP with all in it; a missing one is no error.
	Remove(name string) error
	// ClearTPM makes the TPM forget every key; a machine without one has nothing to forget.
	ClearTPM(ctx context.Context) error
	// WriteSeed writes an archive to the beginning of the seed partition, and reads it back.
	WriteSeed(ctx context.Context, archive []byte) error
	// RemovePartitions deletes partitions of the system disk by number; one that is not
	// there is no error.
	RemovePartitions(ctx context.Context, numbers ...int) error
}

// Journal is what the ESP keeps of a reset.
type Journal struct {
	Format int `json:"format"`
	// Started is when it was asked for, By who asked.
	Started time.Time `json:"started"`
	By      string    `json:"by"`
	// AllowTPMFailure goes on with a TPM that cannot be cleared.
	AllowTPMFailure bool `json:"allow_tpm_failure"`
	// Size and SHA256 are those of SeedFile, so that half of it is not taken for it.
	Size   int64  `json:"seed_size"`
	SHA256 string `json:"seed_sha256"`
}

// Begin writes the journal down: from here on the reset is decided. On an error nothing is.
func Begin(hands Hands, j Journal, archive []byte) error {
	sum := sha256.Sum256(archive)
	j.Format, j.Size, j.SHA256 = 1, int64(len(archive)), hex.EncodeToString(sum[:])
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	// What an earlier reset has left must not speak for this one.
	err = errors.Join(hands.Remove(JournalFile), hands.Remove(CommittedFile))
	if err == nil {
		err = hands.Write(SeedFile, archive)
	}
	if err == nil {
		err = hands.Write(JournalFile, append(text, '\n'))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the journal of the reset to the ESP: %w", err), end(hands))
	}
	return nil
}

// Commit clears the TPM; behind it there is no way back. An error is ErrTPM, and then the
// reset has been forgotten: the node is as it was.
func Commit(ctx context.Context, hands Hands) error {
	j, _, err := read(hands)
	if err != nil {
		return err
	}
	if _, err := hands.Read(CommittedFile, maxJournal); err == nil {
		// It may have been cleared before the power was cut. Once more does no harm, and
		// its failure changes nothing.
		_ = hands.ClearTPM(ctx)
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the journal of the reset: %w", err)
	}
	if err := hands.ClearTPM(ctx); err != nil && !j.AllowTPMFailure {
		return errors.Join(fmt.Errorf("%w, so nothing was reset: %w; allow_tpm_reset_failure goes on all the same", ErrTPM, err), end(hands))
	}
	if err := hands.Write(CommittedFile, []byte("1\n")); err != nil {
		return fmt.Errorf("keeping how far the reset is: %w; it goes on at the next start", err)
	}
	return nil
}

// Finish does all else. On an error the journal stays: Finish can be called again, and the
// next start carries on. The machine has to be restarted behind it.
func Finish(ctx context.Context, hands Hands) error {
	_, archive, err := read(hands)
	if err != nil {
		return err
	}
	if err := hands.WriteSeed(ctx, archive); err != nil {
		return fmt.Errorf("writing the seed: %w", err)
	}
	for _, name := range leftovers {
		if err := hands.Remove(name); err != nil {
			return fmt.Errorf("removing %s from the ESP: %w", name, err)
		}
	}
	if err := hands.RemovePartitions(ctx, partitions...); err != nil {
		return fmt.Errorf("removing what this node has: %w", err)
	}
	if err := end(hands); err != nil {
		return fmt.Errorf("removing the journal of the reset: %w", err)
	}
	return nil
}

// Continue carries on with a reset that was stopped, and reports whether there was one that
// is done now. Early boot calls it before it looks for partitions, and must go no further
// when it fails: a journal that stays would reset the next node. A reset that the TPM does
// not allow is forgotten, and the node starts as it was.
func Continue(ctx context.Context, hands Hands, say func(string)) (bool, error) {
	j, _, err := read(hands)
	if errors.Is(err, ErrNone) {
		// What a cut has left of a reset that has ended, or has not begun: the seed in it may
		// have secrets.
		return false, end(hands)
	}
	if err != nil {
		return false, err
	}
	say(fmt.Sprintf("A factory reset that began at %s goes on.", j.Started.UTC().Format(time.RFC3339)))
	err = Commit(ctx, hands)
	if errors.Is(err, ErrTPM) {
		say(err.Error())
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, Finish(ctx, hands)
}

// ErrNone is an ESP without a journal, or with one that was cut off while it was written.
var ErrNone = errors.New("no factory reset has begun")

// read gives the journal and the archive that belongs to it.
func read(hands Hands) (Journal, []byte, error) {
	var j Journal
	text, err := hands.Read(JournalFile, maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil, ErrNone
	}
	if err != nil {
		return j, nil, fmt.Errorf("reading the journal of the reset: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&j); err != nil || j.Format != 1 {
		return j, nil, ErrNone
	}
	archive, err := hands.Read(SeedFile, layout.Size(layout.Seed))
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil, ErrNone
	}
	if err != nil {
		return j, nil, fmt.Errorf("reading the seed of the reset: %w", err)
	}
	sum := sha256.Sum256(archive)
	if int64(len(archive)) != j.Size || hex.EncodeToString(sum[:]) != j.SHA256 {
		return j, nil, ErrNone
	}
	return j, archive, nil
}

// end removes all that a reset has written to the ESP, the journal first.
func end(hands Hands) error {
	for _, name := range Files() {
		if err := hands.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// limited is what may be read of a seed partition.
func limited(r io.Reader) io.Reader { return io.LimitReader(r, layout.Size(layout.Seed)) }
