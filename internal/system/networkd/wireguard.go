package networkd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Fields of a line of `wg show all dump`.
const (
	wgDeviceFields = 5
	wgPeerFields   = 9
)

// Wireguard gives the WireGuard devices by name. The answer of wg holds private keys;
// they are dropped here, and stand in no error.
func (h Host) Wireguard(ctx context.Context) (map[string]api.NetworkWireguardState, error) {
	result, err := h.Run(ctx, run.Command{Name: "wg", Args: []string{"show", "all", "dump"}})
	if err != nil {
		return nil, fmt.Errorf("listing WireGuard devices: %w", err)
	}
	devices, err := parseWireguard(string(result.Stdout))
	if err != nil {
		return nil, fmt.Errorf("listing WireGuard devices: reading the answer of wg: %w", err)
	}
	return devices, nil
}

func parseWireguard(text string) (map[string]api.NetworkWireguardState, error) {
	devices := map[string]api.NetworkWireguardState{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		name := fields[0]
		device, known := devices[name]
		var err error
		switch {
		case len(fields) == wgDeviceFields && !known:
			device.PublicKey = orNothing(fields[2])
			device.ListeningPort, err = strconv.Atoi(fields[3])
		case len(fields) == wgPeerFields && known:
			var peer api.NetworkWireguardPeerState
			peer, err = parseWireguardPeer(fields)
			device.Peers = append(device.Peers, peer)
		default:
			err = fmt.Errorf("%d fields", len(fields))
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		devices[name] = device
	}
	return devices, nil
}

func parseWireguardPeer(fields []string) (api.NetworkWireguardPeerState, error) {
	peer := api.NetworkWireguardPeerState{PublicKey: fields[1], Endpoint: orNothing(fields[3])}
	if allowed := orNothing(fields[4]); allowed != "" {
		peer.AllowedIPs = strings.Split(allowed, ",")
	}
	handshake, err := strconv.ParseInt(fields[5], 10, 64)
	if err != nil {
		return peer, err
	}
	if handshake > 0 {
		peer.LatestHandshake = time.Unix(handshake, 0).UTC().Format(time.RFC3339)
	}
	if peer.Stats.RXBytes, err = strconv.ParseUint(fields[6], 10, 64); err != nil {
		return peer, err
	}
	if peer.Stats.TXBytes, err = strconv.ParseUint(fields[7], 10, 64); err != nil {
		return peer, err
	}
	if fields[8] != "off" {
		peer.PersistentKeepalive = fields[8]
	}
	return peer, nil
}

// orNothing turns wg's word for nothing into nothing.
func orNothing(text string) string {
	if text == "(none)" {
		return ""
	}
	return text
}
