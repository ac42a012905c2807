package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

func networks() []measurement {
	return []measurement{{
		Name: "network", Take: takeNetwork, Machines: true, Apart: "it is a step of a test of a quarter of an hour", Rows: []metric{
			{ID: "network-apply", What: "a change of an address, from the request to a connection", Unit: inMilliseconds, Limit: 1.3, Times: true,
				Against: "`networkctl reload` of the same file to a connection",
				Missed: "the request comes through TLS and Incus' proxy, is checked, planned and noted on an encrypted disk before it is made, all on an emulated processor; " +
					"keeping facts about the cards instead of asking `ip` would close most of it"},
		},
	}}
}

// networkLine is what the test says.
var networkLine = regexp.MustCompile(`NUMBER network_apply (\S+) (\S+)`)

// takeNetwork changes an address of a virtual machine as its owner does, and as networkd does alone.
func takeNetwork(ctx context.Context, b *bench) ([]record, error) {
	const test = "TestNetwork_OnTheWire"
	result, err := b.runner(ctx, run.Command{Name: "go", Dir: b.root, Args: []string{"test", "-count=1", "-timeout", "2h", "-v", "./test/vm", "-long", "-run", "^" + test + "$"}})
	found := networkLine.FindStringSubmatch(string(result.Stdout))
	if found == nil {
		return nil, fmt.Errorf("changing the network: %s said no number: %w", test, err)
	}
	var numbers [2]float64
	for i := range numbers {
		if numbers[i], err = strconv.ParseFloat(found[i+1], 64); err != nil {
			return nil, fmt.Errorf("reading how long a change takes: %w", err)
		}
	}
	return []record{{ID: "network-apply", Value: numbers[0], Other: numbers[1], How: test + " in test/vm: medians of five changes each, " +
		"from the API request to the first accepted TCP connection at the new address, and from the start of networkctl to the same."}}, nil
}
