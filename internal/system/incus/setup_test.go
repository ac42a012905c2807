package incus_test

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/system/incus"
)

var background = context.Background()

func setup(c *incus.Client, usable bool) *incus.Setup {
	return &incus.Setup{
		Client: c, Log: slog.New(slog.DiscardHandler),
		LocalUsable: func(context.Context) (bool, error) { return usable, nil },
	}
}

// afterDefaults is a node that an owner can use at once: instances find a disk and a network.
var afterDefaults = []string{
	"core.https_address=:8443",
	`networks/eth0 {"config":null,"devices":null}`,
	`networks/incusbr0 {"config":{},"devices":{}}`,
	`profiles/default {"config":{},"devices":{"eth0":{"name":"eth0","network":"incusbr0","type":"nic"},"root":{"path":"/","pool":"local","type":"disk"}}}`,
	`storage-pools/local {"config":{"source":"local/incus"},"devices":{}}`,
	`storage-pools/local/volumes/custom/backups {"config":{},"devices":{}}`,
	`storage-pools/local/volumes/custom/images {"config":{},"devices":{}}`,
	`storage-pools/local/volumes/custom/logs {"config":{},"devices":{}}`,
	"storage.backups_volume=local/backups",
	"storage.images_volume=local/images",
	"storage.logs_volume=local/logs",
}

// A node without a seed must be usable; setting it up again must change nothing.
func TestInitialize_DefaultsTwice_GiveStorageAndNetworkOnce(t *testing.T) {
	d, c := newDaemon(t)
	for range 2 {
		if err := setup(c, true).Initialize(background, incus.Seed{ApplyDefaults: true}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(afterDefaults, d.snapshot()); diff != "" {
			t.Fatal(diff)
		}
	}
	if d.writes != 11 {
		t.Errorf("%d writes, want 11 by the first call and none by the second", d.writes)
	}
}

// The power may be cut at any time in the first minutes of a node.
func TestInitialize_CutOffAtAnyWrite_IsFinishedByTheNextCall(t *testing.T) {
	for writes := 0; writes < 11; writes++ {
		d, c := newDaemon(t)
		d.dieAfter = writes
		if err := setup(c, true).Initialize(background, incus.Seed{ApplyDefaults: true}); err == nil {
			t.Fatalf("after %d writes: no error", writes)
		}
		// The connection that was cut off may not have ended yet.
		d.mu.Lock()
		d.dieAfter = -1
		d.mu.Unlock()
		if err := setup(c, true).Initialize(background, incus.Seed{ApplyDefaults: true}); err != nil {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		if diff := cmp.Diff(afterDefaults, d.snapshot()); diff != "" {
			t.Errorf("after %d writes: %s", writes, diff)
		}
	}
}

// An older Incus does not know all volumes for its own data; it must be set up all the same.
func TestInitialize_IncusWithoutLogsVolume_KeepsLogsAndLeavesNoVolume(t *testing.T) {
	d, c := newDaemon(t)
	d.keys = []string{"core.https_address", "storage.backups_volume", "storage.images_volume"}
	if err := setup(c, true).Initialize(background, incus.Seed{ApplyDefaults: true}); err != nil {
		t.Fatal(err)
	}
	want := []string{}
	for _, line := range afterDefaults {
		if !strings.Contains(line, "logs") {
			want = append(want, line)
		}
	}
	if diff := cmp.Diff(want, d.snapshot()); diff != "" {
		t.Error(diff)
	}
}

// Without defaults, or without the pool, the node must still be reachable to be repaired.
func TestInitialize_NothingToDo_ListensAllTheSame(t *testing.T) {
	for name, c := range map[string]struct {
		seed   incus.Seed
		usable bool
		want   []string
	}{
		"no defaults": {seed: incus.Seed{}, usable: true, want: []string{
			"core.https_address=:8443", `networks/eth0 {"config":null,"devices":null}`, `profiles/default {"config":{},"devices":{}}`}},
		"old data in the pool": {seed: incus.Seed{ApplyDefaults: true}, want: []string{
			"core.https_address=:8443", `networks/eth0 {"config":null,"devices":null}`, `networks/incusbr0 {"config":{},"devices":{}}`,
			`profiles/default {"config":{},"devices":{"eth0":{"name":"eth0","network":"incusbr0","type":"nic"}}}`}},
		"an address of one's own": {seed: incus.Seed{Preseed: map[string]any{"config": map[string]any{"core.https_address": ":443"}}}, want: []string{
			"core.https_address=:443", `networks/eth0 {"config":null,"devices":null}`, `profiles/default {"config":{},"devices":{}}`}},
	} {
		d, client := newDaemon(t)
		if err := setup(client, c.usable).Initialize(background, c.seed); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, d.snapshot()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What the owner wrote is what they get: defaults fill gaps and overwrite nothing.
func TestInitialize_FullPreseedTwice_IsAppliedAndDefaultsStayAway(t *testing.T) {
	d, c := newDaemon(t)
	certificate := base64.StdEncoding.EncodeToString([]byte("hello"))
	wanted := incus.Seed{ApplyDefaults: true, Preseed: map[string]any{
		"config":          map[string]any{"core.https_address": ":8443"},
		"networks":        []any{map[string]any{"name": "br7", "type": "bridge", "config": map[string]any{"ipv4.nat": true, "bridge.mtu": 1400}}, map[string]any{"name": "inner", "project": "lab"}},
		"storage_pools":   []any{map[string]any{"name": "fast", "driver": "zfs", "config": map[string]any{"source": "tank"}}},
		"storage_volumes": []any{map[string]any{"name": "data", "pool": "fast"}},
		"projects":        []any{map[string]any{"name": "lab"}},
		"profiles":        []any{map[string]any{"name": "default", "devices": map[string]any{"root": map[string]any{"type": "disk", "path": "/", "pool": "fast"}}}},
		"certificates":    []any{map[string]any{"name": "me", "certificate": certificate}},
		"cluster":         nil,
	}}
	want := []string{
		`certificates/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 {"config":{},"devices":{}}`,
		"core.https_address=:8443",
		`in/lab/networks/inner {"config":{},"devices":{}}`,
		`networks/br7 {"config":{"bridge.mtu":"1400","ipv4.nat":"true"},"devices":{}}`,
		`networks/eth0 {"config":null,"devices":null}`,
		`profiles/default {"config":{},"devices":{"root":{"path":"/","pool":"fast","type":"disk"}}}`,
		`projects/lab {"config":{},"devices":{}}`,
		`storage-pools/fast {"config":{"source":"tank"},"devices":{}}`,
		`storage-pools/fast/volumes/custom/data {"config":{},"devices":{}}`,
	}
	for range 2 {
		if err := setup(c, true).Initialize(background, wanted); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, d.snapshot()); diff != "" {
			t.Fatal(diff)
		}
	}
	// Writing a network again, even unchanged, restarts its daemons.
	if d.writes != 9 {
		t.Errorf("%d writes, want 8 by the first call and only the config by the second", d.writes)
	}
}

// A person corrects the seed by what the error names; nothing is applied when a key would
// be ignored.
func TestInitialize_BadPreseed_NamesThePart(t *testing.T) {
	for name, c := range map[string]struct {
		preseed map[string]any
		part    string
		code    int
	}{
		"unknown key":     {map[string]any{"storage_pool": []any{"x"}}, "preseed.storage_pool ", 0},
		"cluster":         {map[string]any{"cluster": map[string]any{"enabled": true}}, "preseed.cluster ", 0},
		"wrong shape":     {map[string]any{"networks": "incusbr0"}, "preseed", 0},
		"refused by it":   {map[string]any{"storage_pools": []any{map[string]any{"name": "p", "driver": "nonsense"}}}, "preseed.storage_pools p:", 400},
		"failed later":    {map[string]any{"storage_pools": []any{map[string]any{"name": "p"}}, "storage_volumes": []any{map[string]any{"name": "v", "pool": "p", "size": "broken"}}}, "preseed.storage_volumes v:", 400},
		"without a name":  {map[string]any{"networks": []any{map[string]any{"type": "bridge"}}}, "preseed.networks", 0},
		"no certificate":  {map[string]any{"certificates": []any{map[string]any{"name": "me", "certificate": "-"}}}, "preseed.certificates 1 (me):", 0},
		"no such setting": {map[string]any{"config": map[string]any{"core.nonsense": 1}}, "preseed.config", 400},
	} {
		d, client := newDaemon(t)
		err := setup(client, true).Initialize(background, incus.Seed{ApplyDefaults: true, Preseed: c.preseed})
		if err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: got %v, which does not name %q", name, err, c.part)
		}
		var refused *incus.Error
		if errors.As(err, &refused) != (c.code != 0) || (refused != nil && refused.Code != c.code) {
			t.Errorf("%s: got %v, want code %d of incus", name, err, c.code)
		}
		if c.code == 0 && d.writes != 0 {
			t.Errorf("%s: %d writes before the error", name, d.writes)
		}
	}
}

// Incus answers seconds after its unit has started.
func TestReady_DaemonStillStarting_Waits(t *testing.T) {
	d, c := newDaemon(t)
	d.notReady = 2
	ctx, cancel := context.WithTimeout(background, 30*time.Second)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if version, err := c.Version(ctx); version != "7.0.2" || err != nil {
		t.Errorf("got %q, %v", version, err)
	}
}

// A daemon that never comes must not hold up the boot for ever.
func TestReady_NoDaemon_EndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(background)
	cancel()
	if err := incus.New(filepath.Join(t.TempDir(), "none")).Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A node without a seed gets the defaults; one with a seed gets what is written there.
func TestFromDocument_SeedOrNone_GivesTheWish(t *testing.T) {
	for name, c := range map[string]struct {
		document *seed.Incus
		want     incus.Seed
	}{
		"none":  {nil, incus.Seed{ApplyDefaults: true}},
		"empty": {&seed.Incus{}, incus.Seed{}},
		"preseed": {
			&seed.Incus{ApplyDefaults: true, Preseed: &seed.IncusPreseed{Config: map[string]any{"core.https_address": ":1"}}},
			incus.Seed{ApplyDefaults: true, Preseed: map[string]any{"config": map[string]any{"core.https_address": ":1"}}},
		},
	} {
		got, err := incus.FromDocument(c.document)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
