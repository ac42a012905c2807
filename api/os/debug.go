package os

// DebugBoot is /1.0/debug/boot: the phases of holdfastd's start, in their order.
type DebugBoot struct {
	Phases []BootPhase `json:"phases" yaml:"phases"`
}

// BootPhase is one named step of the start.
type BootPhase struct {
	Name string `json:"name" yaml:"name"`
	// State is "waiting", "running", "done" or "failed".
	State string `json:"state" yaml:"state"`
	// StartedAt is the time since the kernel started, in seconds.
	StartedAt float64 `json:"started_at,omitempty" yaml:"started_at,omitempty"`
	// Duration is in seconds.
	Duration float64 `json:"duration,omitempty" yaml:"duration,omitempty"`
	// Error says why the phase failed.
	Error string `json:"error,omitempty" yaml:"error,omitempty"`
}
