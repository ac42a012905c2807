// Package pcr says which values the TPM's registers 7 and 4 will have at the next start,
// from the firmware's event log of this start and from what is about to change.
//
// Register 7 has the switches and keys of Secure Boot, and which key each started program
// was let in by. Register 4 has the programs themselves; a volume is bound to it only while
// Secure Boot is off. The log is the pattern: events that nothing is known of are reused as
// they were measured, those of a variable or a program that changes are made anew.
//
// The log is not protected, and firmware writes odd ones. So nothing is predicted on doubt:
// the log must give the TPM's present value, and what is known of the present must give the
// log's digests, before a prediction is given at all. Everything else is a *Doubt that names
// the event. The caller does not write a variable then.
//
// The package is pure. It sees no TPM, no variables and no files.
package pcr

import (
	"crypto/sha256"
	"fmt"
)

// Value is a register of the bank of SHA-256, or a digest that extends it.
type Value = [sha256.Size]byte

// Event is one entry of the log; the fields are those of the adapter that reads it.
type Event struct {
	// PCR is the register that was extended.
	PCR int
	// Type is the event type of the TCG's specification.
	Type uint32
	// Data describes what was measured; for most types the digest is not over it.
	Data []byte
	// SHA256 is what the register was extended with.
	SHA256 Value
}

// The registers that are predicted.
const (
	// Programs is the register of what the firmware starts.
	Programs = 4
	// Policy is the register of Secure Boot.
	Policy = 7
)

// Event types of the TCG PC Client Platform Firmware Profile.
const (
	evNoAction    = 0x00000003
	evVariable    = 0x80000001 // EV_EFI_VARIABLE_DRIVER_CONFIG
	evApplication = 0x80000003 // EV_EFI_BOOT_SERVICES_APPLICATION
	evAuthority   = 0x800000e0 // EV_EFI_VARIABLE_AUTHORITY
)

// maxEvents bounds how many events of one register are looked at. Real logs have below 100.
const maxEvents = 512

// Prediction is what a register is and will be.
type Prediction struct {
	// PCR is the register.
	PCR int
	// Present is its value now: that of the TPM.
	Present Value
	// Next is its value after the next start. It is Present when nothing changes.
	Next Value
	// Changes are the events that will be different, in the order of the log.
	Changes []Change
}

// Change is one event of the next start that differs from this one's.
type Change struct {
	// Event is its number in the log of this start, from 1.
	Event int
	// Object is the variable or the program, as "db" or "/efi/linux/".
	Object string
	// Before is the digest of this start, nil when the event is added.
	Before *Value
	// After is the digest of the next start, nil when the event is left out.
	After *Value
}

// Doubt means that a register cannot be predicted.
type Doubt struct {
	// PCR is the register.
	PCR int
	// Event is the number of the event in the log, from 1; 0 when no single one is to blame.
	Event int
	// Reason says what does not fit, and how to go on where that is known.
	Reason string
}

func (d *Doubt) Error() string {
	if d.Event == 0 {
		return fmt.Sprintf("predicting PCR %d: %s", d.PCR, d.Reason)
	}
	return fmt.Sprintf("predicting PCR %d: event %d of the log: %s", d.PCR, d.Event, d.Reason)
}

// entry is an event of the register at hand, with its number in the log.
type entry struct {
	Event
	number int
}

// entries gives the measured events of one register.
func entries(log []Event, register int) ([]entry, error) {
	var list []entry
	for i, e := range log {
		if e.PCR != register || e.Type == evNoAction {
			continue
		}
		if len(list) == maxEvents {
			return nil, &Doubt{PCR: register, Event: i + 1, Reason: fmt.Sprintf("the log has more than %d events of this register", maxEvents)}
		}
		list = append(list, entry{Event: e, number: i + 1})
	}
	return list, nil
}

// extend gives the value of a register that started at zero.
func extend(digests []Value) Value {
	var value Value
	for _, d := range digests {
		value = sha256.Sum256(append(value[:], d[:]...))
	}
	return value
}

func digestsOf(list []entry) []Value {
	digests := make([]Value, 0, len(list))
	for _, e := range list {
		digests = append(digests, e.SHA256)
	}
	return digests
}

// Check finds out whether the log gives the value that the TPM has. When it does not, the
// *Doubt names the event, if leaving it out, or taking its data at its word, or reading no
// further than it, makes the log right.
func Check(log []Event, register int, actual Value) error {
	list, err := entries(log, register)
	if err != nil {
		return err
	}
	digests := digestsOf(list)
	if extend(digests) == actual {
		return nil
	}
	doubt := &Doubt{PCR: register, Reason: "the log does not give the value that the TPM has; " +
		"it may be cut off, or the firmware measured what it did not log. Look for a firmware update; until then bind the volumes anew after the restart"}
	for n := range digests {
		var why string
		switch {
		case extend(digests[:n]) == actual:
			why = "the TPM was extended only up to the event before this one; the log is longer than what was measured"
		case extend(without(digests, n)) == actual:
			why = "the TPM was not extended with this event, which the log has"
		case extend(replaced(digests, n, sha256.Sum256(list[n].Data))) == actual:
			why = "the TPM was extended with the hash of the event's data, the log has another digest"
		default:
			continue
		}
		return &Doubt{PCR: register, Event: list[n].number, Reason: why}
	}
	return doubt
}

func without(digests []Value, n int) []Value {
	return append(append([]Value(nil), digests[:n]...), digests[n+1:]...)
}

func replaced(digests []Value, n int, with Value) []Value {
	changed := append([]Value(nil), digests...)
	changed[n] = with
	return changed
}

// made is an event of a start as it was worked out: the logged one it stands for and what
// it is about.
type made struct {
	entry  entry
	object string
	// digest is what the register would be extended with; none for an event left out.
	digests []Value
}

func flatten(list []made) []Value {
	var digests []Value
	for _, m := range list {
		digests = append(digests, m.digests...)
	}
	return digests
}

// compare gives what differs from the log.
func compare(list []made) []Change {
	var changes []Change
	for _, m := range list {
		before := m.entry.SHA256
		change := Change{Event: m.entry.number, Object: m.object}
		if len(m.digests) == 0 {
			change.Before = &before
			changes = append(changes, change)
		}
		for i, after := range m.digests {
			if i == 0 && after == before {
				continue
			}
			change.After = &after
			if change.Before = nil; i == 0 {
				change.Before = &before
			}
			changes = append(changes, change)
		}
	}
	return changes
}
