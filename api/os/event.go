package os

import (
	"encoding/json"
	"time"
)

// Types of events.
const (
	// EventTypeLogging is a line of the log: Metadata is an EventLogging.
	EventTypeLogging = "logging"
	// EventTypeOperation is a change of an operation: Metadata is an Operation.
	EventTypeOperation = "operation"
	// EventTypeLifecycle is something that was done to an object: Metadata is an
	// EventLifecycle.
	EventTypeLifecycle = "lifecycle"
)

// Event is one message of the websocket /1.0/events. The shape is that of Incus. Paths
// in it have no prefix, whatever way the listener came.
type Event struct {
	// Type is "logging", "operation" or "lifecycle".
	Type string `json:"type" yaml:"type"`
	// Timestamp is when it happened, in UTC.
	Timestamp time.Time `json:"timestamp" yaml:"timestamp"`
	// Metadata is an EventLogging, an Operation or an EventLifecycle.
	Metadata json.RawMessage `json:"metadata" yaml:"metadata"`
	// Location is the cluster member in Incus; absent here.
	Location string `json:"location,omitempty" yaml:"location,omitempty"`
	// Project is the project in Incus; absent here.
	Project string `json:"project,omitempty" yaml:"project,omitempty"`
}

// EventLogging is a line of the log.
type EventLogging struct {
	// Message is the text of the line.
	Message string `json:"message" yaml:"message"`
	// Level is "debug", "info", "warning" or "error".
	Level string `json:"level" yaml:"level"`
	// Context are the line's attributes as text; {} when there are none. Secrets are
	// never in it.
	Context map[string]string `json:"context" yaml:"context"`
}

// EventLifecycle is something that was done to an object.
type EventLifecycle struct {
	// Action names what was done, as "application-restarted".
	Action string `json:"action" yaml:"action"`
	// Source is the path of the object, as "/1.0/applications/incus".
	Source string `json:"source" yaml:"source"`
	// Context says more; absent when there is nothing more to say.
	Context map[string]any `json:"context,omitempty" yaml:"context,omitempty"`
	// Requestor is who asked for it; absent when the node did it by itself.
	Requestor *EventLifecycleRequestor `json:"requestor,omitempty" yaml:"requestor,omitempty"`
	// Name is the name of the object; absent when Source says all.
	Name string `json:"name,omitempty" yaml:"name,omitempty"`
	// Project is the project in Incus; absent here.
	Project string `json:"project,omitempty" yaml:"project,omitempty"`
}

// EventLifecycleRequestor is who asked for something.
type EventLifecycleRequestor struct {
	// Username is the name of the caller as in the audit log, as "sha256:..." or "local".
	Username string `json:"username" yaml:"username"`
	// Protocol is "tls", "unix" or "proxy".
	Protocol string `json:"protocol" yaml:"protocol"`
	// Address is where the caller is; empty on the node's own socket.
	Address string `json:"address" yaml:"address"`
}
