package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/system/incus"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

// hostObserver is health.Observer: what the health gate sees of this machine.
type hostObserver struct {
	*Host
	apps *apps.Manager
}

// API is part of health.Observer: it asks as Incus does.
func (hostObserver) API(ctx context.Context) (err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(root, socketPath))
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://unix/1.0", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}

// answerTime is how long an application may take to answer.
const answerTime = 10 * time.Second

// Applications is part of health.Observer.
func (o hostObserver) Applications(ctx context.Context) ([]health.Application, error) {
	names, err := o.apps.List()
	if err != nil {
		return nil, err
	}
	var found []health.Application
	for _, name := range names {
		app := health.Application{Name: name, Ready: true}
		if program, ok := o.apps.Programs[name]; ok {
			limited, cancel := context.WithTimeout(ctx, answerTime)
			if _, err := program.Version(limited); err != nil {
				app.Ready, app.Detail = false, err.Error()
			}
			cancel()
		}
		found = append(found, app)
	}
	return found, nil
}

// Pools is part of health.Observer.
func (o hostObserver) Pools(ctx context.Context) ([]string, error) {
	pools, err := o.zfs.List(ctx)
	var names []string
	for _, pool := range pools {
		names = append(names, pool.Name)
	}
	return names, err
}

// Network is part of health.Observer.
func (o hostObserver) Network(ctx context.Context) (health.Network, error) {
	config, err := current(ctx, o.daemon, sectionNetwork, o.daemon.machine.Network)
	if err != nil {
		return health.Network{}, err
	}
	state, err := o.daemon.machine.Network.State(ctx, config)
	if err != nil {
		return health.Network{}, err
	}
	return networkHealth(config, state), nil
}

// networkHealth compares the addresses that were asked for with those that are there.
func networkHealth(config osapi.NetworkConfig, state osapi.NetworkState) health.Network {
	wanted := map[string][]string{}
	for _, n := range config.Interfaces {
		wanted[n.Name] = n.Addresses
	}
	for _, n := range config.Bonds {
		wanted[n.Name] = n.Addresses
	}
	for _, n := range config.VLANs {
		wanted[n.Name] = n.Addresses
	}
	for _, n := range config.Wireguard {
		wanted[n.Name] = n.Addresses
	}
	var found health.Network
	for name, addresses := range wanted {
		there := state.Interfaces[name].Addresses
		if len(there) > 0 {
			found.Interfaces = append(found.Interfaces, name)
		}
		for _, address := range addresses {
			prefix, err := netip.ParsePrefix(address)
			if err != nil {
				continue // "dhcp4" and the like: what they give is not known before
			}
			has := slices.ContainsFunc(there, func(a string) bool {
				bare, _, _ := strings.Cut(a, "/")
				return bare == prefix.Addr().String()
			})
			if !has {
				found.Missing = append(found.Missing, address+" on "+name)
			}
		}
	}
	slices.Sort(found.Interfaces)
	slices.Sort(found.Missing)
	return found
}

// StateWritable is part of health.Observer.
func (hostObserver) StateWritable(context.Context) error {
	name := filepath.Join(stateDir, ".written")
	const text = "holdfast"
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	back, err := os.ReadFile(name)
	if err == nil && string(back) != text {
		err = fmt.Errorf("%s holds something else than was written", name)
	}
	return errors.Join(err, os.Remove(name))
}

// Instances is part of health.Observer: those that Incus starts again by itself.
func (o hostObserver) Instances(ctx context.Context) ([]string, error) {
	if ok, err := exists(incus.DefaultSocket); err != nil || !ok {
		return nil, err
	}
	return incus.New(incus.DefaultSocket).Running(ctx)
}
