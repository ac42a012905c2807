package network

import (
	"cmp"
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// Hide gives a copy that may be shown: a reference stands in the place of each private
// key, preshared key and password. The configuration given is not changed.
func Hide(c api.NetworkConfig) api.NetworkConfig {
	c = cloneSecrets(c)
	eachSecret(&c, func(_, _ string, value *string) { config.Hide(value) })
	return c
}

// Keep gives a copy with the kept secrets in the place of the references that Hide put
// there. A secret belongs to the name of its device or proxy server, and that of a peer
// to its public key as well. A reference to what is not kept is a problem. A WireGuard
// device without private key gets the kept one too, so that a document that never had
// one can be sent again. The configuration given is not changed.
func Keep(c, kept api.NetworkConfig) (api.NetworkConfig, Problems) {
	c, kept = cloneSecrets(c), cloneSecrets(kept)
	had := map[string]string{}
	eachSecret(&kept, func(_, id string, value *string) { had[id] = *value })
	var p checker
	eachSecret(&c, func(path, id string, value *string) {
		if !config.Keep(value, had[id]) {
			p.kept(path)
		}
	})
	for i := range c.Wireguard {
		w := &c.Wireguard[i]
		w.PrivateKey = cmp.Or(w.PrivateKey, had[privateKeyID(w.Name)])
	}
	return c, p.Problems
}

// eachSecret hands out each secret with the path of its field and with what it belongs
// to, which does not change when a list is sorted otherwise.
func eachSecret(c *api.NetworkConfig, do func(path, id string, value *string)) {
	if c.Proxy != nil {
		for _, name := range slices.Sorted(maps.Keys(c.Proxy.Servers)) {
			server := c.Proxy.Servers[name]
			do("proxy.servers."+name+".password", "proxy "+name, &server.Password)
			c.Proxy.Servers[name] = server
		}
	}
	ethernet := func(path, name string, e *api.NetworkEthernet) {
		if e != nil {
			do(path+".ethernet.wakeonlan_password", "wakeonlan "+name, &e.WakeOnLANPassword)
		}
	}
	for i, n := range c.Interfaces {
		ethernet(fmt.Sprintf("interfaces[%d]", i), shortName(n.Name), n.Ethernet)
	}
	for i, n := range c.Bonds {
		ethernet(fmt.Sprintf("bonds[%d]", i), n.Name, n.Ethernet)
	}
	for i := range c.Wireguard {
		w := &c.Wireguard[i]
		path := fmt.Sprintf("wireguard[%d]", i)
		do(path+".private_key", privateKeyID(w.Name), &w.PrivateKey)
		for j := range w.Peers {
			peer := &w.Peers[j]
			do(fmt.Sprintf("%s.peers[%d].preshared_key", path, j), "peer "+w.Name+" "+peer.PublicKey, &peer.PresharedKey)
		}
	}
}

func privateKeyID(name string) string { return "wireguard " + name }

// cloneSecrets copies all that eachSecret writes to.
func cloneSecrets(c api.NetworkConfig) api.NetworkConfig {
	if c.Proxy != nil {
		proxy := *c.Proxy
		proxy.Servers = maps.Clone(proxy.Servers)
		c.Proxy = &proxy
	}
	c.Interfaces, c.Bonds, c.Wireguard = slices.Clone(c.Interfaces), slices.Clone(c.Bonds), slices.Clone(c.Wireguard)
	for i := range c.Interfaces {
		c.Interfaces[i].Ethernet = cloneEthernet(c.Interfaces[i].Ethernet)
	}
	for i := range c.Bonds {
		c.Bonds[i].Ethernet = cloneEthernet(c.Bonds[i].Ethernet)
	}
	for i := range c.Wireguard {
		c.Wireguard[i].Peers = slices.Clone(c.Wireguard[i].Peers)
	}
	return c
}

func cloneEthernet(e *api.NetworkEthernet) *api.NetworkEthernet {
	if e == nil {
		return nil
	}
	clone := *e
	return &clone
}

// MakeKeys gives a copy in which each WireGuard device has a private key: those without
// one get one made of 32 bytes of random, which must be fit for keys. It reports whether
// it made any; then the copy has to be kept, or the peers must be told anew at each
// start. The configuration given is not changed.
func MakeKeys(c api.NetworkConfig, random io.Reader) (api.NetworkConfig, bool, error) {
	made := false
	c.Wireguard = slices.Clone(c.Wireguard)
	for i := range c.Wireguard {
		w := &c.Wireguard[i]
		if w.PrivateKey != "" {
			continue
		}
		key := make([]byte, 32)
		if _, err := io.ReadFull(random, key); err != nil {
			return c, false, fmt.Errorf("making the private key of the WireGuard device %s: %w", w.Name, err)
		}
		// As wg genkey does: some bits of a key of Curve25519 are fixed.
		key[0] &= 248
		key[31] = key[31]&127 | 64
		w.PrivateKey = base64.StdEncoding.EncodeToString(key)
		made = true
	}
	return c, made, nil
}

// PublicKey gives the public key of a private key of WireGuard, which peers have to be
// told.
func PublicKey(private string) (string, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(private)
	if err != nil || !wireguardKey(private) {
		return "", errors.New("reading a private key of WireGuard: it is not 32 bytes in base64")
	}
	parsed, err := ecdh.X25519().NewPrivateKey(key)
	if err != nil {
		return "", errors.New("reading a private key of WireGuard: it cannot be used")
	}
	return base64.StdEncoding.EncodeToString(parsed.PublicKey().Bytes()), nil
}
