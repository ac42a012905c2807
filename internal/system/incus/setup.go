package incus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"github.com/holdfast-os/holdfast/api/seed"
)

const (
	// localPool is the ZFS pool, and the Incus storage pool on it.
	localPool   = "local"
	localSource = "local/incus"
	bridge      = "incusbr0"
	// listen is where the API is reached over the network.
	listen = ":8443"
)

// Seed is what the owner wants Incus to start with.
type Seed struct {
	// ApplyDefaults fills the gaps of the preseed; see Setup.
	ApplyDefaults bool
	// Preseed is Incus' preseed document, decoded.
	Preseed map[string]any
}

// FromDocument takes over the seed document named incus; nil, for a node without one,
// asks for the defaults.
func FromDocument(document *seed.Incus) (Seed, error) {
	if document == nil {
		return Seed{ApplyDefaults: true}, nil
	}
	result := Seed{ApplyDefaults: document.ApplyDefaults}
	if document.Preseed == nil {
		return result, nil
	}
	text, err := json.Marshal(document.Preseed)
	if err != nil {
		return Seed{}, fmt.Errorf("reading the preseed of the incus seed: %w", err)
	}
	if err := json.Unmarshal(text, &result.Preseed); err != nil {
		return Seed{}, fmt.Errorf("reading the preseed of the incus seed: %w", err)
	}
	return result, nil
}

// Setup sets up a daemon.
type Setup struct {
	Client *Client
	// LocalUsable says whether the node's ZFS pool local may carry the storage pool: it
	// is imported, and its dataset local/incus is missing or empty.
	LocalUsable func(context.Context) (bool, error)
	Log         *slog.Logger
}

// Initialize applies a seed to a daemon that is ready. It may be repeated; what is there
// already stays. An error names the part of the seed that Incus refused.
func (s *Setup) Initialize(ctx context.Context, wanted Seed) error {
	p, err := parsePreseed(wanted.Preseed)
	if err != nil {
		return err
	}
	if err := s.Client.apply(ctx, p); err != nil {
		return err
	}
	if wanted.ApplyDefaults {
		if err := s.storage(ctx, len(p.StoragePools) > 0); err != nil {
			return fmt.Errorf("applying the default storage: %w", err)
		}
		if err := s.network(ctx, len(p.Networks) > 0); err != nil {
			return fmt.Errorf("applying the default network: %w", err)
		}
	}
	return s.listen(ctx)
}

func (s *Setup) listen(ctx context.Context) error {
	server, err := s.Client.server(ctx)
	if err != nil {
		return fmt.Errorf("asking incus where it listens: %w", err)
	}
	if server.Config["core.https_address"] != "" {
		return nil
	}
	if err := s.Client.configure(ctx, map[string]any{"core.https_address": listen}); err != nil {
		return fmt.Errorf("making incus listen on %s: %w", listen, err)
	}
	return nil
}

// storage makes the pool local when there is no pool at all. An earlier call may have
// been cut off after that, so the rest is done as long as the pool is the default one.
func (s *Setup) storage(ctx context.Context, seeded bool) error {
	var pools []struct {
		Name   string            `json:"name"`
		Config map[string]string `json:"config"`
	}
	if err := s.Client.get(ctx, "/1.0/storage-pools?recursion=1", &pools); err != nil {
		return err
	}
	if len(pools) == 0 {
		usable, err := s.LocalUsable(ctx)
		if err != nil {
			return err
		}
		if !usable {
			s.Log.Warn("no default storage pool: the ZFS pool local is missing or has data of Incus")
			return nil
		}
		if err := s.Client.ensure(ctx, "/1.0/storage-pools", object{
			"name": localPool, "driver": "zfs", "config": map[string]any{"source": localSource},
		}); err != nil {
			return err
		}
	} else if seeded || len(pools) > 1 || pools[0].Name != localPool || pools[0].Config["source"] != localSource {
		return nil
	}
	for _, name := range []string{"backups", "images", "logs"} {
		if err := s.daemonVolume(ctx, name); err != nil {
			return err
		}
	}
	return s.device(ctx, "root", "disk", map[string]any{"type": "disk", "path": "/", "pool": localPool})
}

// daemonVolume moves a part of the daemon's data to a volume. An Incus that cannot, as
// one that does not know the key, keeps it where it is.
func (s *Setup) daemonVolume(ctx context.Context, name string) error {
	const path = "/1.0/storage-pools/" + localPool + "/volumes/custom"
	key, value := "storage."+name+"_volume", localPool+"/"+name
	server, err := s.Client.server(ctx)
	if err != nil {
		return err
	}
	if server.Config[key] != "" {
		return nil
	}
	if err := s.Client.ensure(ctx, path, object{"name": name, "type": "custom", "content_type": "filesystem"}); err != nil {
		return err
	}
	err = s.Client.configure(ctx, map[string]any{key: value})
	var refused *Error
	if err == nil || !errors.As(err, &refused) {
		return err
	}
	s.Log.Info("incus keeps this data on the root partition", "key", key, "reason", refused.Message)
	if err := s.Client.do(ctx, http.MethodDelete, path+"/"+name, nil, nil); err != nil && !isMissing(err) {
		return fmt.Errorf("removing volume %s, which incus does not use: %w", value, err)
	}
	return nil
}

// network makes the bridge when no network is managed yet.
func (s *Setup) network(ctx context.Context, seeded bool) error {
	type network struct {
		Name    string `json:"name"`
		Managed bool   `json:"managed"`
	}
	var networks []network
	if err := s.Client.get(ctx, "/1.0/networks?recursion=1", &networks); err != nil {
		return err
	}
	networks = slices.DeleteFunc(networks, func(n network) bool { return !n.Managed })
	if len(networks) == 0 {
		if err := s.Client.ensure(ctx, "/1.0/networks", object{"name": bridge, "type": "bridge"}); err != nil {
			return err
		}
	} else if seeded || len(networks) > 1 || networks[0].Name != bridge {
		return nil
	}
	return s.device(ctx, "eth0", "nic", map[string]any{"type": "nic", "name": "eth0", "network": bridge})
}

// device puts a device into the default profile, unless it has one of that name, or a
// root disk under another name.
func (s *Setup) device(ctx context.Context, name, kind string, device map[string]any) error {
	var profile struct {
		Devices map[string]map[string]string `json:"devices"`
	}
	if err := s.Client.get(ctx, "/1.0/profiles/default", &profile); err != nil {
		return err
	}
	for other, d := range profile.Devices {
		if other == name || (kind == "disk" && d["type"] == "disk" && d["path"] == "/") {
			return nil
		}
	}
	return s.Client.ensure(ctx, "/1.0/profiles", object{"name": "default", "devices": map[string]any{name: device}})
}
