package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// NetworkHands put a plan of the network on a machine.
type NetworkHands interface {
	// World is what the machine has.
	World(ctx context.Context) (network.World, error)
	// Carry goes from one plan to the next; the zero plan is a machine on which nothing
	// was done yet.
	Carry(ctx context.Context, before, next network.Plan) error
	// WaitOnline waits until the node has the addresses that it must have. At the start it
	// does not fail without a network: what runs on the node must not be down because a
	// switch is.
	WaitOnline(ctx context.Context, now network.Plan, starting bool) error
	// Warn tells whoever stands before the machine, and the log.
	Warn(ctx context.Context, text string)
	// Observe gives the devices of a plan as they are.
	Observe(ctx context.Context, now network.Plan) (map[string]osapi.NetworkInterfaceState, error)
}

// networkSetting is the section "network". What is in effect is remembered as a plan, since
// the way to the next one begins there.
type networkSetting struct {
	hands NetworkHands

	mu  sync.Mutex
	now network.Plan
	// seen is the machine as it was at the time seenAt.
	seen   network.World
	seenAt time.Time
}

// NewNetworkSetting makes the setting on a machine.
func NewNetworkSetting(hands NetworkHands) Setting[osapi.NetworkConfig, osapi.NetworkState] {
	return &networkSetting{hands: hands}
}

// worldHolds is how long a look at the machine serves: checking, planning and applying
// one change look at the same machine, and do not wait for three looks.
const worldHolds = 5 * time.Second

func (s *networkSetting) world(ctx context.Context) (network.World, error) {
	s.mu.Lock()
	seen, age := s.seen, time.Since(s.seenAt)
	s.mu.Unlock()
	if age < worldHolds {
		return seen, nil
	}
	return s.look(ctx)
}

// look asks the machine anew.
func (s *networkSetting) look(ctx context.Context) (network.World, error) {
	world, err := s.hands.World(ctx)
	if err != nil {
		return network.World{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.seenAt = world, time.Now()
	return world, nil
}

// Check is part of Setting. Keys that the node has to make are made here, so that what is
// kept is whole.
func (s *networkSetting) Check(ctx context.Context, value, kept *osapi.NetworkConfig) error {
	world, err := s.look(ctx)
	if err != nil {
		return err
	}
	value.ConfirmationTimeout = ""
	if kept == nil && reflect.DeepEqual(*value, osapi.NetworkConfig{}) {
		// Nobody has said anything: that is always right, and asked for at each GET.
		*value = network.WithDefaults(*value, world.Cards)
		return nil
	}
	var before osapi.NetworkConfig
	if kept != nil {
		before = *kept
	}
	whole, problems := network.Keep(*value, before)
	problems = append(problems, network.Validate(whole)...)
	if len(problems) > 0 {
		return problems
	}
	whole, problems = network.Resolve(network.WithDefaults(whole, world.Cards), world)
	if len(problems) > 0 {
		return problems
	}
	if whole, _, err = network.MakeKeys(whole, rand.Reader); err != nil {
		return err
	}
	if _, err := network.NewPlan(whole, world); err != nil {
		return asProblems(err)
	}
	*value = whole
	return nil
}

// asProblems makes an error of a planner one that the caller can mend.
func asProblems(err error) error {
	var problems config.Problems
	if errors.As(err, &problems) {
		return problems
	}
	problems.Add("", "machine", "%s", err)
	return problems
}

// Plan is part of Setting.
func (s *networkSetting) Plan(ctx context.Context, _ *osapi.NetworkConfig, next osapi.NetworkConfig) (plan.Plan, error) {
	made, err := s.plan(ctx, next)
	if err != nil {
		return plan.Plan{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return network.Change(s.now, made), nil
}

func (s *networkSetting) plan(ctx context.Context, c osapi.NetworkConfig) (network.Plan, error) {
	world, err := s.world(ctx)
	if err != nil {
		return network.Plan{}, err
	}
	return network.NewPlan(c, world)
}

// Apply is part of Setting. Before is nil at the start.
func (s *networkSetting) Apply(ctx context.Context, before *osapi.NetworkConfig, next osapi.NetworkConfig) error {
	s.mu.Lock()
	starting := before == nil || s.now.Files == nil
	s.mu.Unlock()
	if starting {
		var err error
		if next, err = s.reachable(ctx, next); err != nil {
			return err
		}
	}
	made, err := s.plan(ctx, next)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.now
	// What is half done counts as done: the way back starts from all of it.
	s.now = made
	if err := s.hands.Carry(ctx, was, made); err != nil {
		return fmt.Errorf("setting the network up: %w", err)
	}
	return s.hands.WaitOnline(ctx, made, starting)
}

// reachable gives the configuration to start with. It is the kept one, unless the machine has
// none of its cards: what is added then is not kept, and goes with the next change.
func (s *networkSetting) reachable(ctx context.Context, kept osapi.NetworkConfig) (osapi.NetworkConfig, error) {
	world, err := s.world(ctx)
	if err != nil {
		return kept, err
	}
	whole, added := network.WithStrangers(kept, world.Cards)
	if len(added) > 0 {
		s.hands.Warn(ctx, fmt.Sprintf("this machine has none of the network cards of its configuration: until that is changed, %s ask for addresses (dhcp4, slaac)", strings.Join(added, ", ")))
	}
	return whole, nil
}

// Hide is part of Setting.
func (s *networkSetting) Hide(c osapi.NetworkConfig) osapi.NetworkConfig { return network.Hide(c) }

// State is part of Setting.
func (s *networkSetting) State(ctx context.Context, c osapi.NetworkConfig) (osapi.NetworkState, error) {
	s.mu.Lock()
	now := s.now
	s.mu.Unlock()
	states, err := s.hands.Observe(ctx, now)
	if err != nil {
		return osapi.NetworkState{}, err
	}
	network.AssignRoles(c, states)
	return osapi.NetworkState{Interfaces: states}, nil
}
