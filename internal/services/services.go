// Package services is the frame for what a node runs beside its application because
// storage or a network wants it: iSCSI, shared LVM, OVN and the like.
//
// A service is a plug-in: a value of Service, put into the Registry by the daemon. It
// checks a configuration, plans the way from one to the next, and says what it observes.
// What it needs of the machine are functions that the daemon gives it; steps of its plan
// that only a tool can do are done by an adapter under internal/system.
//
// Configurations travel as JSON, since each service has its own; Typed turns functions on
// Go values into a Service.
//
// Invariants: a plan is a function of both configurations and the facts, and empty when
// nothing would change; what a service did not set up itself (a login that Incus made) it
// does not take down. A name that is known but not in this release is off, and says so:
// Incus asks for some of them by name before it uses a storage driver.
package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// Service is one service. Configurations are JSON objects; nil stands for none, which is
// a service that is off.
type Service interface {
	// Name is the service's name in paths, as "iscsi".
	Name() string
	// Check gives the configuration with its defaults; what is wrong is a config.Problems.
	Check(raw json.RawMessage) (json.RawMessage, error)
	// Plan says what goes from one checked configuration to another. It observes the node.
	Plan(ctx context.Context, before, next json.RawMessage) (plan.Plan, error)
	// State is what the API shows below "state".
	State(ctx context.Context) (any, error)
	// Reset brings a service that hangs back to life; ErrNoReset where that has no meaning.
	Reset(ctx context.Context) error
}

// Errors of the registry and of services.
var (
	// ErrUnknown is a name that no service has.
	ErrUnknown = errors.New("there is no such service")
	// ErrLater is a service that this release does not have.
	ErrLater = errors.New("this release does not have the service")
	// ErrNoReset is a service without a reset.
	ErrNoReset = errors.New("reset isn't supported by this service")
	// ErrDisabled is a reset of a service that is off.
	ErrDisabled = errors.New("the service is not enabled")
)

// later are the services that clients of the API know and this release may lack.
var later = []string{"ceph", "iscsi", "linstor", "lvm", "multipath", "netbird", "nvme", "ovn", "tailscale", "usbip"}

// Registry holds the services of a node.
type Registry struct{ byName map[string]Service }

// NewRegistry makes one. Two services of one name are a mistake of the program and panic.
func NewRegistry(list ...Service) Registry {
	byName := map[string]Service{}
	for _, s := range list {
		if byName[s.Name()] != nil {
			panic("services: two services are called " + s.Name())
		}
		byName[s.Name()] = s
	}
	return Registry{byName}
}

// Names are the services that this node has, sorted.
func (r Registry) Names() []string { return slices.Sorted(maps.Keys(r.byName)) }

// Get gives a service. ErrLater and ErrUnknown come wrapped, with the names there are.
func (r Registry) Get(name string) (Service, error) {
	if s := r.byName[name]; s != nil {
		return s, nil
	}
	cause := ErrUnknown
	if slices.Contains(later, name) {
		cause = ErrLater
	}
	return nil, fmt.Errorf("service %q: %w; it has: %s", name, cause, strings.Join(r.Names(), ", "))
}

// Document is what GET shows: the configuration that is kept (nil for none) and the state.
// A service of a later release is shown as one that is off.
func (r Registry) Document(ctx context.Context, name string, kept json.RawMessage) (api.Service, error) {
	s, err := r.Get(name)
	if errors.Is(err, ErrLater) {
		return api.Service{Config: api.ServiceDisabled{}, State: api.ServiceNoState{}}, nil
	}
	if err != nil {
		return api.Service{}, err
	}
	// The check fills in what the kept document does not say.
	shown, err := s.Check(kept)
	if err != nil {
		return api.Service{}, fmt.Errorf("reading the kept configuration of service %s: %w", name, err)
	}
	state, err := s.State(ctx)
	if err != nil {
		return api.Service{}, fmt.Errorf("reading the state of service %s: %w", name, err)
	}
	return api.Service{Config: shown, State: state}, nil
}

// Typed is a Service with a configuration of type C and facts of type F.
type Typed[C, F any] struct {
	// Service is the name.
	Service string
	// CheckConfig fills in defaults and gives all problems.
	CheckConfig func(*C) config.Problems
	// Observe gives the facts that a plan is made from.
	Observe func(context.Context) (F, error)
	// PlanChange is the pure plan.
	PlanChange func(before, next C, facts F) plan.Plan
	// Describe makes the state for the API from the facts.
	Describe func(F) any
	// Restart is the reset; nil for ErrNoReset.
	Restart func(context.Context) error
}

// Name is part of Service.
func (t Typed[C, F]) Name() string { return t.Service }

// Check is part of Service.
func (t Typed[C, F]) Check(raw json.RawMessage) (json.RawMessage, error) {
	value, err := t.decode(raw)
	if err != nil {
		return nil, err
	}
	if err := t.CheckConfig(&value).Err(); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

// Plan is part of Service.
func (t Typed[C, F]) Plan(ctx context.Context, before, next json.RawMessage) (plan.Plan, error) {
	from, err := t.decode(before)
	if err != nil {
		return plan.Plan{}, err
	}
	to, err := t.decode(next)
	if err != nil {
		return plan.Plan{}, err
	}
	facts, err := t.Observe(ctx)
	if err != nil {
		return plan.Plan{}, fmt.Errorf("looking at service %s: %w", t.Service, err)
	}
	return t.PlanChange(from, to, facts), nil
}

// State is part of Service.
func (t Typed[C, F]) State(ctx context.Context) (any, error) {
	facts, err := t.Observe(ctx)
	if err != nil {
		return nil, err
	}
	return t.Describe(facts), nil
}

// Reset is part of Service.
func (t Typed[C, F]) Reset(ctx context.Context) error {
	if t.Restart == nil {
		return fmt.Errorf("service %s: %w", t.Service, ErrNoReset)
	}
	return t.Restart(ctx)
}

// decode reads a configuration strictly; nil and null give the zero value.
func (t Typed[C, F]) decode(raw json.RawMessage) (value C, err error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return value, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&value)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return value, config.Problems{{Path: wrong.Field, Rule: "type", Text: "a JSON " + wrong.Value + " does not fit here"}}
	case err != nil:
		return value, config.Problems{{Path: "config", Rule: "document", Text: strings.TrimPrefix(err.Error(), "json: ")}}
	}
	return value, nil
}
