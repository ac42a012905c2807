package os

// DebugBoot is /1.0/debug/boot: the phases of holdfastd's start, in their order.
type DebugBoot struct {
	// Phases are in the order in which they run; never null.
	Phases []BootPhase `json:"phases" yaml:"phases"`
}

// BootPhase is one named step of the start.
type BootPhase struct {
	// Name says which step it is, as "network".
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

// DebugKernel is /1.0/debug/kernel: what runs below everything.
type DebugKernel struct {
	// Version is the kernel's release, as "6.12.117+deb13-amd64".
	Version string `json:"version" yaml:"version"`
	// Architecture is the machine as uname(1) names it, as "x86_64" or "aarch64".
	Architecture string `json:"architecture" yaml:"architecture"`
	// CPUBaseline is the level of x86-64 that the processor has: "x86_64_v1" to
	// "x86_64_v4"; empty on other architectures.
	CPUBaseline string `json:"cpu_baseline" yaml:"cpu_baseline"`
	// Modules are the loaded modules, sorted by name; never null.
	Modules []KernelModule `json:"modules" yaml:"modules"`
}

// KernelModule is one loaded module of the kernel.
type KernelModule struct {
	// Name is the module's name, with underscores, as "vhost_net".
	Name string `json:"name" yaml:"name"`
	// Dependencies are the loaded modules that this one uses, sorted; never null.
	Dependencies []string `json:"dependencies" yaml:"dependencies"`
	// InUse is true when a module or a device uses it now.
	InUse bool `json:"in_use" yaml:"in_use"`
}

// DebugEventLog is /1.0/debug/secureboot/event-log: what the firmware says that it measured
// into the TPM, and what the TPM has.
type DebugEventLog struct {
	// EventLog are the events of PCRs 4, 7 and 11, in the order of the log; never null.
	EventLog []DebugEvent `json:"event_log" yaml:"event_log"`
	// PCR4 is the TPM's present SHA-256 value of PCR 4 (boot loader and kernel image),
	// hexadecimal.
	PCR4 string `json:"pcr4" yaml:"pcr4"`
	// PCR7 is the TPM's present SHA-256 value of PCR 7 (Secure Boot and its keys),
	// hexadecimal.
	PCR7 string `json:"pcr7" yaml:"pcr7"`
	// PCR4Replayed is the value of PCR 4 that the log gives; it differs from PCR4 when the
	// log is not the whole truth.
	PCR4Replayed string `json:"pcr4_replayed" yaml:"pcr4_replayed"`
	// PCR7Replayed is the value of PCR 7 that the log gives.
	PCR7Replayed string `json:"pcr7_replayed" yaml:"pcr7_replayed"`
}

// DebugEvent is one event of the firmware's log.
type DebugEvent struct {
	// Index is the number of the PCR.
	Index int `json:"Index" yaml:"Index"`
	// Type is the event type, a number of the TCG PC Client Platform Firmware Profile.
	Type uint32 `json:"Type" yaml:"Type"`
	// Data describes what was measured, base64.
	Data []byte `json:"Data" yaml:"Data"`
	// Digest is the SHA-256 value that the PCR was extended with, base64.
	Digest []byte `json:"Digest" yaml:"Digest"`
}
