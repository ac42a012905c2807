package os

import "time"

// Codes of an operation's status, with the numbers and names of Incus. A code from 200
// on is final.
const (
	// OperationRunning is "Running": the work goes on.
	OperationRunning = 103
	// OperationCancelling is "Cancelling": it was asked to end, and has not yet.
	OperationCancelling = 104
	// OperationPending is "Pending": it has not begun.
	OperationPending = 105
	// OperationSuccess is "Success".
	OperationSuccess = 200
	// OperationFailure is "Failure": Err says why.
	OperationFailure = 400
	// OperationCancelled is "Cancelled": it ended because it was asked to.
	OperationCancelled = 401
)

// Operation is /1.0/operations/{id}: work that goes on behind an answer. The shape is
// that of Incus.
type Operation struct {
	// ID is a UUID.
	ID string `json:"id" yaml:"id"`
	// Class is always "task".
	Class string `json:"class" yaml:"class"`
	// Description says in a few words what is done, as "Updating the OS".
	Description string `json:"description" yaml:"description"`
	// CreatedAt is when it was asked for, in UTC.
	CreatedAt time.Time `json:"created_at" yaml:"created_at"`
	// UpdatedAt is when its status or progress last changed, in UTC.
	UpdatedAt time.Time `json:"updated_at" yaml:"updated_at"`
	// Status is the name of StatusCode: "Pending", "Running", "Cancelling", "Success",
	// "Failure" or "Cancelled".
	Status string `json:"status" yaml:"status"`
	// StatusCode is 105, 103, 104, 200, 400 or 401, in the order of Status.
	StatusCode int `json:"status_code" yaml:"status_code"`
	// Resources are the paths of what is worked on, by kind, as {"pools": ["/1.0/..."]};
	// {} when there are none.
	Resources map[string][]string `json:"resources" yaml:"resources"`
	// Metadata is how far it is.
	Metadata OperationMetadata `json:"metadata" yaml:"metadata"`
	// MayCancel is true when DELETE ends it early.
	MayCancel bool `json:"may_cancel" yaml:"may_cancel"`
	// Err says what went wrong; empty when nothing did.
	Err string `json:"err" yaml:"err"`
	// Location is the cluster member in Incus; always empty here.
	Location string `json:"location" yaml:"location"`
}

// OperationMetadata is what an operation says besides its status.
type OperationMetadata struct {
	// Progress is how far the work is; absent until it says so.
	Progress *OperationProgress `json:"progress,omitempty" yaml:"progress,omitempty"`
}

// OperationProgress is how far an operation is in its present stage.
type OperationProgress struct {
	// Stage is a short word for the part of the work, as "download".
	Stage string `json:"stage" yaml:"stage"`
	// Done is how much of Total is done, from 0 to Total, in the unit of the stage (bytes
	// for a download).
	Done int64 `json:"done" yaml:"done"`
	// Total is the whole of the stage in the same unit; 0 when it is not known.
	Total int64 `json:"total" yaml:"total"`
	// Text is a line for a person; may be empty.
	Text string `json:"text" yaml:"text"`
}
