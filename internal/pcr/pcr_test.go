package pcr_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
)

// The types of events, by their names in the specification.
const (
	evNoAction    = 0x00000003
	evSeparator   = 0x00000004
	evAction      = 0x80000007
	evVariable    = 0x80000001
	evApplication = 0x80000003
	evAuthority   = 0x800000e0
)

// The vendors of the variables, as firmware writes them.
const (
	global = "61dfe48bca93d211aa0d00e098032b8c"
	image  = "cbb219d73a3d9645a3bcdad00e67656f"
)

// firmware writes a log as a start of a machine would.
type firmware struct {
	log []pcr.Event
}

func (f *firmware) measured(register int, kind uint32, data string, digest [32]byte) *firmware {
	f.log = append(f.log, pcr.Event{PCR: register, Type: kind, Data: []byte(data), SHA256: digest})
	return f
}

func (f *firmware) event(register int, kind uint32, data string) *firmware {
	return f.measured(register, kind, data, sha256.Sum256([]byte(data)))
}

func variable(vendor, name, content string) string {
	var b strings.Builder
	raw, err := hex.DecodeString(vendor)
	if err != nil {
		panic(err)
	}
	b.Write(raw)
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(name))))
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(content))))
	b.WriteString(wide(name))
	b.WriteString(content)
	return b.String()
}

func wide(text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return string(b)
}

// node is a media device path node.
func node(kind byte, body string) string {
	return string([]byte{4, kind, byte(4 + len(body)), 0}) + body
}

const endNode = "\x7f\xff\x04\x00"

// file is the device path of a file on the ESP; the first node is the partition.
func file(path string) string {
	return node(1, strings.Repeat("p", 38)) + node(4, wide(path)+"\x00\x00") + endNode
}

const stubGUID = "\xf8\xd1\xc5\x55\xcd\x04\xb5\x46\x8a\x20\xe5\x6c\xbb\x30\x52\xd0"

func program(path string) string {
	head := strings.Repeat("\x00", 24)
	return head + string(binary.LittleEndian.AppendUint64(nil, uint64(len(path)))) + path
}

// machine is what differs between starts.
type machine struct {
	db, dbx         string
	loaderBy, ukiBy string // entries of db
	loader, uki     string
	kernel          string
}

func hash(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// start is a start of this machine: register 7 and register 4 mixed, as they come. An entry
// of db is measured when it is first used; the option ROM's key comes before the loader.
func (m machine) start() *firmware {
	f := (&firmware{}).event(0, evAction, "firmware").measured(7, evNoAction, "note", [32]byte{1})
	for _, v := range []struct{ vendor, name, content string }{
		{global, "SecureBoot", "\x01"}, {global, "PK", "the platform key"}, {global, "KEK", "the exchange key"},
		{image, "db", m.db}, {image, "dbx", m.dbx},
	} {
		f.event(7, evVariable, variable(v.vendor, v.name, v.content))
	}
	f.event(7, evSeparator, "\x00\x00\x00\x00").event(7, evAuthority, variable(image, "db", "owner...........rom vendor"))
	f.event(4, evAction, "Calling EFI Application from Boot Option").event(4, evSeparator, "\x00\x00\x00\x00")
	f.event(7, evAuthority, variable(image, "db", m.loaderBy))
	f.measured(4, evApplication, program(file(`\EFI\systemd\systemd-bootx64.efi`)), hash(m.loader))
	if m.ukiBy != m.loaderBy {
		f.event(7, evAuthority, variable(image, "db", m.ukiBy))
	}
	f.measured(4, evApplication, program(file(`\EFI\Linux\Holdfast_202611220104+2-1.efi`)), hash(m.uki))
	f.measured(4, evApplication, program(node(3, stubGUID)+endNode), hash(m.kernel))
	f.event(4, evAction, "Exit Boot Services Invocation")
	return f
}

func (m machine) secureBoot() pcr.SecureBoot {
	return pcr.SecureBoot{
		Variables: map[string][]byte{
			"SecureBoot": {1}, "PK": []byte("the platform key"), "KEK": []byte("the exchange key"), "db": []byte(m.db), "dbx": []byte(m.dbx),
		},
		Authorities: [][]byte{[]byte(m.loaderBy), []byte(m.ukiBy)},
	}
}

func (m machine) started() pcr.Started {
	return pcr.Started{
		Loaders: map[string]pcr.Value{"EFI/systemd/systemd-bootx64.efi": hash(m.loader), "EFI/BOOT/BOOTX64.EFI": hash(m.loader)},
		UKI:     hash(m.uki), Kernel: hash(m.kernel),
	}
}

// value is what the TPM has after a log: worked out by the code that checks real TPMs.
func value(f *firmware, register int) pcr.Value {
	var log tpm.Log
	for _, e := range f.log {
		log = append(log, tpm.Event(e))
	}
	return tpm.Replay(log)[register]
}

const ours, next, rom = "owner...........our key", "owner...........next key", "owner...........rom vendor"

var today = machine{db: "db", dbx: "dbx", loaderBy: ours, ukiBy: ours, loader: "loader", uki: "uki", kernel: "kernel"}

// A disk is bound to what the next start measures, before anything is written: a wrong
// value here is a node that asks for its recovery key.
func TestNextPolicy_Change_GivesWhatTheNextStartMeasures(t *testing.T) {
	for name, change := range map[string]func(m *machine){
		"nothing":                         func(*machine) {},
		"dbx grows":                       func(m *machine) { m.dbx = "dbx and one more" },
		"dbx first filled":                func(m *machine) { m.dbx = "" },
		"db grows":                        func(m *machine) { m.db = "db and the next key" },
		"loader by the next key":          func(m *machine) { m.loaderBy = next },
		"UKI by the next key":             func(m *machine) { m.ukiBy = next },
		"both by the next key":            func(m *machine) { m.loaderBy, m.ukiBy = next, next },
		"loader by the ROM vendor's key":  func(m *machine) { m.loaderBy = rom },
		"new dbx and both by the next":    func(m *machine) { m.dbx, m.loaderBy, m.ukiBy = "new", next, next },
		"loader and UKI by different new": func(m *machine) { m.loaderBy, m.ukiBy = next, "owner...........third key" },
	} {
		t.Run(name, func(t *testing.T) {
			then := today
			change(&then)
			start, coming := today.start(), then.start()
			if then.loaderBy == rom { // measured already, so the firmware does not do it again
				coming.log = deleteEvents(coming.log, 7, evAuthority, 1)
			}
			got, err := pcr.NextPolicy(start.log, value(start, 7), today.secureBoot(), then.secureBoot())
			if err != nil {
				t.Fatal(err)
			}
			if want := value(coming, 7); got.Next != want {
				t.Errorf("got %x, the next start gives %x", got.Next, want)
			}
			if got.Present != value(start, 7) || (got.Next == got.Present) != (len(got.Changes) == 0) {
				t.Errorf("present %x, %d changes", got.Present, len(got.Changes))
			}
		})
	}
}

// deleteEvents leaves out the n-th event of a kind.
func deleteEvents(log []pcr.Event, register int, kind uint32, n int) []pcr.Event {
	var kept []pcr.Event
	for _, e := range log {
		if e.PCR == register && e.Type == kind {
			if n--; n == -1 {
				continue
			}
		}
		kept = append(kept, e)
	}
	return kept
}

// A node that was started by two keys goes on with one, and the other way round.
func TestNextPolicy_TwoKeysBecomeOne_LeavesTheSecondOut(t *testing.T) {
	two := today
	two.ukiBy = next
	then := two
	then.loaderBy = next
	start := two.start()
	got, err := pcr.NextPolicy(start.log, value(start, 7), two.secureBoot(), then.secureBoot())
	if err != nil || got.Next != value(then.start(), 7) {
		t.Fatalf("got %x, %v", got.Next, err)
	}
	before, after, second := sha256.Sum256([]byte(variable(image, "db", ours))), sha256.Sum256([]byte(variable(image, "db", next))), sha256.Sum256([]byte(variable(image, "db", next)))
	want := []pcr.Change{{Event: 12, Object: "the key of a program", Before: &before, After: &after}, {Event: 14, Object: "the key of a program", Before: &second}}
	if diff := cmp.Diff(want, got.Changes); diff != "" {
		t.Error(diff)
	}
}

// Digests that the logs of many machines show, and that were not made by this program.
func TestVariable_SecureBoot_HasTheDigestOfEveryMachine(t *testing.T) {
	vendor, err := hex.DecodeString(global)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, content := range map[string][]byte{"on": {1}, "off": {0}} {
		sum := sha256.Sum256(pcr.Variable{Vendor: [16]byte(vendor), Name: "SecureBoot", Data: content}.Encode())
		got[name] = hex.EncodeToString(sum[:])
	}
	want := map[string]string{
		"on":  "ccfc4bb32888a345bc8aeadaba552b627d99348c767681ab3141f5b01e40a40e",
		"off": "115aa827dbccfb44d216ad9ecfda56bdea620b860a94bed5b7a27bba1c4d02d8",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// On doubt nothing is written: each of these is a machine whose next value cannot be known,
// and the error names the event that a person has to look at.
func TestNextPolicy_Doubt_NamesTheEvent(t *testing.T) {
	then := today
	then.dbx = "new"
	for name, c := range map[string]struct {
		change func(f *firmware, before, after *pcr.SecureBoot)
		actual func(f *firmware) pcr.Value
		want   pcr.Doubt
	}{
		"the log is cut off": {
			change: func(f *firmware, _, _ *pcr.SecureBoot) { f.log = f.log[:9] },
			actual: func(*firmware) pcr.Value { return value(today.start(), 7) },
			want:   pcr.Doubt{PCR: 7},
		},
		"the log has one event too many": {
			change: func(f *firmware, _, _ *pcr.SecureBoot) { f.event(7, evAction, "never measured") },
			actual: func(*firmware) pcr.Value { return value(today.start(), 7) },
			want:   pcr.Doubt{PCR: 7, Event: 17},
		},
		"the log has an event in the middle that was not measured": {
			change: func(f *firmware, _, _ *pcr.SecureBoot) {
				f.log = append(f.log[:4:4], append([]pcr.Event{{PCR: 7, Type: evAction}}, f.log[4:]...)...)
			},
			actual: func(*firmware) pcr.Value { return value(today.start(), 7) },
			want:   pcr.Doubt{PCR: 7, Event: 5},
		},
		"a digest is not what was measured": {
			change: func(f *firmware, _, _ *pcr.SecureBoot) { f.log[5].SHA256[0] ^= 1 },
			actual: func(*firmware) pcr.Value { return value(today.start(), 7) },
			want:   pcr.Doubt{PCR: 7, Event: 6},
		},
		"a variable was written since the start": {
			change: func(_ *firmware, before, after *pcr.SecureBoot) {
				before.Variables["db"], after.Variables["db"] = []byte("written"), []byte("written")
			},
			want: pcr.Doubt{PCR: 7, Event: 6},
		},
		"the firmware measures dbx in its own way": {
			change: func(f *firmware, _, _ *pcr.SecureBoot) { f.log[6].SHA256 = hash("its own way") },
			want:   pcr.Doubt{PCR: 7, Event: 7},
		},
		"no event for dbx": {
			change: func(f *firmware, _, _ *pcr.SecureBoot) { f.log = deleteEvents(f.log, 7, evVariable, 4) },
			want:   pcr.Doubt{PCR: 7},
		},
		"Secure Boot itself is switched": {
			change: func(_ *firmware, _, after *pcr.SecureBoot) { after.Variables["SecureBoot"] = []byte{0} },
			want:   pcr.Doubt{PCR: 7, Event: 3},
		},
		"the loader's key was not measured": {
			change: func(f *firmware, before, after *pcr.SecureBoot) {
				before.Authorities[0], after.Authorities[0] = []byte("owner...........not that"), []byte(next)
			},
			want: pcr.Doubt{PCR: 7, Event: 12},
		},
		"the same entry of db twice": {
			change: func(f *firmware, _, after *pcr.SecureBoot) {
				f.event(7, evAuthority, variable(image, "db", ours))
				after.Authorities = [][]byte{[]byte(next), []byte(next)}
			},
			want: pcr.Doubt{PCR: 7, Event: 17},
		},
		"a program more": {
			change: func(_ *firmware, _, after *pcr.SecureBoot) { after.Authorities = after.Authorities[:1] },
			want:   pcr.Doubt{PCR: 7},
		},
	} {
		t.Run(name, func(t *testing.T) {
			start, before, after := today.start(), today.secureBoot(), then.secureBoot()
			c.change(start, &before, &after)
			actual := value(start, 7)
			if c.actual != nil {
				actual = c.actual(start)
			}
			_, err := pcr.NextPolicy(start.log, actual, before, after)
			var got *pcr.Doubt
			if !errors.As(err, &got) {
				t.Fatalf("got %v", err)
			}
			if got.Reason == "" {
				t.Error("no reason")
			}
			if diff := cmp.Diff(c.want, pcr.Doubt{PCR: got.PCR, Event: got.Event}); diff != "" {
				t.Errorf("%s\n%v", diff, got)
			}
		})
	}
}

// Boards log what is not in the specification. As long as that is not what changes, it is
// reused as it was measured.
func TestNextPolicy_OddButUnchanged_IsReused(t *testing.T) {
	then := today
	then.dbx = "new"
	for name, change := range map[string]func(f *firmware){
		"a variable that cannot be read":       func(f *firmware) { f.event(7, evVariable, "too short") },
		"a variable with an endless name":      func(f *firmware) { f.event(7, evVariable, strings.Repeat("\xff", 40)) },
		"a variable of the vendor's own":       func(f *firmware) { f.event(7, evVariable, variable(image, "VendorKeys", "x")) },
		"db of another vendor":                 func(f *firmware) { f.event(7, evVariable, variable(global, "db", "x")) },
		"debug mode":                           func(f *firmware) { f.event(7, evAction, "UEFI Debug Mode") },
		"PK measured in its own way":           func(f *firmware) { f.log[3].SHA256 = hash("its own way") },
		"a byte too many behind dbx":           func(f *firmware) { f.log[6].Data = append(f.log[6].Data, 0) },
		"SbatLevel of a shim":                  func(f *firmware) { f.event(7, evAuthority, variable(global, "SbatLevel", "sbat,1")) },
		"another order: the separator is last": func(f *firmware) { f.log = append(append(f.log[:7:7], f.log[8:]...), f.log[7]) },
	} {
		t.Run(name, func(t *testing.T) {
			start, coming := today.start(), then.start()
			change(start)
			change(coming)
			got, err := pcr.NextPolicy(start.log, value(start, 7), today.secureBoot(), then.secureBoot())
			if err != nil {
				t.Fatal(err)
			}
			if want := value(coming, 7); got.Next != want {
				t.Errorf("got %x, the next start gives %x", got.Next, want)
			}
		})
	}
}

// Without Secure Boot a disk is bound to the programs, and each release changes them. Two
// releases in a row before one restart: it is the second that starts.
func TestNextPrograms_NewRelease_GivesWhatTheNextStartMeasures(t *testing.T) {
	for name, change := range map[string]func(m *machine){
		"nothing":               func(*machine) {},
		"new UKI":               func(m *machine) { m.uki = "uki 2" },
		"new UKI and kernel":    func(m *machine) { m.uki, m.kernel = "uki 2", "kernel 2" },
		"and a new boot loader": func(m *machine) { m.uki, m.kernel, m.loader = "uki 3", "kernel 3", "loader 2" },
	} {
		for odd, change2 := range map[string]func(f *firmware){
			"":                   func(*firmware) {},
			", no Calling event": func(f *firmware) { f.log = deleteEvents(f.log, 4, evAction, 0) },
			", small letters":    func(f *firmware) { lower(f) },
			", no device paths":  func(f *firmware) { noPaths(f) },
			", an add-on": func(f *firmware) {
				f.event(4, evApplication, program(file(`\EFI\Linux\Holdfast.efi.extra.d\x.addon.efi`)))
			},
			", firmware's menu": func(f *firmware) { f.event(4, evApplication, program(node(6, "sixteen bytes...")+endNode)) },
		} {
			t.Run(name+odd, func(t *testing.T) {
				then := today
				change(&then)
				start, coming := today.start(), then.start()
				change2(start)
				change2(coming)
				got, err := pcr.NextPrograms(start.log, value(start, 4), today.started(), then.started())
				if err != nil {
					t.Fatal(err)
				}
				if want := value(coming, 4); got.Next != want {
					t.Errorf("got %x, the next start gives %x", got.Next, want)
				}
			})
		}
	}
}

func lower(f *firmware) {
	for i, e := range f.log {
		if e.Type == evApplication {
			f.log[i].Data = []byte(strings.ToLower(string(e.Data)))
		}
	}
	// The GUID of the stub is no text.
	for i, e := range f.log {
		if strings.Contains(string(e.Data), strings.ToLower(stubGUID)) {
			f.log[i].Data = []byte(program(node(3, stubGUID) + endNode))
		}
	}
}

func noPaths(f *firmware) {
	for i, e := range f.log {
		if e.Type == evApplication {
			f.log[i].Data = nil
		}
	}
}

// What is known of this start must be what was measured, or it is no ground for a
// prediction.
func TestNextPrograms_Doubt_NamesTheEvent(t *testing.T) {
	then := today
	then.uki = "uki 2"
	for name, c := range map[string]struct {
		change func(f *firmware, before *pcr.Started)
		want   pcr.Doubt
	}{
		"the UKI is another one":            {func(_ *firmware, b *pcr.Started) { b.UKI = hash("another") }, pcr.Doubt{PCR: 4, Event: 14}},
		"the kernel is another one":         {func(_ *firmware, b *pcr.Started) { b.Kernel = hash("another") }, pcr.Doubt{PCR: 4, Event: 15}},
		"the boot loader is another one":    {func(_ *firmware, b *pcr.Started) { b.Loaders["EFI/systemd/systemd-bootx64.efi"] = hash("another") }, pcr.Doubt{PCR: 4, Event: 13}},
		"no event for the UKI":              {func(f *firmware, _ *pcr.Started) { f.log = deleteEvents(f.log, 4, evApplication, 1) }, pcr.Doubt{PCR: 4}},
		"two loaders by their digest alone": {func(f *firmware, b *pcr.Started) { noPaths(f); b.Loaders["EFI/new.efi"] = hash("loader") }, pcr.Doubt{PCR: 4, Event: 13}},
	} {
		t.Run(name, func(t *testing.T) {
			start, before := today.start(), today.started()
			c.change(start, &before)
			then := then.started()
			then.Loaders["EFI/new.efi"] = hash("loader 2")
			_, err := pcr.NextPrograms(start.log, value(start, 4), before, then)
			var got *pcr.Doubt
			if !errors.As(err, &got) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(c.want, pcr.Doubt{PCR: got.PCR, Event: got.Event}); diff != "" {
				t.Errorf("%s\n%v", diff, got)
			}
		})
	}
}

// Logs come from firmware: whatever is in them, the answer is a prediction or a *Doubt.
func FuzzNext(f *testing.F) {
	f.Add([]byte(variable(image, "db", ours)), uint32(evAuthority))
	f.Add([]byte(variable(image, "dbx", "x")), uint32(evVariable))
	f.Add([]byte(program(file(`\EFI\Linux\x.efi`))), uint32(evApplication))
	f.Fuzz(func(t *testing.T, data []byte, kind uint32) {
		then := today
		then.dbx, then.loaderBy, then.uki = "new", next, "new"
		for _, register := range []int{4, 7} {
			start := today.start().event(register, kind, string(data))
			_, err := pcr.NextPolicy(start.log, value(start, 7), today.secureBoot(), then.secureBoot())
			_, err4 := pcr.NextPrograms(start.log, value(start, 4), today.started(), then.started())
			for _, err := range []error{err, err4} {
				var doubt *pcr.Doubt
				if err != nil && !errors.As(err, &doubt) {
					t.Errorf("got %v", err)
				}
			}
			if v, rest, err := pcr.DecodeVariable(data); err == nil && string(v.Encode())+string(rest) != string(data) && !strings.ContainsRune(v.Name, '\ufffd') {
				t.Errorf("%x is read as %+v", data, v)
			}
		}
	})
}
