package network

import api "github.com/holdfast-os/holdfast/api/os"

// Resolve puts the MAC addresses of cards in the place of the kernel's names for them.
// What is kept must hold addresses: once a plan is in effect the cards have other names.
func Resolve(c api.NetworkConfig, world World) (api.NetworkConfig, Problems) {
	c = normalize(c)
	return c, resolve(c, world.Cards)
}
