package tpmkey_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tpmkey"
	"github.com/holdfast-os/holdfast/test/needs"
)

// software is a TPM that swtpm plays.
type software struct{ socket, state string }

// newTPM makes and starts one.
func newTPM(t *testing.T) *software {
	t.Helper()
	tpm := &software{socket: filepath.Join(t.TempDir(), "s"), state: t.TempDir()}
	tpm.start(t)
	return tpm
}

// start serves the TPM until the test ends or the function is called that it gives.
func (s *software) start(t *testing.T) (stop func()) {
	t.Helper()
	tools := needs.Tree(t, "swtpm")
	pidFile := filepath.Join(t.TempDir(), "pid")
	if _, err := run.Host(context.Background(), tools.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.state, "--daemon",
		"--pid", "file="+pidFile, "--server", "type=unixio,path="+s.socket, "--flags", "not-need-init,startup-clear")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		t.Fatalf("the pid file says %q", raw)
	}
	running := true
	stop = func() {
		if running {
			running = false
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("switching off the TPM: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func (s *software) open() (transport.TPMCloser, error) {
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		return nil, err
	}
	return transport.FromReadWriteCloser(conn), nil
}

func getKey(t *testing.T, store *tpmkey.Store) *tpmkey.Key {
	t.Helper()
	key, err := store.Key()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// checkSigns fails when the key does not make a signature that its public part verifies.
func checkSigns(t *testing.T, key *tpmkey.Key, text string) {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("the signature is wrong")
	}
}

// A node registers once: its key must be the same after the daemon and the machine have
// started again, and signing must not fill the TPM's memory.
func TestKey_StartedAgain_IsTheSameAndSigns(t *testing.T) {
	tpm := &software{socket: filepath.Join(t.TempDir(), "s"), state: t.TempDir()}
	off := tpm.start(t)
	dir := filepath.Join(t.TempDir(), "keys")
	first := getKey(t, &tpmkey.Store{Dir: dir, Open: tpm.open})
	for range 10 {
		checkSigns(t, first, "hello")
	}
	off()
	if err := os.Remove(tpm.socket); err != nil {
		t.Fatal(err)
	}
	tpm.start(t)
	second := getKey(t, &tpmkey.Store{Dir: dir, Open: tpm.open})
	if !first.Public().(*ecdsa.PublicKey).Equal(second.Public()) {
		t.Error("it is another key")
	}
	checkSigns(t, second, "hello again")
}

// The blobs are of no use without the TPM, but nobody has to read them.
func TestKey_OnTheDisk_IsReadableByRootAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	getKey(t, &tpmkey.Store{Dir: dir, Open: newTPM(t).open})
	got := map[string]fs.FileMode{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err == nil {
			got[filepath.Base(path)] = info.Mode()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]fs.FileMode{"keys": fs.ModeDir | 0o700, "image-auth.key": 0o600}, got); diff != "" {
		t.Error(diff)
	}
}

// Fault 45: a disk in another machine must not pass for the first one, and must be told
// apart from a TPM that does not work.
func TestSign_OtherTPM_IsForeignUntilReset(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	before := getKey(t, &tpmkey.Store{Dir: dir, Open: newTPM(t).open})
	store := &tpmkey.Store{Dir: dir, Open: newTPM(t).open}
	moved := getKey(t, store)
	digest := sha256.Sum256([]byte("hello"))
	if _, err := moved.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpmkey.ErrForeign) {
		t.Errorf("got %v", err)
	}
	if err := store.Reset(); err != nil {
		t.Fatal(err)
	}
	fresh := getKey(t, store)
	if before.Public().(*ecdsa.PublicKey).Equal(fresh.Public()) {
		t.Error("it is the same key")
	}
	checkSigns(t, fresh, "hello")
}

// A file that somebody or a bad disk changed is named as such, and is not overwritten.
func TestKey_DamagedFile_IsDamaged(t *testing.T) {
	noTPM := func() (transport.TPMCloser, error) { return nil, errors.New("no TPM is to be asked") }
	good := filepath.Join(t.TempDir(), "keys")
	getKey(t, &tpmkey.Store{Dir: good, Open: newTPM(t).open})
	text, err := os.ReadFile(filepath.Join(good, "image-auth.key"))
	if err != nil {
		t.Fatal(err)
	}
	// The curve's number is behind magic, length, type, name, attributes, policy, symmetric
	// and scheme: 19 + 2 + 2 + 2 + 4 + 2 + 2 + 4 bytes.
	curve := strings.Clone(string(text[:37])) + "\x00\x04" + string(text[39:])
	for name, content := range map[string]string{"empty": "", "another file": "hello", "cut": string(text[:len(text)-1]), "longer": string(text) + "x",
		"only magic": "HOLDFAST-TPM-KEY-1\n", "no point of the curve": string(text[:100]) + "\x00\x00" + string(text[102:]), "another curve": curve, "huge": string(make([]byte, 1<<20))} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "image-auth.key"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (&tpmkey.Store{Dir: dir, Open: noTPM}).Key(); !errors.Is(err, tpmkey.ErrDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A machine without TPM keeps nothing behind.
func TestKey_NoTPM_LeavesNoFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := (&tpmkey.Store{Dir: dir, Open: func() (transport.TPMCloser, error) { return nil, fs.ErrNotExist }}).Key(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
}

func TestSign_OtherHash_IsRefused(t *testing.T) {
	key := getKey(t, &tpmkey.Store{Dir: filepath.Join(t.TempDir(), "keys"), Open: newTPM(t).open})
	if _, err := key.Sign(nil, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("SHA-384 was signed")
	}
	if _, err := key.Sign(nil, make([]byte, 31), crypto.SHA256); err == nil {
		t.Error("31 bytes were signed")
	}
}
