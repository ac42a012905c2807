package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Limits of an event log. Those of servers have some hundred events and 50 to 200 KiB; a
// single event can be a whole variable dbx.
const (
	maxLog    = 8 << 20
	maxEvents = 8192
	maxEvent  = 1 << 20
	maxBanks  = 16
)

// Types of events that replaying has to know; the rest are measured as they are. The
// numbers are those of the TCG PC Client Platform Firmware Profile.
const (
	evNoAction  = 0x00000003
	algSHA256   = 0x000b
	specID      = "Spec ID Event03\x00"
	startupMark = "StartupLocality\x00"
)

// Event is one entry of the firmware's log.
type Event struct {
	// PCR is the register that was extended.
	PCR int
	// Type is the event type of the TCG's specification.
	Type uint32
	// Data describes what was measured; for most types the digest is not over it.
	Data []byte
	// SHA256 is what the register was extended with.
	SHA256 [32]byte
}

// Log is the firmware's record of what it measured, in order. It is not protected: a log
// can be believed as far as its replay gives the values of the TPM.
type Log []Event

// ErrNoLog means that the firmware handed no event log to the kernel.
var ErrNoLog = errors.New("the firmware gave the kernel no event log")

// EventLog reads the log of this start. A machine without one is ErrNoLog.
func (h Host) EventLog() (events Log, err error) {
	path := filepath.Join(h.Root, "sys/kernel/security/tpm0/binary_bios_measurements")
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading the event log of the TPM: %w", err)
		}
	}()
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoLog
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxLog+1))
	if err != nil {
		return nil, err
	}
	return ParseLog(data)
}

// ParseLog reads a log in the crypto-agile form of TPM 2.0. It wants a bank of SHA-256;
// other banks are skipped.
func ParseLog(data []byte) (Log, error) {
	if len(data) > maxLog {
		return nil, fmt.Errorf("it has more than %d bytes", maxLog)
	}
	if len(data) == 0 {
		return nil, ErrNoLog
	}
	r := &reader{data: data}
	sizes, err := r.header()
	if err != nil {
		return nil, fmt.Errorf("its header: %w", err)
	}
	var events Log
	for len(r.data) > 0 {
		if len(events) == maxEvents {
			return nil, fmt.Errorf("it has more than %d events", maxEvents)
		}
		event, err := r.event(sizes)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(events)+1, err)
		}
		events = append(events, event)
	}
	return events, nil
}

// reader takes little-endian fields from the front of its data. After the first error it
// gives zeros.
type reader struct {
	data []byte
	err  error
}

func (r *reader) bytes(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.data)) {
		r.err = io.ErrUnexpectedEOF
	}
	if r.err != nil {
		return nil
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// body reads the size of an event and its data.
func (r *reader) body() []byte {
	size := r.u32()
	if r.err == nil && size > maxEvent {
		r.err = fmt.Errorf("it has %d bytes, at most %d are read", size, maxEvent)
		return nil
	}
	return r.bytes(int(size))
}

// header reads the first entry, which still has the form of TPM 1.2 and names the banks;
// it gives the size of their digests.
func (r *reader) header() (map[uint16]int, error) {
	r.u32() // PCR
	kind := r.u32()
	r.bytes(20) // SHA-1
	body := r.body()
	if r.err != nil {
		return nil, r.err
	}
	inner := &reader{data: body}
	if kind != evNoAction || !bytes.Equal(inner.bytes(len(specID)), []byte(specID)) {
		return nil, errors.New("this is not a log of TPM 2.0: only logs with a bank of SHA-256 can be read")
	}
	inner.bytes(8) // platform class, version, size of a UINTN
	count := inner.u32()
	if inner.err == nil && (count == 0 || count > maxBanks) {
		inner.err = fmt.Errorf("it names %d banks, 1 to %d are possible", count, maxBanks)
	}
	if inner.err != nil {
		return nil, inner.err
	}
	sizes := map[uint16]int{}
	for range count {
		algorithm, size := inner.u16(), inner.u16()
		sizes[algorithm] = int(size)
	}
	if inner.err != nil {
		return nil, inner.err
	}
	if sizes[algSHA256] != sha256.Size {
		return nil, errors.New("it has no bank of SHA-256: switch that bank on in the firmware's setup")
	}
	return sizes, nil
}

// event reads one entry in the form of TPM 2.0.
func (r *reader) event(sizes map[uint16]int) (Event, error) {
	event := Event{PCR: int(r.u32()), Type: r.u32()}
	count := r.u32()
	if r.err == nil && count > maxBanks {
		return Event{}, fmt.Errorf("it has %d digests, at most %d are possible", count, maxBanks)
	}
	found := false
	for range count {
		algorithm := r.u16()
		size, known := sizes[algorithm]
		if r.err == nil && !known {
			return Event{}, fmt.Errorf("it has a digest of algorithm %#x, which the header does not name", algorithm)
		}
		digest := r.bytes(size)
		if algorithm == algSHA256 && len(digest) == sha256.Size {
			event.SHA256, found = [32]byte(digest), true
		}
	}
	event.Data = bytes.Clone(r.body())
	switch {
	case r.err != nil:
		return Event{}, r.err
	case event.PCR < 0 || event.PCR >= PCRCount:
		return Event{}, fmt.Errorf("it is for PCR %d, there are 0 to %d", event.PCR, PCRCount-1)
	case !found:
		return Event{}, errors.New("it has no digest of SHA-256")
	}
	return event, nil
}

// Replay extends registers with a log as the TPM did, and gives their values by number;
// registers without an event are left out.
func Replay(log Log) map[int][32]byte {
	values := map[int][32]byte{}
	for _, event := range log {
		value := values[event.PCR]
		if event.Type == evNoAction {
			// Who started the TPM is the only such entry that shows in a register.
			if locality, ok := startupLocality(event); ok {
				values[0] = [32]byte{31: locality}
			}
			continue
		}
		values[event.PCR] = sha256.Sum256(append(value[:], event.SHA256[:]...))
	}
	return values
}

// startupLocality gives the locality that PCR 0 began with.
func startupLocality(event Event) (byte, bool) {
	rest, ok := bytes.CutPrefix(event.Data, []byte(startupMark))
	if !ok || event.PCR != 0 || len(rest) != 1 {
		return 0, false
	}
	return rest[0], true
}

// Debug gives the events of PCRs 4, 7 and 11 as the API shows them, with the values of
// the TPM beside those of the log.
func (h Host) Debug() (osapi.DebugEventLog, error) {
	events, err := h.EventLog()
	if err != nil {
		return osapi.DebugEventLog{}, err
	}
	shown := osapi.DebugEventLog{EventLog: []osapi.DebugEvent{}}
	for _, e := range events {
		if e.PCR == 4 || e.PCR == 7 || e.PCR == 11 {
			shown.EventLog = append(shown.EventLog, osapi.DebugEvent{Index: e.PCR, Type: e.Type, Data: e.Data, Digest: e.SHA256[:]})
		}
	}
	replayed := Replay(events)
	for _, register := range []struct {
		number         int
		here, replayed *string
	}{{4, &shown.PCR4, &shown.PCR4Replayed}, {7, &shown.PCR7, &shown.PCR7Replayed}} {
		value, err := h.PCR(register.number)
		if err != nil {
			return osapi.DebugEventLog{}, err
		}
		*register.here = hex.EncodeToString(value[:])
		again := replayed[register.number]
		*register.replayed = hex.EncodeToString(again[:])
	}
	return shown, nil
}
