// Package shop is a small API for the tests of apidoc: something of each kind.
package shop

import (
	"encoding/json"
	"time"
)

// Item is /1.0/items/NAME.
type Item struct {
	// Config is what the owner asked for.
	Config *ItemConfig `json:"config"`
	// State is what is observed.
	State ItemState `json:"state"`
}

// ItemConfig is what an owner may set.
type ItemConfig struct {
	// Colour is "red", "green" or "blue".
	Colour Colour `json:"colour"`
	// Weight is in kilograms|pounds, <= 100; default 1.5.
	Weight float64 `json:"weight,omitempty"`
	// Size is "small" or "large"; default "large".
	Size string `json:"size,omitempty"`
	// Labels are free words, as "new". They count only with MaxAge.
	Labels []string `json:"labels,omitempty"`
	// MaxAge is in seconds; default 3600.
	MaxAge uint32 `json:"max_age"`
	// Parts are by place; never null.
	Parts map[string]Part `json:"parts"`
}

// Part is one part, which may have parts itself.
type Part struct {
	Base
	// Parts are those inside, down to the last.
	Parts []Part `json:"parts,omitempty"`
}

// Base is what all parts have.
type Base struct {
	// Serial is the maker's number.
	// Example: "A-17"
	Serial string `json:"serial"`
}

// ItemState is what is observed.
type ItemState struct {
	// Sold is when it was sold; null before.
	Sold *time.Time `json:"sold"`
	// Ready is true once it can be had.
	Ready bool `json:"ready"`
	// Raw is the seller's own document.
	Raw json.RawMessage `json:"raw,omitempty"`
	// SpaceInBytes is what it takes.
	SpaceInBytes int64 `json:"space_in_bytes"`
}

// Colour is a colour that paint exists for.
type Colour string

// The colours.
const (
	Red   Colour = "red"
	Green Colour = "green"
	Blue  Colour = "blue"
)

// Put is the body of a PUT.
type Put[T any] struct {
	// Config replaces the whole configuration.
	Config *T `json:"config"`
	// State is ignored.
	State json.RawMessage `json:"state,omitempty"`
}

// Job goes on in the background.
type Job struct {
	// ID is made at random, as "5c8f0e1d".
	ID string `json:"id"`
	// Kind has a comment elsewhere.
	Kind string `json:"-"`
}
