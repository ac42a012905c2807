package update_test

import (
	"testing"

	"github.com/holdfast-os/holdfast/internal/update"
)

// A rescue medium must not bring back what was mended since, and one that is to help out of a
// bad release must not be refused because of it.
func TestKnownGood_WhatRanHere_IsTheNewestThatWorks(t *testing.T) {
	const running, newer, older = "202611220104", "202611230104", "202611210104"
	for name, c := range map[string]struct {
		doc  update.Document
		want string
	}{
		"nothing is remembered":     {update.Document{}, running},
		"what runs is the newest":   {update.Document{Proved: &update.Release{Version: running}}, running},
		"a newer one was good":      {update.Document{Proved: &update.Release{Version: newer}, Bad: []update.BadRelease{{Version: older}}}, newer},
		"and was found bad since":   {update.Document{Proved: &update.Release{Version: newer}, Bad: []update.BadRelease{{Version: newer}}}, running},
		"the last one is older yet": {update.Document{Proved: &update.Release{Version: older}}, running},
	} {
		if got := c.doc.KnownGood(running); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
