package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/test/needs"
)

// The types of events in these tests, by their names in the specification.
const (
	evSeparator = 0x04
	evAction    = 0x05
	evNoAction  = 0x03
)

// logText writes a log in the form of the specification: a SHA-1 bank beside SHA-256.
type logText struct{ bytes.Buffer }

func (l *logText) number(values ...any) {
	for _, v := range values {
		if err := binary.Write(l, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
}

func newLog() *logText {
	var head logText
	head.WriteString("Spec ID Event03\x00")
	head.number(uint32(0), uint8(0), uint8(2), uint8(0), uint8(2)) // class, version 2.0 errata 0, UINTN of 8 bytes
	head.number(uint32(2), uint16(0x04), uint16(20), uint16(0x0b), uint16(32), uint8(0))
	l := &logText{}
	l.number(uint32(0), uint32(evNoAction), [20]byte{}, uint32(head.Len()))
	l.Write(head.Bytes())
	return l
}

// add writes an event whose digest is over its data.
func (l *logText) add(pcr int, kind uint32, data string) *logText {
	return l.measured(pcr, kind, data, sha256.Sum256([]byte(data)))
}

func (l *logText) measured(pcr int, kind uint32, data string, digest [32]byte) *logText {
	l.number(uint32(pcr), kind, uint32(2), uint16(0x04), [20]byte{1, 2, 3}, uint16(0x0b), digest, uint32(len(data)))
	l.WriteString(data)
	return l
}

// small has a locality, an event that is not measured, and two registers.
func small() *logText {
	return newLog().
		measured(0, evNoAction, "StartupLocality\x00\x03", [32]byte{}).
		add(0, evAction, "start").
		add(7, evSeparator, "\x00\x00\x00\x00").
		add(4, evAction, "Calling EFI Application from Boot Option").
		measured(4, evNoAction, "not measured", [32]byte{9}).
		add(4, evSeparator, "\x00\x00\x00\x00")
}

// A node says "pcr mismatch" from this arithmetic; a wrong one sends a person to look for
// a recovery key for nothing. The values were worked out with another program.
func TestReplay_Log_GivesTheRegistersOfTheTPM(t *testing.T) {
	log, err := tpm.ParseLog(small().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]string{}
	for number, value := range tpm.Replay(log) {
		got[number] = hex.EncodeToString(value[:])
	}
	want := map[int]string{
		0: "be616b632081f87716d879d50c52e67f975a67542c98670c32195b35a7ae742d",
		4: "7a94ffe8a7729a566d3d3c577fcb4b6b1e671f31540375f80eae6382ab785e35",
		7: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The same log, read by the tools of the TPM's own project: a mistake that this parser and
// the log of these tests have in common would show here.
func TestReplay_Log_AgreesWithTPM2Tools(t *testing.T) {
	tree := needs.Tree(t, "tpm2_eventlog")
	path := filepath.Join(t.TempDir(), "log")
	// tpm2_eventlog looks into the data of some types, so these are types that it does not.
	raw := small().add(5, evAction, "Exit Boot Services Invocation").Bytes()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	result, err := run.Host(t.Context(), tree.Command("tpm2_eventlog", path))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(result.Stdout), "pcrs:")
	_, section, _ = strings.Cut(section, "sha256:")
	want := map[string]string{}
	for _, found := range regexp.MustCompile(`(\d+)\s*:\s*0x([0-9a-f]{64})`).FindAllStringSubmatch(section, -1) {
		want[found[1]] = found[2]
	}
	log, err := tpm.ParseLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for number, value := range tpm.Replay(log) {
		key, err := json.Marshal(number)
		if err != nil {
			t.Fatal(err)
		}
		got[string(key)] = hex.EncodeToString(value[:])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Firmware writes the log, and firmware has bugs: what is damaged is said, with the place.
func TestParseLog_Damaged_SaysWhere(t *testing.T) {
	raw := small().Bytes()
	patched := func(at int, with byte) []byte {
		c := bytes.Clone(raw)
		c[at] = with
		return c
	}
	const first = 32 + 16 + 8 + 4 + 8 + 1 // where the first event begins
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"cut in the header":  {raw[:40], "its header: unexpected EOF"},
		"cut in an event":    {raw[:first+10], "event 1: unexpected EOF"},
		"old form":           {patched(32, 'X'), "its header: this is not a log of TPM 2.0: only logs with a bank of SHA-256 can be read"},
		"no bank":            {patched(first-5, 0x0c), "its header: it has no bank of SHA-256: switch that bank on in the firmware's setup"},
		"register":           {patched(first, 24), "event 1: it is for PCR 24, there are 0 to 23"},
		"number of digests":  {patched(first+9, 1), "event 1: it has 258 digests, at most 16 are possible"},
		"unknown bank":       {patched(first+12, 5), "event 1: it has a digest of algorithm 0x5, which the header does not name"},
		"size of an event":   {patched(first+12+22+34+3, 1), "event 1: it has 16777233 bytes, at most 1048576 are read"},
		"size of the log":    {make([]byte, 8<<20+1), "it has more than 8388608 bytes"},
		"number of banks":    {patched(56, 17), "its header: it names 17 banks, 1 to 16 are possible"},
		"digest left out":    {newLog().Bytes()[:first:first], ""},
		"one digest, SHA-1":  {append(newLog().Bytes(), append([]byte{0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 4, 0}, make([]byte, 24)...)...), "event 1: it has no digest of SHA-256"},
		"more than too many": {tooMany(), "it has more than 8192 events"},
	} {
		_, err := tpm.ParseLog(c.data)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := tpm.ParseLog(nil); !errors.Is(err, tpm.ErrNoLog) {
		t.Errorf("an empty log: got %v", err)
	}
}

func tooMany() []byte {
	l := newLog()
	for range 8193 {
		l.add(1, evAction, "")
	}
	return l.Bytes()
}

// withLog gives a machine with a TPM that has the values of a log, but for those given.
func withLog(t *testing.T, raw []byte, other map[int]byte) tpm.Host {
	t.Helper()
	log, err := tpm.ParseLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	values := tpm.Replay(log)
	for number, name := range map[int]string{4: "pcr-sha256/4", 7: "pcr-sha256/7"} {
		value := values[number]
		if first, found := other[number]; found {
			value[0] = first
		}
		files[name] = strings.ToUpper(hex.EncodeToString(value[:])) + "\n"
	}
	host := machine(t, "pnp0/00:05", files)
	dir := filepath.Join(host.Root, "sys/kernel/security/tpm0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "binary_bios_measurements"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return host
}

func TestEventLog_NoLog_IsNamed(t *testing.T) {
	if _, err := (tpm.Host{Root: t.TempDir()}).EventLog(); !errors.Is(err, tpm.ErrNoLog) {
		t.Errorf("got %v", err)
	}
}

// Clients of IncusOS read these names.
func TestDebug_Machine_ShowsEventsAndBothValues(t *testing.T) {
	got, err := withLog(t, newLog().add(1, evAction, "left out").add(7, evSeparator, "\x00\x00\x00\x00").Bytes(), nil).Debug()
	if err != nil {
		t.Fatal(err)
	}
	const zero, pcr7 = "0000000000000000000000000000000000000000000000000000000000000000", "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
	separator := sha256.Sum256(make([]byte, 4))
	want := osapi.DebugEventLog{
		EventLog: []osapi.DebugEvent{{Index: 7, Type: 4, Data: make([]byte, 4), Digest: separator[:]}},
		PCR4:     zero, PCR4Replayed: zero, PCR7: pcr7, PCR7Replayed: pcr7,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	raw, err := json.Marshal(got.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	wantJSON := `[{"Index":7,"Type":4,"Data":"AAAAAA==","Digest":"3z9hmASpL9tAVxktxD3XSOp3itxSvEmM6AUkwBS4ERk="}]`
	if diff := cmp.Diff(wantJSON, string(raw)); diff != "" {
		t.Error(diff)
	}
}

// The log comes from firmware and is read by root: nothing in it may end the daemon, and
// what is read must not be larger than what was there.
func FuzzParseLog(f *testing.F) {
	f.Add(small().Bytes())
	f.Add(newLog().Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := tpm.ParseLog(data)
		if err != nil {
			if log != nil {
				t.Error("a log and an error")
			}
			return
		}
		size := 0
		for _, event := range log {
			size += len(event.Data) + len(event.SHA256)
			if event.PCR < 0 || event.PCR >= tpm.PCRCount {
				t.Errorf("PCR %d", event.PCR)
			}
		}
		if size > len(data) {
			t.Errorf("%d bytes were read of %d", size, len(data))
		}
		tpm.Replay(log)
	})
}
