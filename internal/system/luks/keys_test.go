package luks_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// volume is one whose keys are a list; it notes each command with the key files read.
type volume struct {
	t    *testing.T
	keys []string
	got  []string
}

var keyFiles = regexp.MustCompile(`/[^ =]*/run/holdfast/keys/key[0-9]+`)

func (v *volume) run(_ context.Context, c run.Command) (run.Result, error) {
	line := strings.Join(append([]string{c.Name}, c.Args...), " ")
	for _, key := range []string{generated, typed} {
		if strings.Contains(line+strings.Join(c.Env, " "), key) {
			v.t.Errorf("the key is in the arguments or the environment of: %s", line)
		}
	}
	var read string
	line = keyFiles.ReplaceAllStringFunc(line, func(path string) string {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			v.t.Errorf("the key file: %v, %v", info, err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			v.t.Error(err)
		}
		read = string(data)
		return "<" + read + ">"
	})
	v.got = append(v.got, line)
	if strings.Contains(line, "luksAddKey") {
		v.keys = append(v.keys, read)
	}
	if strings.Contains(line, "--test-passphrase") && !strings.Contains(strings.Join(v.keys, " "), read) {
		return run.Result{}, &run.Error{ExitCode: 2, Err: errors.New("exit status 2")}
	}
	return run.Result{}, nil
}

const (
	generated = "cccbcdce-cfcgchci-cjckclcn-crctcucv-bcbbbdbe-bfbgbhbi-bjbkblbn-brbtbuvv"
	typed     = "a heron stole my left glove, twice"
)

// Every process can read the arguments of another: a key reaches cryptsetup as a file in
// memory. What a person made up is expensive to try, what a machine made need not be.
func TestEnroll_NewKey_TravelsAsAFileAndIsTried(t *testing.T) {
	const check = "cryptsetup open --test-passphrase --type=luks2 --key-file="
	for key, kdf := range map[string]string{typed: "--pbkdf-memory=65536 ", generated: "--pbkdf=pbkdf2 --pbkdf-force-iterations=1000 "} {
		v := &volume{t: t}
		host := luks.Host{Root: t.TempDir(), Run: v.run, KDF: []string{"--pbkdf-memory=65536"}}
		for range 2 { // the second time there is nothing to do
			if err := host.Enroll(t.Context(), "/dev/vda10", "/k", key); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{
			check + "<" + key + "> /dev/vda10",
			"cryptsetup luksAddKey --batch-mode --key-file=/k " + kdf + "/dev/vda10 <" + key + ">",
			check + "<" + key + "> /dev/vda10", check + "<" + key + "> /dev/vda10",
		}
		if diff := cmp.Diff(want, v.got); diff != "" {
			t.Error(diff)
		}
		left, err := filepath.Glob(filepath.Join(host.Root, "run/holdfast/keys/*"))
		if err != nil || left != nil {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// The start of a node tries the keys that it knows until one opens swap.
func TestWorking_Keys_GivesTheFirstThatOpens(t *testing.T) {
	v := &volume{t: t, keys: []string{typed}}
	host := luks.Host{Root: t.TempDir(), Run: v.run}
	if got, err := host.Working(t.Context(), "/dev/vda9", []string{generated, typed}); err != nil || got != typed {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := host.Working(t.Context(), "/dev/vda9", []string{generated}); !errors.Is(err, luks.ErrNoKey) {
		t.Errorf("got %v, want %v", err, luks.ErrNoKey)
	}
}

// An empty key would open the volume for everybody; one with a line break can be typed by
// nobody.
func TestEnroll_UnusableKey_IsRefused(t *testing.T) {
	v := &volume{t: t}
	host := luks.Host{Root: t.TempDir(), Run: v.run}
	for _, key := range []string{"", "a\nb", "a\x00b", strings.Repeat("x", 513)} {
		if err := host.Enroll(t.Context(), "/dev/vda10", "/k", key); err == nil || v.got != nil {
			t.Errorf("%q: got %v after %q", key, err, v.got)
		}
		if err := host.KeepKey("/key", key); err == nil {
			t.Errorf("%q is kept", key)
		}
	}
}

// The node's own key is for root alone, and replaced as a whole.
func TestKeepKey_Replaced_IsReadableByRootAlone(t *testing.T) {
	host := luks.Host{Root: t.TempDir()}
	for _, key := range []string{generated, typed} {
		if err := host.KeepKey("/recovery.key", key); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(host.Root, "recovery.key")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(host.Root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(typed, string(data)); diff != "" || info.Mode().Perm() != 0o400 || len(entries) != 1 {
		t.Errorf("mode %o, %d files, %s", info.Mode().Perm(), len(entries), diff)
	}
}

// Without the key of the policy a binding would lock the node out at the next update.
func TestRebind_NoPolicyKey_ChangesNothing(t *testing.T) {
	v := &volume{t: t}
	if err := (luks.Host{Root: t.TempDir(), Run: v.run}).Rebind(t.Context(), "/k", false, "/dev/vda10"); err == nil || v.got != nil {
		t.Errorf("got %v after %q", err, v.got)
	}
}
