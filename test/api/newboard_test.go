package api_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

// The board of a node was replaced, and every network card is another one: the node asks for
// addresses at those that it has until its owner has said what they are for.
func TestNetwork_EveryCardIsAnotherOne_CanBeReachedUntilItIsConfigured(t *testing.T) {
	dir := folder(t)
	const mac = "52:54:00:00:00:99"
	var kept osapi.Network
	t.Run("before", func(t *testing.T) {
		n := start(t, simulate.Options{Dir: dir})
		n.get("/1.0/system/network", &kept)
		kept.Config.Interfaces = kept.Config.Interfaces[:1]
		kept.Config.Interfaces[0].Name = "lan"
		n.put("/1.0/system/network", kept.Config)
		n.get("/1.0/system/network", &kept)
	})
	t.Run("after", func(t *testing.T) {
		n := start(t, simulate.Options{Dir: dir, Cards: []network.Card{{Name: "eno9", Hwaddr: mac, Permanent: true}}})
		names := func() []string {
			var now osapi.Network
			n.get("/1.0/system/network", &now)
			var list []string
			for name, state := range now.State.Interfaces {
				if state.Type != "physical" && state.State == "routable" {
					list = append(list, name)
				}
			}
			slices.Sort(list)
			return list
		}
		var now osapi.Network
		n.get("/1.0/system/network", &now)
		if diff := cmp.Diff(kept.Config, now.Config); diff != "" {
			t.Errorf("the configuration (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"eno9"}, names()); diff != "" {
			t.Errorf("interfaces with addresses: %s", diff)
		}
		config := now.Config
		config.Interfaces = []osapi.NetworkInterface{{Name: "new", Hwaddr: mac, Addresses: []string{"dhcp4"}}}
		n.put("/1.0/system/network", config)
		if diff := cmp.Diff([]string{"new"}, names()); diff != "" {
			t.Errorf("interfaces with addresses once the card is configured: %s", diff)
		}
	})
}
