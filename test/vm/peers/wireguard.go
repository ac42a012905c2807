package peers

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// KeyPair is one of WireGuard, each 32 bytes in base64.
type KeyPair struct{ Private, Public string }

// NewKeyPair makes one.
func NewKeyPair() (KeyPair, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("making a key of WireGuard: %w", err)
	}
	text := base64.StdEncoding.EncodeToString
	return KeyPair{Private: text(key.Bytes()), Public: text(key.PublicKey().Bytes())}, nil
}

// Tunnel is one end of a WireGuard tunnel.
type Tunnel struct {
	// PrivateKey is this end's, PeerKey the other end's public one.
	PrivateKey, PeerKey string
	// Port is where this end listens.
	Port int
	// Endpoint is where the other end is; empty when it has to call first.
	Endpoint string
	// Allowed are the CIDRs of the other end, Address is this end's with its length.
	Allowed []string
	Address string
}

// WireGuard makes a tunnel; its device in the namespace has the name Name(end).
func (n *Namespace) WireGuard(ctx context.Context, end string, t Tunnel) error {
	device := Name(end)
	key := n.side.File(device + ".key")
	if err := os.WriteFile(key, []byte(t.PrivateKey+"\n"), 0o600); err != nil {
		return fmt.Errorf("making the tunnel %s: %w", device, err)
	}
	program := n.Command("wireguard-go", "--foreground", device)
	program.Env = []string{"WG_PROCESS_FOREGROUND=1", "LOG_LEVEL=verbose"}
	if err := n.side.start(ctx, "wireguard-go-"+device, program, fileThere("/var/run/wireguard/"+device+".sock")); err != nil {
		return err
	}
	peer := []string{"peer", t.PeerKey, "allowed-ips", strings.Join(t.Allowed, ",")}
	if t.Endpoint != "" {
		peer = append(peer, "endpoint", t.Endpoint)
	}
	set := append([]string{"set", device, "listen-port", strconv.Itoa(t.Port), "private-key", key}, peer...)
	if _, err := n.Run(ctx, "wg", set...); err != nil {
		return fmt.Errorf("making the tunnel %s: %w", device, err)
	}
	for _, args := range [][]string{{"address", "add", t.Address, "dev", device}, {"link", "set", device, "mtu", "1420", "up"}} {
		if err := n.ip(ctx, args...); err != nil {
			return fmt.Errorf("making the tunnel %s: %w", device, err)
		}
	}
	return nil
}
