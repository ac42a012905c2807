package network_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/network"
)

// secretive has one secret of each kind. The arguments stand in their places.
func secretive(private, preshared, wol, password string) api.NetworkConfig {
	return api.NetworkConfig{
		Proxy: &api.NetworkProxy{Servers: map[string]api.NetworkProxyServer{
			"corp": {Auth: "basic", Host: "proxy.example.org", Username: "node", Password: password}, "open": {Auth: "anonymous", Host: "open.example.org"}}},
		Interfaces: []api.NetworkInterface{{Name: "lan", Hwaddr: mac, Ethernet: &api.NetworkEthernet{
			WakeOnLAN: true, WakeOnLANModes: []string{"secureon"}, WakeOnLANPassword: wol}}, {Name: "guests", Hwaddr: "eth1"}},
		Bonds: []api.NetworkBond{{Name: "bond", Mode: "broadcast", Members: []string{"eth2"}, Ethernet: &api.NetworkEthernet{WakeOnLANPassword: wol}}},
		Wireguard: []api.NetworkWireguard{{Name: "vpn", PrivateKey: private, Peers: []api.NetworkWireguardPeer{
			{PublicKey: "XjkUN/8MinmbnJOBZgqORQ1heUVcRjw2zNWQowNGEEo="}, {PublicKey: key, PresharedKey: preshared}}}},
	}
}

var clear = func() api.NetworkConfig {
	return secretive("6/IM78kWngtxRwPWPUgMPmPGSoU1oTrPWmLqZsXw6ow=", "TbdiDHZpxZ0q4Dvtm4vTQM0oegGNBs3UNiwQSR/awj4=", "00:11:22:33:44:55", "hunter2")
}

// What is shown must hold no secret, and what is kept must not be changed by showing it.
func TestHide_EachSecret_IsAReference(t *testing.T) {
	kept := clear()
	shown := network.Hide(kept)
	if diff := cmp.Diff(secretive(config.Secret, config.Secret, config.Secret, config.Secret), shown); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(clear(), kept); diff != "" {
		t.Errorf("the configuration was changed: %s", diff)
	}
}

// A document that was shown can be sent back, also when lists are in another order.
func TestKeep_ShownDocumentSentBack_HasItsSecrets(t *testing.T) {
	sent := network.Hide(clear())
	peers := sent.Wireguard[0].Peers
	peers[0], peers[1] = peers[1], peers[0]
	want := clear()
	wanted := want.Wireguard[0].Peers
	wanted[0], wanted[1] = wanted[1], wanted[0]
	got, problems := network.Keep(sent, clear())
	if diff := cmp.Diff(want, got); diff != "" || len(problems) > 0 {
		t.Error(diff, problems)
	}
	if diff := cmp.Diff(config.Secret, sent.Wireguard[0].PrivateKey); diff != "" {
		t.Errorf("the configuration was changed: %s", diff)
	}
}

// A reference on a device that is new would otherwise become an empty password.
func TestKeep_ReferenceToNothing_IsAProblem(t *testing.T) {
	sent := network.Hide(clear())
	_, problems := network.Keep(sent, api.NetworkConfig{Wireguard: []api.NetworkWireguard{{Name: "vpn", PrivateKey: key}}})
	var got []string
	for _, p := range problems {
		got = append(got, p.Path+" "+p.Rule)
	}
	want := []string{"proxy.servers.corp.password secret", "interfaces[0].ethernet.wakeonlan_password secret",
		"bonds[0].ethernet.wakeonlan_password secret", "wireguard[0].peers[1].preshared_key secret"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An owner who keeps a document without a key must not get a new key with each change.
func TestKeep_NoPrivateKey_GetsTheKeptOne(t *testing.T) {
	got, problems := network.Keep(secretive("", "", "", ""), clear())
	want := secretive("6/IM78kWngtxRwPWPUgMPmPGSoU1oTrPWmLqZsXw6ow=", "", "", "")
	if diff := cmp.Diff(want, got); diff != "" || len(problems) > 0 {
		t.Error(diff, problems)
	}
}

func TestMakeKeys_MissingKey_IsMadeOfTheRandomBytes(t *testing.T) {
	c := api.NetworkConfig{Wireguard: []api.NetworkWireguard{{Name: "a", PrivateKey: key}, {Name: "b"}}}
	got, made, err := network.MakeKeys(c, bytes.NewReader(bytes.Repeat([]byte{0xff}, 32)))
	// 32 bytes of 0xff with the lowest three bits and the highest cleared.
	want := api.NetworkConfig{Wireguard: []api.NetworkWireguard{{Name: "a", PrivateKey: key}, {Name: "b", PrivateKey: "+P" + strings.Repeat("/", 39) + "38="}}}
	if err != nil || !made {
		t.Fatal(made, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, made, err := network.MakeKeys(got, strings.NewReader("")); made || err != nil {
		t.Errorf("made %t, %v", made, err)
	}
	if _, _, err := network.MakeKeys(c, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// The vector of RFC 7748, section 6.1.
func TestPublicKey_KnownKey_IsAsTheStandardSays(t *testing.T) {
	got, err := network.PublicKey("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=")
	if want := "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="; err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if got, err := network.PublicKey(key[:43]); err == nil || strings.Contains(err.Error(), key[:43]) {
		t.Errorf("got %s, %v", got, err)
	}
}

// The text of what is wrong goes into answers and logs.
func TestValidate_WrongSecrets_AreNotInTheProblems(t *testing.T) {
	c := secretive("private-secret", "preshared-secret", "wol-secret", "proxy-secret\x01")
	text, err := json.Marshal(network.Validate(c))
	if err != nil || bytes.Contains(text, []byte("-secret")) || !bytes.Contains(text, []byte("private_key")) {
		t.Errorf("%s %v", text, err)
	}
}
