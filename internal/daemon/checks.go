package daemon

import (
	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/logging"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// The sections that are Planned, as their packages have them.

// CheckKernel is the check of the section "kernel".
func CheckKernel(value, _ *osapi.KernelConfig, facts kernel.Facts) error {
	return kernel.Check(value, facts).Err()
}

// PlanKernel plans the section "kernel". At the start of a node what is kept is what is
// asked for, and the plan looks at the machine.
func PlanKernel(before *osapi.KernelConfig, next osapi.KernelConfig, facts kernel.Facts) (plan.Plan, error) {
	if before == nil {
		before = &next
	}
	return kernel.NewPlan(*before, next, facts), nil
}

// CheckLogging is the check of the section "logging".
func CheckLogging(value, _ *osapi.LoggingConfig, _ logging.Facts) error {
	return logging.Check(value).Err()
}

// PlanLogging plans the section "logging".
func PlanLogging(before *osapi.LoggingConfig, next osapi.LoggingConfig, facts logging.Facts) (plan.Plan, error) {
	if before == nil {
		before = &next
	}
	return logging.NewPlan(*before, next, facts), nil
}
