package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// measurements is the one list: each family is a file of its own. The rows of the page
// have this order.
func measurements() []measurement {
	return slices.Concat(
		sizes(),
		whole(),
		installs(),
		starts(),
		memories(),
		apis(),
		networks(),
		updates(),
	)
}

// measurement takes numbers that come from one piece of work.
type measurement struct {
	// Name is what -only calls it: small letters, digits and "-".
	Name string
	// Rows are the numbers that it takes.
	Rows []metric
	// Apart says why a run without -only leaves it out; empty means that it does not.
	Apart string
	// Machines is true when virtual machines of the lab are needed.
	Machines bool
	// Take does the work. It gives a record for each row whose number it has; what it
	// leaves out stays as it was. When and under which conditions is filled in for it.
	Take func(context.Context, *bench) ([]record, error)
}

// metric is one row of the page: what is measured, and what is promised.
type metric struct {
	// ID is the key of its record, never used for anything else later.
	ID string
	// What is measured, for a person.
	What string
	// Unit is what the record's numbers are in.
	Unit unit
	// Limit is the target, in Unit; with Times it bounds the ratio of both numbers.
	Limit float64
	Times bool
	// Against is what it is compared with; empty means nothing.
	Against string
	// Missed is shown while the target is missed: the reason, and what would close it.
	Missed string
}

// unit is what a number is in.
type unit int

const (
	// inBytes are shown as MB, powers of ten, as the targets are.
	inBytes unit = iota
	// inSeconds are shown as s, or as min where that is even.
	inSeconds
	// inMilliseconds are seconds too, shown as ms.
	inMilliseconds
	// inPieces are counted.
	inPieces
)

// choose gives the measurements to take, in the order of the list.
func choose(all []measurement, only string) ([]measurement, error) {
	var chosen []measurement
	if only == "none" {
		return nil, nil
	}
	if only == "" {
		for _, m := range all {
			if m.Apart == "" {
				chosen = append(chosen, m)
			}
		}
		return chosen, nil
	}
	wanted := strings.Split(only, ",")
	for _, m := range all {
		if i := slices.Index(wanted, m.Name); i >= 0 {
			chosen = append(chosen, m)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("there is no measurement %q: the list is\n%s", wanted[0], listing(all))
	}
	return chosen, nil
}

// listing names all measurements, one a line.
func listing(all []measurement) string {
	var b strings.Builder
	for _, m := range all {
		var whats []string
		for _, row := range m.Rows {
			whats = append(whats, row.What)
		}
		apart := ""
		if m.Apart != "" {
			apart = " (only when named: " + m.Apart + ")"
		}
		fmt.Fprintf(&b, "%-9s %s%s\n", m.Name, strings.Join(whats, "; "), apart)
	}
	return b.String()
}
