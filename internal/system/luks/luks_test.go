package luks_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// A recovery key is typed at a boot prompt of systemd, which reads this form alone.
func TestFormatRecoveryKey_Vector_IsSystemdsForm(t *testing.T) {
	var bits [32]byte
	for i := range bits {
		bits[i] = byte(i)
	}
	bits[31] = 0xff
	want := "cccbcdce-cfcgchci-cjckclcn-crctcucv-bcbbbdbe-bfbgbhbi-bjbkblbn-brbtbuvv"
	if diff := cmp.Diff(want, luks.FormatRecoveryKey(bits)); diff != "" {
		t.Error(diff)
	}
}

// Two nodes must never share a key.
func TestNewRecoveryKey_Twice_GivesTwoKeys(t *testing.T) {
	a, errA := luks.NewRecoveryKey(rand.Reader)
	b, errB := luks.NewRecoveryKey(rand.Reader)
	if errA != nil || errB != nil || a == b || !luks.IsRecoveryKey(a) || !luks.IsRecoveryKey(b) {
		t.Error("the keys are equal or not in the form of a recovery key")
	}
}

// A key of fewer bits must not pass for a whole one.
func TestNewRecoveryKey_TooFewBits_IsAnError(t *testing.T) {
	if key, err := luks.NewRecoveryKey(strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) || key != "" {
		t.Errorf("got %q, %v", key, err)
	}
}

func TestIsRecoveryKey_OtherText_IsRefused(t *testing.T) {
	good := "cccbcdce-cfcgchci-cjckclcn-crctcucv-bcbbbdbe-bfbgbhbi-bjbkblbn-brbtbuvv"
	for _, text := range []string{"", good + "-cccccccc", good[:70], strings.Replace(good, "c", "a", 1), strings.ToUpper(good), good + "\n"} {
		if luks.IsRecoveryKey(text) {
			t.Errorf("%q is taken for a recovery key", text)
		}
	}
	if !luks.IsRecoveryKey(good) {
		t.Error("a good key is refused")
	}
}

const metadata = `{"keyslots":{
 "0":{"type":"luks2","key_size":64,"kdf":{"type":"argon2id"}}, "1":{"type":"luks2","key_size":64,"kdf":{"type":"pbkdf2"}}, "2":{"type":"luks2"}, "10":{"type":"luks2"}},
"tokens":{
 "0":{"type":"systemd-recovery","keyslots":["0"]},
 "1":{"type":"systemd-tpm2","keyslots":["1"],"tpm2-blob":["AAAA","BBBB"],"tpm2-pcrs":[7,15],"tpm2-pcr-bank":"sha256",
  "tpm2-policy-hash":["00","01"],"tpm2-pin":false,"tpm2_pcrlock":false,"tpm2_pubkey_pcrs":[11],"tpm2_pubkey":"UEVN"},
 "2":{"type":"clevis","keyslots":["10"]}},
"segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","encryption":"aes-xts-plain64","sector_size":4096}},
"digests":{},"config":{}}`

// What a volume is bound to decides whether an update will leave it closed.
func TestParseHeader_BoundVolume_GivesSlotsAndBindings(t *testing.T) {
	got, err := luks.ParseHeader([]byte(metadata))
	if err != nil {
		t.Fatal(err)
	}
	want := luks.Header{
		Slots:   []luks.Slot{{0, luks.Recovery, "argon2id"}, {1, luks.TPM2, "pbkdf2"}, {2, luks.Password, ""}, {10, luks.Other, ""}},
		TPM:     []luks.TPMToken{{Slots: []int{1}, PCRs: []int{7, 15}, Bank: "sha256", SignedPCRs: []int{11}, PublicKey: []byte("PEM")}},
		Ciphers: []string{"aes-xts-plain64"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.NullCipher() || !got.Has(luks.TPM2) {
		t.Error("an encrypted volume with a TPM is not seen as such")
	}
}

// The header is not authenticated: who swaps the cipher for none must be seen.
func TestNullCipher_UnencryptedSegment_IsSeen(t *testing.T) {
	for _, segments := range []string{`{}`, `{"0":{"encryption":"cipher_null-ecb"}}`, `{"0":{"encryption":"aes-xts-plain64"},"1":{"type":"linear"}}`} {
		header, err := luks.ParseHeader([]byte(`{"segments":` + segments + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if !header.NullCipher() {
			t.Errorf("segments %s pass for encrypted", segments)
		}
	}
}

func TestParseHeader_BadMetadata_SaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		`{"keyslots":{"x":{}}}`: `reading its metadata: keyslot "x" has no number`,
		`{"tokens":{"3":{"type":"systemd-tpm2","keyslots":["a"]}}}`: `reading its token 3: keyslot "a" has no number`,
		``: `reading its metadata: unexpected end of JSON input`,
	} {
		if _, err := luks.ParseHeader([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// recorder notes the commands and answers each with the same.
type recorder struct {
	got    []string
	stdout string
	err    error
}

func (r *recorder) run(_ context.Context, c run.Command) (run.Result, error) {
	r.got = append(r.got, strings.Join(append(append([]string{}, c.Env...), append([]string{c.Name}, c.Args...)...), " "))
	return run.Result{Stdout: []byte(r.stdout)}, r.err
}

// A wrong policy locks the owner out at the next start.
func TestBindTPM_Policy_BecomesOneCommand(t *testing.T) {
	var r recorder
	err := luks.Host{Run: r.run}.BindTPM(context.Background(), "/dev/vda10", "/k", luks.TPMPolicy{
		PCRs: map[int]string{15: "00", 7: "ab", 4: ""}, PublicKeyFile: "/pub.pem"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"systemd-cryptenroll --unlock-key-file=/k --tpm2-device=auto --wipe-slot=tpm2 --tpm2-pcrlock= " +
		"--tpm2-pcrs=4:sha256+7:sha256=ab+15:sha256=00 --tpm2-public-key-pcrs=11 --tpm2-public-key=/pub.pem /dev/vda10"}
	if diff := cmp.Diff(want, r.got); diff != "" {
		t.Error(diff)
	}
}

// Every process can read the arguments of another: the password must not be one.
func TestAddPassword_Password_IsNoArgumentAndInNoError(t *testing.T) {
	r := recorder{err: &run.Error{Args: []string{"systemd-cryptenroll"}, ExitCode: 1, Err: errors.New("exit status 1")}}
	err := luks.Host{Run: r.run}.AddPassword(context.Background(), "/dev/vda10", "/k", "hunter2")
	want := "adding a password to /dev/vda10: systemd-cryptenroll: exit status 1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if diff := cmp.Diff([]string{"NEWPASSWORD=hunter2 systemd-cryptenroll --unlock-key-file=/k --password /dev/vda10"}, r.got); diff != "" {
		t.Error(diff)
	}
}

func TestAddRecoveryKey_OtherOutput_IsNotShown(t *testing.T) {
	r := recorder{stdout: "secret"}
	_, err := luks.Host{Run: r.run}.AddRecoveryKey(context.Background(), "/dev/vda10", "/k")
	want := "adding a recovery key to /dev/vda10: systemd-cryptenroll printed something else than a key"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// The daemon may be started twice; the second start finds swap open already.
func TestOpen_OpenVolume_IsLeftAlone(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "dev/mapper"), 0o755); err != nil {
		t.Fatal(err)
	}
	var r recorder
	host := luks.Host{Root: root, Run: r.run}
	if err := host.Open(context.Background(), "swap", "/dev/vda9", "/k"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../dm-1", filepath.Join(root, "dev/mapper/swap")); err != nil {
		t.Fatal(err)
	}
	if err := host.Open(context.Background(), "swap", "/dev/vda9", "/k"); err != nil {
		t.Fatal(err)
	}
	if err := host.Close(context.Background(), "swap"); err != nil {
		t.Fatal(err)
	}
	want := []string{"cryptsetup open --type=luks2 --key-file=/k /dev/vda9 swap", "cryptsetup close swap"}
	if diff := cmp.Diff(want, r.got); diff != "" {
		t.Error(diff)
	}
}

// A wrong key and a broken program are two things: only the first is the owner's.
func TestCheckKey_ExitCode2_IsAWrongKey(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		want    bool
		wantErr bool
	}{
		"right": {nil, true, false},
		"wrong": {&run.Error{ExitCode: 2, Err: errors.New("exit status 2")}, false, false},
		"busy":  {&run.Error{ExitCode: 5, Err: errors.New("exit status 5")}, false, true},
		"gone":  {&run.Error{ExitCode: -1, Err: errors.New("not found")}, false, true},
	} {
		r := recorder{err: c.err}
		got, err := luks.Host{Run: r.run}.CheckKey(context.Background(), "/dev/vda10", "/k")
		if got != c.want || (err != nil) != c.wantErr {
			t.Errorf("%s: got %t, %v", name, got, err)
		}
	}
}
