package os

// Plan is the answer to a dry run: what a change would do, in the order in which it
// would be done.
type Plan struct {
	// Changes is false when the node is already so.
	Changes bool `json:"changes" yaml:"changes"`
	// Steps are what would be done, in order; never null.
	Steps []PlanStep `json:"steps" yaml:"steps"`
	// Restarts are the systemd units that would restart.
	Restarts []string `json:"restarts,omitempty" yaml:"restarts,omitempty"`
	// MayDisconnect is true when the caller's own connection may drop.
	MayDisconnect bool `json:"may_disconnect" yaml:"may_disconnect"`
	// NeedsReboot says why the machine has to restart for the change to hold in full;
	// empty when it does not.
	NeedsReboot string `json:"needs_reboot,omitempty" yaml:"needs_reboot,omitempty"`
	// Notes are what a person should know before.
	Notes []string `json:"notes,omitempty" yaml:"notes,omitempty"`
}

// PlanStep is one effect on one object.
type PlanStep struct {
	// Action is "keep-document", "write-file", "remove-file", "set-value", "start-unit", "stop-unit",
	// "restart-unit", "reload-unit", "create-device", "delete-device" or "use-tool".
	Action string `json:"action" yaml:"action"`
	// Object is the path, unit or device that the step acts on.
	Object string `json:"object" yaml:"object"`
	// Diff is a unified diff of the file or value; empty when it is secret or there is none.
	Diff string `json:"diff,omitempty" yaml:"diff,omitempty"`
	// Secret is true when the contents are not shown.
	Secret bool `json:"secret,omitempty" yaml:"secret,omitempty"`
	// Why is a short reason; empty where the step speaks for itself.
	Why string `json:"why,omitempty" yaml:"why,omitempty"`
}
