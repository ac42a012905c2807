package daemon

import (
	"context"
	"fmt"
	"slices"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/cacerts"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/recovery"
)

// Keys looks after what opens the node's volumes.
type Keys interface {
	// Prepare makes sure that there is a recovery key, and opens swap. It may be called
	// again.
	Prepare(ctx context.Context) error
	// Recovery is the key that early boot has made.
	Recovery(ctx context.Context) (string, error)
	// Rebind binds the volumes to the TPM in its present state: ErrInvalid when there is
	// no reason to.
	Rebind(ctx context.Context) error
}

// CheckSecurity is the check of the section "security". A key or certificate that is sent
// back by reference stays what it is at that place of the list.
func CheckSecurity(value, kept *osapi.SecurityConfig, facts cacerts.Facts) error {
	var before osapi.SecurityConfig
	if kept != nil {
		before = *kept
	}
	var problems config.Problems
	value.EncryptionRecoveryKeys = slices.Clone(value.EncryptionRecoveryKeys)
	for i := range value.EncryptionRecoveryKeys {
		is := ""
		if i < len(before.EncryptionRecoveryKeys) {
			is = before.EncryptionRecoveryKeys[i]
		}
		if !config.Keep(&value.EncryptionRecoveryKeys[i], is) {
			problems.Add(fmt.Sprintf("encryption_recovery_keys[%d]", i), "kept", "there is no key to keep at this place of the list")
		}
	}
	if len(problems) > 0 {
		return problems
	}
	problems = recovery.Check(before.EncryptionRecoveryKeys, value.EncryptionRecoveryKeys)
	problems = append(problems, cacerts.Check(before.CustomCACerts, value.CustomCACerts, facts.Now)...)
	return problems.Err()
}

// PlanSecurity plans the section "security". At the start of the node, without a before,
// the keys are what they are, and the certificates have to be put where programs find them.
func PlanSecurity(before *osapi.SecurityConfig, next osapi.SecurityConfig, facts cacerts.Facts) (plan.Plan, error) {
	var whole plan.Plan
	if before != nil && !slices.Equal(before.EncryptionRecoveryKeys, next.EncryptionRecoveryKeys) {
		whole = recovery.NewPlan(before.EncryptionRecoveryKeys, next.EncryptionRecoveryKeys)
	}
	certificates, err := cacerts.NewPlan(next.CustomCACerts, facts)
	whole.Append(certificates)
	return whole, err
}

// HideSecurity puts references in the place of the recovery keys.
func HideSecurity(c osapi.SecurityConfig) osapi.SecurityConfig {
	c.EncryptionRecoveryKeys = slices.Clone(c.EncryptionRecoveryKeys)
	for i := range c.EncryptionRecoveryKeys {
		config.Hide(&c.EncryptionRecoveryKeys[i])
	}
	return c
}

// getSecurity shows the recovery keys: this is where an owner gets them from.
func (d *Daemon) getSecurity(r *httpapi.Request) (any, error) {
	flags, err := d.memory.getSecurity()
	if err != nil {
		return nil, err
	}
	config, err := current(r.Context(), d, sectionSecurity, d.machine.Security)
	if err != nil {
		return nil, err
	}
	state, err := d.machine.Security.State(r.Context(), config)
	if err != nil {
		return nil, coded(err)
	}
	state.EncryptionRecoveryKeysRetrieved = flags.RecoveryKeysRetrieved
	state.SecureBoot = d.secureBootState()
	return httpapi.Tagged{Answer: osapi.Security{Config: config, State: state}, Tag: config}, nil
}

func (d *Daemon) securityRetrieved(r *httpapi.Request) (any, error) {
	flags, err := d.memory.getSecurity()
	if err != nil {
		return nil, err
	}
	flags.RecoveryKeysRetrieved = true
	if err := d.memory.setSecurity(flags); err != nil {
		return nil, err
	}
	d.showIdentity(r.Context())
	return nil, nil
}

// rebind binds the volumes anew, then restarts the node: only a start shows that they open.
func (d *Daemon) rebind(r *httpapi.Request) (any, error) {
	if err := d.machine.Keys.Rebind(r.Context()); err != nil {
		return nil, coded(err)
	}
	return d.behind("power", d.shownAs(console.Rebooting, func(ctx context.Context) error { return d.machine.Power.Reboot(ctx) })), nil
}

// prepareKeys opens swap, and takes the key that early boot has made as the first one of
// the owner's list.
func (d *Daemon) prepareKeys(ctx context.Context) error {
	if err := d.machine.Keys.Prepare(ctx); err != nil {
		return err
	}
	return d.seedSecurity(ctx)
}
