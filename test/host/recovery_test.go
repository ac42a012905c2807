//go:build linux

package host

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/apply"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/recovery"
	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/test/needs"
)

// lightKDF makes a passphrase cheap to try: these tests try hundreds.
var lightKDF = []string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"}

var errPowerCut = errors.New("the power was cut")

// keyNode is a node with real LUKS headers in sparse files.
type keyNode struct {
	luks luks.Host
	tree tooltree.Tree
	// left is how many programs may still change a volume; negative: no limit.
	left int
	// late cuts the power behind the last change and not before the next.
	late bool
}

func newKeyNode(t *testing.T, keys ...string) *keyNode {
	t.Helper()
	n := &keyNode{tree: needs.Tree(t, "cryptsetup", "systemd-cryptenroll"), left: -1}
	n.luks = luks.Host{Root: t.TempDir(), Run: n.run, KDF: lightKDF}
	writeFile(t, n.path(recovery.KeyFile), keys[0])
	for _, volume := range []string{recovery.Root, recovery.Swap} {
		writeFile(t, n.path(volume), "")
		if err := os.Truncate(n.path(volume), 32<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := runTool(t, n.tree.Command("cryptsetup", append(lightKDF, "luksFormat", "--type=luks2", "--batch-mode", n.path(volume), n.path(recovery.KeyFile))...)); err != nil {
			t.Fatal(err)
		}
		for _, key := range keys[1:] {
			if err := n.luks.Enroll(t.Context(), n.path(volume), n.path(recovery.KeyFile), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

func (n *keyNode) path(name string) string { return filepath.Join(n.luks.Root, name) }

// run runs the programs of the tools tree until the power is cut.
func (n *keyNode) run(ctx context.Context, c run.Command) (run.Result, error) {
	changes := c.Name == "systemd-cryptenroll" || strings.HasPrefix(c.Args[0], "luksAdd") || strings.HasPrefix(c.Args[0], "luksKill")
	if changes && n.left == 0 {
		return run.Result{}, errPowerCut
	}
	if changes && n.left > 0 {
		n.left--
	}
	tool := n.tree.Command(c.Name, c.Args...)
	tool.Env = append(tool.Env, c.Env...)
	tool.Stdin = c.Stdin
	result, err := run.Host(ctx, tool)
	if changes && n.left == 0 && n.late {
		return run.Result{}, errPowerCut
	}
	return result, err
}

// carryOut does the steps as the daemon does.
func (n *keyNode) carryOut(ctx context.Context, p plan.Plan) error {
	file := n.path(recovery.KeyFile)
	return apply.Executor{Root: n.luks.Root, Tools: map[string]apply.Tool{
		recovery.ToolEnroll: func(ctx context.Context, args []string) error {
			return n.luks.Enroll(ctx, n.path(args[0]), file, args[1])
		},
		recovery.ToolKeepKey: func(_ context.Context, args []string) error {
			return n.luks.KeepKey(recovery.KeyFile, args[0])
		},
		recovery.ToolKeepOnly: func(ctx context.Context, args []string) error {
			return n.luks.KeepOnly(ctx, n.path(args[0]), args[1:])
		},
	}}.Do(ctx, p)
}

// openers gives those of the keys that open a volume, and how many keyslots it has.
func (n *keyNode) openers(t *testing.T, volume string, keys ...string) (open []string, slots int) {
	t.Helper()
	for _, key := range keys {
		opens, err := n.luks.Opens(t.Context(), n.path(volume), key)
		if err != nil {
			t.Fatal(err)
		}
		if opens {
			open = append(open, key)
		}
	}
	header, err := n.luks.ReadHeader(t.Context(), n.path(volume))
	if err != nil {
		t.Fatal(err)
	}
	return open, len(header.Slots)
}

func (n *keyNode) ownKey(t *testing.T) string {
	t.Helper()
	key, err := os.ReadFile(n.path(recovery.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(key)
}

const (
	firstKey = "cccbcdce-cfcgchci-cjckclcn-crctcucv-bcbbbdbe-bfbgbhbi-bjbkblbn-brbtbuvv"
	oldKey   = "a heron stole my left glove, twice"
	newKey   = "eleven blue kettles: none of them mine"
	otherKey = "vG7#qLz2!wPx9Kd"
)

// The power goes while keys are changed. Whoever then stands before the machine has either
// the old list of keys or the new one, and each of its keys must open both volumes; the
// node itself must open them at the next start, and end with the new list and no other.
func TestRecoveryKeys_PowerCutAtEachChange_OldOrNewKeysOpenAndTheNextRunEnds(t *testing.T) {
	before, next := []string{firstKey, oldKey}, []string{newKey, otherKey}
	all := []string{firstKey, oldKey, newKey, otherKey}
	const changes = 8 // two keys added to and two removed from each of two volumes
	for cut := range changes {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("change %d late %t", cut+1, late), func(t *testing.T) {
				n := newKeyNode(t, before...)
				n.left, n.late = cut, late
				if late {
					n.left++
				}
				if err := n.carryOut(t.Context(), recovery.NewPlan(before, next)); !errors.Is(err, errPowerCut) {
					t.Fatalf("got %v, want %v", err, errPowerCut)
				}
				n.left = -1
				root, _ := n.openers(t, recovery.Root, all...)
				swap, _ := n.openers(t, recovery.Swap, all...)
				has := func(open, keys []string) bool {
					return strings.Contains(strings.Join(open, "\n"), strings.Join(keys, "\n"))
				}
				if !(has(root, before) && has(swap, before) || has(root, next) && has(swap, next)) {
					t.Errorf("neither list opens both volumes: root opens with %q, swap with %q", root, swap)
				}
				if own := n.ownKey(t); !has(root, []string{own}) || !has(swap, []string{own}) {
					t.Errorf("the node's own key %q does not open both: root opens with %q, swap with %q", own, root, swap)
				}
				if err := n.carryOut(t.Context(), recovery.NewPlan(nil, next)); err != nil {
					t.Fatal(err)
				}
				for _, volume := range []string{recovery.Root, recovery.Swap} {
					open, slots := n.openers(t, volume, all...)
					if diff := cmp.Diff(next, open); diff != "" || slots != len(next) {
						t.Errorf("%s has %d keyslots: %s", volume, slots, diff)
					}
				}
				if diff := cmp.Diff(newKey, n.ownKey(t)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// The daemon keeps a list that no longer matches the disk, as after a restored backup: the
// keys that are there must all stay.
func TestRecoveryKeys_KeptKeyOpensNothing_RemovesNone(t *testing.T) {
	n := newKeyNode(t, firstKey, oldKey)
	if err := n.luks.KeepOnly(t.Context(), n.path(recovery.Root), []string{firstKey, newKey}); err == nil {
		t.Error("a key was removed for the sake of one that opens nothing")
	}
	if err := n.luks.KeepOnly(t.Context(), n.path(recovery.Root), nil); err == nil {
		t.Error("the last key was removed")
	}
	open, slots := n.openers(t, recovery.Root, firstKey, oldKey)
	if diff := cmp.Diff([]string{firstKey, oldKey}, open); diff != "" || slots != 2 {
		t.Errorf("%d keyslots, %s", slots, diff)
	}
}

// A key is a secret: nothing of it may be left in files when the change has ended.
func TestRecoveryKeys_Change_LeavesNoFileWithAKey(t *testing.T) {
	n := newKeyNode(t, firstKey)
	if err := n.carryOut(t.Context(), recovery.NewPlan([]string{firstKey}, []string{newKey})); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(n.path("run/holdfast/keys"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(n.path("run/holdfast/keys"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 || info.Mode().Perm() != 0o700 {
		t.Errorf("%d files in a folder of mode %o", len(left), info.Mode().Perm())
	}
}

// Firmware keys were changed for good, or the TPM was cleared: with the recovery key the
// node starts, and from then on the TPM opens its volumes again.
func TestRebind_ClearedTPM_BindsAnewAndKeepsTheKeys(t *testing.T) {
	n := newKeyNode(t, firstKey)
	needs.Tree(t, "swtpm", "tpm2_clear")
	state := n.path("tpm")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	device, _ := bootTPM(t, n.tree, state)
	n.luks.TPM = device
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, n.path("run/systemd/tpm2-pcr-public-key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))

	bind := func() []byte {
		t.Helper()
		if err := n.luks.Rebind(t.Context(), n.path(recovery.KeyFile), false, n.path(recovery.Root), n.path(recovery.Swap)); err != nil {
			t.Fatal(err)
		}
		raw, err := runTool(t, n.tree.Command("cryptsetup", "luksDump", "--dump-json-metadata", n.path(recovery.Root)))
		if err != nil {
			t.Fatal(err)
		}
		return []byte(raw)
	}
	first := bind()
	if _, err := runTool(t, n.tree.Command("tpm2_clear", "-T", device, "-c", "platform")); err != nil {
		t.Fatal(err)
	}
	second := bind()
	if string(first) == string(second) {
		t.Error("the binding to the TPM of before was kept")
	}
	header, err := luks.ParseHeader(second)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []luks.SlotKind
	for _, slot := range header.Slots {
		kinds = append(kinds, slot.Kind)
	}
	if diff := cmp.Diff([]luks.SlotKind{luks.Password, luks.TPM2}, kinds); diff != "" {
		t.Error(diff)
	}
	if open, _ := n.openers(t, recovery.Root, firstKey); len(open) != 1 {
		t.Error("the recovery key does not open the volume any more")
	}
}

// With a key that opens nothing, no binding may be removed.
func TestRebind_WrongKey_ChangesNothing(t *testing.T) {
	n := newKeyNode(t, firstKey)
	writeFile(t, n.path("run/systemd/tpm2-pcr-public-key.pem"), "unused")
	writeFile(t, n.path("wrong"), "wrong")
	n.left = 0
	if err := n.luks.Rebind(t.Context(), n.path("wrong"), false, n.path(recovery.Root)); !errors.Is(err, luks.ErrNoKey) {
		t.Errorf("got %v, want %v", err, luks.ErrNoKey)
	}
}

// Opening swap must not cost seconds at each start: the keyslot that partitioning made
// for the generated key becomes as light as those of Enroll, once, and the one that a
// person's key opens stays expensive to guess.
func TestLighten_VolumeOfTheFirstBoot_MakesOnlyTheGeneratedKeyCheap(t *testing.T) {
	n := newKeyNode(t, strings.Repeat("cccbcdce-", 7)+"cccbcdce")
	key, device := strings.Repeat("cccbcdce-", 7)+"cccbcdce", n.path(recovery.Swap)
	heavy := []string{"--pbkdf=argon2id", "--pbkdf-memory=1024", "--pbkdf-force-iterations=4", "--pbkdf-parallel=1"}
	if _, err := runTool(t, n.tree.Command("cryptsetup", append(heavy, "luksConvertKey", "--batch-mode", "--key-file="+n.path(recovery.KeyFile), device)...)); err != nil {
		t.Fatal(err)
	}
	n.luks.KDF = heavy
	if err := n.luks.Enroll(t.Context(), device, n.path(recovery.KeyFile), "a person's own long key"); err != nil {
		t.Fatal(err)
	}
	kinds := func() (found []string) {
		header, err := n.luks.ReadHeader(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range header.Slots {
			found = append(found, slot.KDF)
		}
		return found
	}
	if diff := cmp.Diff([]string{"argon2id", "argon2id"}, kinds()); diff != "" {
		t.Fatal(diff)
	}
	for range 2 { // the second time there is nothing to do
		if err := n.luks.Lighten(t.Context(), device, key); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"pbkdf2", "argon2id"}, kinds()); diff != "" {
		t.Error(diff)
	}
	for _, k := range []string{key, "a person's own long key"} {
		if opens, err := n.luks.Opens(t.Context(), device, k); err != nil || !opens {
			t.Errorf("%q opens: %t, %v", k, opens, err)
		}
	}
}
