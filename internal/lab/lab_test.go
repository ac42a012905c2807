package lab

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// The command line finds the node by this file; shells read it too.
func TestEnvFile_Content_IsFourPlainLines(t *testing.T) {
	want := `HOLDFAST_ENDPOINT=https://127.0.0.1:18443
HOLDFAST_CERT=/p/.lab/x/client.crt
HOLDFAST_KEY=/p/.lab/x/client.key
HOLDFAST_SERVER_CERT=/p/.lab/x/server.crt
`
	if diff := cmp.Diff(want, envFile("/p/.lab/x", state{APIPort: 18443})); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
}

// The key opens the node: nobody else on this computer may read it.
func TestClientCert_New_IsKeptAndPrivate(t *testing.T) {
	d := dir(t.TempDir())
	first, err := clientCert(d)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(d.file("client.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("client.key: %v, %v, want mode 0600", info.Mode(), err)
	}
	block, _ := pem.Decode(first)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || cert.PublicKeyAlgorithm != x509.ECDSA || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("certificate: %v, %v", cert, err)
	}
	again, err := clientCert(d)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second call made another certificate (%v)", err)
	}
}

// Whoever brings a certificate and its own medium is asked for by it, and the medium is taken
// as it is; what would have to change it is refused.
func TestUp_CertificateAndMediumGiven_AreUsedAsTheyAre(t *testing.T) {
	cert, key, err := NewClientCert(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := NewClientCert(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	u := &up{d: dir(t.TempDir()), o: Options{ClientCert: cert, ClientKey: key}}
	got, err := u.clientCert()
	if err != nil || !bytes.Equal(got, cert) {
		t.Errorf("another certificate was taken: %v", err)
	}
	if kept, err := clientCert(u.d); err != nil || !bytes.Equal(kept, cert) {
		t.Errorf("another certificate is in the folder of the lab: %v", err)
	}
	u.o.ClientKey = otherKey
	if _, err := u.clientCert(); err == nil {
		t.Error("a key of another certificate is taken")
	}
	medium := filepath.Join(t.TempDir(), "stick.img")
	if err := os.WriteFile(medium, []byte("as it is"), 0o600); err != nil {
		t.Fatal(err)
	}
	u = &up{d: dir(t.TempDir()), o: Options{Medium: medium}}
	if err := u.makeParts(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	copied, err := os.ReadFile(u.d.file("medium.raw"))
	if err != nil || string(copied) != "as it is" {
		t.Errorf("the machine's medium is %q, %v", copied, err)
	}
	for what, o := range map[string]Options{
		"a seed": {Seed: map[string]any{"install": nil}}, "a sealed one": {SealSeed: true}, "a stick": {Hardware: Hardware{SeedStick: FAT}},
		"no installation": {Hardware: Hardware{Live: true}}, "no medium": {Hardware: Hardware{NoMedium: true}},
	} {
		o.Medium = medium
		if (&up{o: o}).checkMedium() == nil {
			t.Errorf("a given medium is taken together with %s", what)
		}
	}
}

// A machine that starts over the network does so while its disks are empty, and from them
// afterwards.
func TestMachineOf_NetworkBoot_ComesBehindTheDisks(t *testing.T) {
	m := machineOf("/p/.lab/x", Hardware{NetworkBoot: true, NoMedium: true, Taps: []string{"hf0"}, DiskGiB: []int{20, 1}}, qemu.TCG, 1)
	got := []int{m.TapBootIndex}
	for _, disk := range m.Disks {
		got = append(got, disk.BootIndex)
	}
	if diff := cmp.Diff([]int{2, 0, 1}, got); diff != "" {
		t.Errorf("the places of card and disks (-want +got):\n%s", diff)
	}
}

// A name becomes a folder: it must not lead out of .lab.
func TestDir_BadNames_AreRefused(t *testing.T) {
	l := &Lab{root: "/p"}
	for _, name := range []string{"..", ".", "a/b", "../x", "-x", strings.Repeat("a", 65)} {
		if d, err := l.dir(name); err == nil {
			t.Errorf("%q became %s", name, d)
		}
	}
	if d, err := l.dir(""); err != nil || d != "/p/.lab/default" {
		t.Errorf("no name: got %s, %v", d, err)
	}
}

// An installer writes its table last: the count of partitions tells a finished
// installation from an enrolment of keys, and rubbish is neither.
func TestCountPartitions_Disks_AreToldApart(t *testing.T) {
	table := func(entries, used int) []byte {
		disk := make([]byte, 512*34)
		copy(disk[512:], "EFI PART")
		binary.LittleEndian.PutUint64(disk[512+72:], 2)
		binary.LittleEndian.PutUint32(disk[512+80:], uint32(entries))
		binary.LittleEndian.PutUint32(disk[512+84:], 128)
		for i := range used {
			disk[1024+128*i] = 1
		}
		return disk
	}
	endless := table(128, 3)
	binary.LittleEndian.PutUint32(endless[512+80:], 0xffffffff)
	for _, c := range []struct {
		name string
		disk []byte
		want int
	}{
		{"blank", make([]byte, 4096), 0},
		{"empty file", nil, 0},
		{"installed", table(128, 8), 8},
		{"empty table", table(128, 0), 0},
		{"table that claims to be endless", endless, 3},
		{"cut off after the header", table(128, 8)[:1024], 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := countPartitions(bytes.NewReader(c.disk), 512); err != nil || got != c.want {
				t.Errorf("got %d, %v, want %d", got, err, c.want)
			}
		})
	}
}

// An Up that begins late asks the firmware variables whether the keys are in.
func TestHoldsPK_Variables_AreReadByTheirHeader(t *testing.T) {
	variable := func(state byte, name string) []byte {
		v := make([]byte, 60)
		v[0], v[1], v[2] = 0xaa, 0x55, state
		return append(append([]byte("rubbish before"), v...), name...)
	}
	for _, c := range []struct {
		name string
		vars []byte
		want bool
	}{
		{"empty", nil, false},
		{"platform key", variable(0x3f, "P\x00K\x00\x00\x00"), true},
		{"platform key that was deleted", variable(0x3c, "P\x00K\x00\x00\x00"), false},
		{"deleted, then written anew", append(variable(0x3c, "P\x00K\x00\x00\x00"), variable(0x3f, "P\x00K\x00\x00\x00")...), true},
		{"a longer name with the same end", variable(0x3f, "A\x00P\x00K\x00\x00\x00"), false},
		{"the name without a variable", []byte("P\x00K\x00\x00\x00"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := holdsPK(c.vars); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A failure has to tell a person what to look at, in readable characters.
func TestPhaseError_Text_SaysPhaseTimeLogScreenAndNext(t *testing.T) {
	err := &PhaseError{
		Phase: "install", Elapsed: 83400 * time.Millisecond, Err: errOff, Screenshot: "/p/failure.png", Next: "go on so",
		Log: plainLines("\x00\x00\x1b[0;32m  OK  \x1b[0m Started\r\n\r\n\x1b[2J\x1b(Bpanic:\tno\x07 disk  \n"),
	}
	want := "install, after 83 s: the machine switched itself off\nthe last lines of the serial log:\n" +
		"    OK   Started\n  panic:\tno disk\nthe screen: /p/failure.png\ngo on so"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	if !errors.Is(err, errOff) {
		t.Error("the cause is lost")
	}
}

func TestTailLines_LongLog_GivesItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("early\n", 100000)+"late\nlast\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"late", "last"}, tailLines(path, 2)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if got := tailLines(path+".missing", 2); got != nil {
		t.Errorf("a missing log gave %q", got)
	}
}

// Ready means what the node says, not that something answered.
func TestReadyAnswer_Node_DecidesItself(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       bool
		problem    string
	}{
		{"ready", `{"type":"sync","metadata":{"environment":{"system_is_ready":true}}}`, true, ""},
		{"still starting", `{"type":"sync","metadata":{"environment":{"system_is_ready":false}}}`, false, ""},
		{"refused", `{"type":"error","error":"not authorized","error_code":403,"metadata":null}`, false, "asking the API: not authorized"},
		{"another server", `<html>`, false, "reading the API's answer: invalid character '<' looking for beginning of value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readyAnswer(strings.NewReader(c.body))
			problem := ""
			if err != nil {
				problem = err.Error()
			}
			if got != c.want || problem != c.problem {
				t.Errorf("got %v, %q, want %v, %q", got, problem, c.want, c.problem)
			}
		})
	}
}

// Somebody who asked for a port wants to know who has it.
func TestFreePort_Taken_NamesTheProcess(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, err = freePort(listener.Addr().(*net.TCPAddr).Port)
	if err == nil || !strings.Contains(err.Error(), filepath.Base(os.Args[0])) {
		t.Errorf("got %v, want the name of this process", err)
	}
}

// The test variant lets commands in; the others must refuse, not hang.
func TestExec_OrdinaryMachine_IsRefused(t *testing.T) {
	l := &Lab{root: t.TempDir()}
	d, err := l.dir("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (state{Stage: stageReady}).save(d.file("state.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Exec(context.Background(), "x", []string{"true"}); !errors.Is(err, ErrNoExec) {
		t.Errorf("got %v, want ErrNoExec", err)
	}
	if _, err := l.Exec(context.Background(), "y", []string{"true"}); !errors.Is(err, ErrNoLab) {
		t.Errorf("got %v, want ErrNoLab", err)
	}
}

// A clone must share no file with its original, or two machines write to one.
func TestMovedMachine_Files_AllLieInTheNewFolder(t *testing.T) {
	m := machineOf("/p/.lab/a", Hardware{}, qemu.TCG, 1)
	moved := movedMachine("/p/.lab/b", m)
	for _, path := range []string{moved.Vars, moved.TPM, moved.Serial, moved.QMP, moved.Events, moved.PIDFile, moved.Log} {
		if filepath.Dir(path) != "/p/.lab/b" {
			t.Errorf("%s is not in the new folder", path)
		}
	}
	if len(moved.Disks) != 0 {
		t.Errorf("it keeps the disks %v", moved.Disks)
	}
}

// The disk is booted before the medium, so that a node that has been installed
// starts although the medium is still there; a test may turn that round.
func TestMachineOf_Hardware_DecidesTheDisks(t *testing.T) {
	type place struct {
		ID    string
		Index int
	}
	for _, c := range []struct {
		name string
		h    Hardware
		want []place
	}{
		{"usual", Hardware{}, []place{{"disk0", 0}, {"medium", 1}}},
		{"two disks", Hardware{DiskGiB: []int{20, 30}}, []place{{"disk0", 0}, {"disk1", 1}, {"medium", 2}}},
		{"medium first", Hardware{MediumFirst: true}, []place{{"disk0", 1}, {"medium", 0}}},
		{"no medium", Hardware{NoMedium: true}, []place{{"disk0", 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []place
			for _, disk := range machineOf("/d", c.h, qemu.TCG, 1).Disks {
				got = append(got, place{disk.ID, disk.BootIndex})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("disks (-want +got):\n%s", diff)
			}
		})
	}
}

// An answer to a command that somebody gave up must not be taken for ours.
func TestExchange_OldAnswerFirst_IsSkipped(t *testing.T) {
	var sent bytes.Buffer
	conn := struct {
		io.Reader
		io.Writer
	}{strings.NewReader("old 0 eA==  =\nid 3 b3V0= ZXJyCg===\n"), &sent}
	got, err := exchange(conn, "id", []string{"echo", ""})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ExecResult{Stdout: []byte("out"), Stderr: []byte("err\n"), Code: 3}, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if sent.String() != "id ZWNobwAA\n" {
		t.Errorf("sent %q", sent.String())
	}
}

// A kernel image beside the old one, under another name, would not be booted.
func TestUKIName_Counters_AreKept(t *testing.T) {
	for _, c := range []struct{ name, listing, want string }{
		{"blessed", "::/EFI/Linux/Holdfast_202611220100.efi\n::/EFI/Linux/Holdfast_202611220201.efi\n", "::/EFI/Linux/Holdfast_202611220201.efi"},
		{"with counters", "::/EFI/Linux/Holdfast_202611220201+2-1.efi\n", "::/EFI/Linux/Holdfast_202611220201+2-1.efi"},
		{"another release", "::/EFI/Linux/Holdfast_2026112202011.efi\n", ""},
		{"nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ukiName(c.listing, "202611220201")
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}
