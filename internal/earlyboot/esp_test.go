package earlyboot

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/reset"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tpm2clear"
)

// espHost is a Host with an ESP and a seed partition, as files.
func espHost(t *testing.T) (*hostESP, string, *[]string) {
	t.Helper()
	host, dir, done := testHost(t, func(run.Command) (run.Result, error) { return run.Result{}, nil })
	host.clear = func() error { *done = append(*done, "clear the TPM"); return tpm2clear.ErrNone }
	write(t, dir+"/seed", strings.Repeat("old seed", 128))
	disk := Disk{Path: "/dev/vda", Partitions: map[int]string{1: "/dev/vda1", 2: dir + "/seed", 9: "/dev/vda9", 10: "/dev/vda10"}}
	esp, err := host.ESP(t.Context(), disk)
	if err != nil {
		t.Fatal(err)
	}
	return esp.(*hostESP), dir, done
}

// The hands of the initrd do to files and programs what a reset needs, and only when there
// is one to go on with is the ESP made writable.
func TestESP_ResetBegun_IsCarriedOutByTheseHands(t *testing.T) {
	esp, dir, done := espHost(t)
	if ended, err := esp.ContinueReset(t.Context(), func(string) {}); ended || err != nil {
		t.Fatalf("got %t, %v without a reset", ended, err)
	}
	if err := reset.Begin(resetHands{esp}, reset.Journal{}, []byte("new seed")); err != nil {
		t.Fatal(err)
	}
	if ended, err := esp.ContinueReset(t.Context(), func(string) {}); !ended || err != nil {
		t.Fatalf("got %t, %v", ended, err)
	}
	if err := esp.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"mount /dev/vda1 esp vfat", "mount  esp ", "clear the TPM", "sfdisk --no-reread --force --delete /dev/vda 9 10", "unmount esp",
	}
	if diff := cmp.Diff(want, *done); diff != "" {
		t.Error(diff)
	}
	if seed, err := os.ReadFile(dir + "/seed"); err != nil || len(seed) != 1024 || string(bytes.TrimRight(seed, "\x00")) != "new seed" {
		t.Errorf("the seed partition has %d bytes, %q, %v", len(seed), seed, err)
	}
	left, err := filepath.Glob(string(esp.dir) + "/holdfast/*")
	if err != nil || left != nil {
		t.Errorf("the ESP still has %v, %v", left, err)
	}
}

// What the firmware says decides, and a TPM that this machine emulates is none.
func TestPlatform_FirmwareAndMarks_AreRead(t *testing.T) {
	for name, test := range map[string]struct {
		with func(t *testing.T, dir string)
		want Platform
	}{
		"nothing": {func(*testing.T, string) {}, Platform{}},
		"all": {func(t *testing.T, dir string) {
			write(t, dir+"/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
			write(t, dir+"/sys/class/tpm/tpm0/tpm_version_major", "2\n")
		}, Platform{SecureBoot: true, TPM: true}},
		"TPM 1.2, audit mode": {func(t *testing.T, dir string) {
			write(t, dir+"/sys/firmware/efi/efivars/AuditMode-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
			write(t, dir+"/sys/class/tpm/tpm0/tpm_version_major", "1\n")
		}, Platform{AuditMode: true}},
		"emulated, with marks": {func(t *testing.T, dir string) {
			write(t, dir+"/sys/devices/virtual/tpm/tpm0/tpm_version_major", "2\n")
			link(t, "../../devices/virtual/tpm/tpm0", dir+"/sys/class/tpm/tpm0")
			write(t, dir+"/run/holdfast/esp/holdfast/missing-tpm", "1\n")
			write(t, dir+"/run/holdfast/esp/holdfast/missing-secure-boot", "1\n")
		}, Platform{NoTPM: true, NoSecureBoot: true}},
		"promised and not there": {func(t *testing.T, dir string) { write(t, dir+"/sys/firmware/acpi/tables/TPM2", "") }, Platform{}},
	} {
		t.Run(name, func(t *testing.T) {
			esp, dir, _ := espHost(t)
			test.with(t, dir)
			got, err := esp.Platform(t.Context())
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestMark_MarkThatIsThere_IsNotWrittenAgain(t *testing.T) {
	esp, _, done := espHost(t)
	for range 2 {
		if err := esp.Mark(MarkNoTPM); err != nil {
			t.Fatal(err)
		}
		esp.writable = false // as in another start
	}
	want := []string{"mount /dev/vda1 esp vfat", "mount  esp "}
	if diff := cmp.Diff(want, *done); diff != "" {
		t.Error(diff)
	}
	if there, err := esp.dir.Has(MarkNoTPM); !there || err != nil {
		t.Errorf("got %t, %v", there, err)
	}
}

// Without Secure Boot anybody's program may be started: the TPM opens the disk for these alone.
func TestTable_BindPrograms_AddsRegister4(t *testing.T) {
	host, _, done := testHost(t, func(run.Command) (run.Result, error) { return run.Result{}, nil })
	if err := host.Table().Make(t.Context(), "/dev/vda", PartitionOptions{RecoveryKey: "key", BindPrograms: true}); err != nil {
		t.Fatal(err)
	}
	want := "--tpm2-pcrs=4+7+15:sha256=0000000000000000000000000000000000000000000000000000000000000000"
	if !slices.Contains(strings.Fields((*done)[0]), want) {
		t.Errorf("got %s", (*done)[0])
	}
}
