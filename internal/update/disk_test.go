package update_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// powerCut and restarted end a session of the simulated machine, wherever it is.
type (
	powerCut  struct{}
	restarted struct{}
)

// cut says what of the writes since the last flush is on the disk after a power cut.
type cut string

const (
	cutKeep    cut = "all kept"    // the write under way too
	cutDrop    cut = "all lost"    // back to the last flush
	cutTorn    cut = "last torn"   // half of the write under way, and all before
	cutReorder cut = "last alone"  // the write under way, and none before
	cutHalf    cut = "half of all" // the older half
)

var cuts = []cut{cutKeep, cutDrop, cutTorn, cutReorder, cutHalf}

// op is one write: a value, or nothing (a removal), or the move of a value. atomic ones
// cannot be torn.
type op struct {
	key, value, from string
	remove, atomic   bool
}

// disk is everything that survives a power cut: flushed for sure, the rest by luck. Each
// write and each flush is a step at which the power can be cut.
type disk struct {
	durable, current map[string]string
	pending          []op
	steps            int
	cutAt            int
	mode             cut
	// fail has a write to a key that begins so fail.
	fail map[string]error
	// lies has a flush do nothing, as a disk that only says that it has written.
	lies bool
}

func newDisk() *disk { return &disk{durable: map[string]string{}, current: map[string]string{}} }

func apply(to map[string]string, o op) {
	switch {
	case o.remove:
		delete(to, o.key)
	case o.from != "":
		if v, ok := to[o.from]; ok && o.from != o.key {
			to[o.key] = v
			delete(to, o.from)
		}
	default:
		to[o.key] = o.value
	}
}

func (d *disk) do(o op) error {
	for prefix, err := range d.fail {
		if strings.HasPrefix(o.key, prefix) {
			return fmt.Errorf("writing %s: %w", o.key, err)
		}
	}
	if d.steps++; d.steps == d.cutAt {
		d.cutPower(&o)
	}
	apply(d.current, o)
	d.pending = append(d.pending, o)
	return nil
}

func (d *disk) put(key, value string) error  { return d.do(op{key: key, value: value}) }
func (d *disk) link(key, value string) error { return d.do(op{key: key, value: value, atomic: true}) }
func (d *disk) remove(key string) error      { return d.do(op{key: key, remove: true}) }
func (d *disk) rename(from, to string) error { return d.do(op{key: to, from: from, atomic: true}) }

func (d *disk) flush() {
	if d.steps++; d.steps == d.cutAt {
		d.cutPower(nil)
	}
	if d.lies {
		return
	}
	d.durable, d.pending = maps.Clone(d.current), nil
}

// cutPower ends the session; last is the write under way, nil for a flush.
func (d *disk) cutPower(last *op) {
	kept := slices.Clone(d.pending)
	switch d.mode {
	case cutKeep:
		if last != nil {
			kept = append(kept, *last)
		}
	case cutDrop:
		kept = nil
	case cutTorn:
		if last != nil && !last.atomic && !last.remove {
			torn := *last
			torn.value = torn.value[:len(torn.value)/2]
			kept = append(kept, torn)
		}
	case cutReorder:
		kept = nil
		if last != nil {
			kept = append(kept, *last)
		}
	case cutHalf:
		kept = kept[:len(kept)/2]
	}
	for _, o := range kept {
		apply(d.durable, o)
	}
	d.current, d.pending = maps.Clone(d.durable), nil
	panic(powerCut{})
}
