package networkd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Anybody on the wire can say what he likes over LLDP.
const (
	maxNeighbours = 64  // of one card
	maxLLDPText   = 255 // characters of one value; the protocol allows no more bytes
)

// Neighbours gives the LLDP neighbours by device, the first maxNeighbours of each.
// Characters that are not printable are replaced.
func (h Host) Neighbours(ctx context.Context) (map[string][]api.NetworkLLDP, error) {
	result, err := h.Run(ctx, run.Command{Name: "networkctl", Args: []string{"--json=short", "lldp"}})
	if err != nil {
		return nil, fmt.Errorf("asking networkd for LLDP neighbours: %w", err)
	}
	neighbours, err := parseNeighbours(result.Stdout)
	if err != nil {
		return nil, fmt.Errorf("asking networkd for LLDP neighbours: reading its answer: %w", err)
	}
	return neighbours, nil
}

func parseNeighbours(data []byte) (map[string][]api.NetworkLLDP, error) {
	var answer struct {
		Neighbors []struct {
			InterfaceName string
			Neighbors     []struct {
				ChassisID, SystemName, PortID, PortDescription string
			}
		}
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, err
	}
	all := map[string][]api.NetworkLLDP{}
	for _, device := range answer.Neighbors {
		for _, n := range device.Neighbors {
			if len(all[device.InterfaceName]) == maxNeighbours {
				break
			}
			all[device.InterfaceName] = append(all[device.InterfaceName], api.NetworkLLDP{
				ChassisID: printable(n.ChassisID), Name: printable(n.SystemName),
				PortID: printable(n.PortID), Port: printable(n.PortDescription),
			})
		}
	}
	return all, nil
}

// printable is a text that is safe on a terminal.
func printable(text string) string {
	runes := []rune(strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = unicode.ReplacementChar
		}
	}
	return string(runes[:min(len(runes), maxLLDPText)])
}
