package operation

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Path gives the path of an operation, as the API has it.
func Path(id string) string { return "/1.0/operations/" + id }

// ByStatus sorts operations by the name of their status in lower case, as Incus answers
// GET /1.0/operations?recursion=1. Only statuses that occur are there.
func ByStatus(list []osapi.Operation) map[string][]osapi.Operation {
	sorted := map[string][]osapi.Operation{}
	for _, op := range list {
		status := strings.ToLower(op.Status)
		sorted[status] = append(sorted[status], op)
	}
	return sorted
}

// URLsByStatus is the same with paths, as Incus answers GET /1.0/operations. The prefix
// is that under which the caller sees the API; it may be empty.
func URLsByStatus(list []osapi.Operation, prefix string) map[string][]string {
	sorted := map[string][]string{}
	for _, op := range list {
		status := strings.ToLower(op.Status)
		sorted[status] = append(sorted[status], prefix+Path(op.ID))
	}
	return sorted
}

// WithPrefix puts the prefix under which the caller sees the API in front of the paths
// in an operation.
func WithPrefix(op osapi.Operation, prefix string) osapi.Operation {
	op.Resources = cloneResources(op.Resources)
	for _, paths := range op.Resources {
		for i := range paths {
			paths[i] = prefix + paths[i]
		}
	}
	return op
}

// maxTimeout is the longest wait that can be asked for.
const maxTimeout = 24 * time.Hour

// ParseTimeout reads the parameter "timeout" of a wait: whole seconds, where nothing
// and a negative number are no limit. More than a day is an error.
func ParseTimeout(text string) (time.Duration, error) {
	if text == "" {
		return -1, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("timeout: %q is not a whole number of seconds", cut(text, maxText))
	}
	if seconds < 0 {
		return -1, nil
	}
	timeout := time.Duration(seconds) * time.Second
	if timeout > maxTimeout {
		return 0, fmt.Errorf("timeout: %d seconds are more than the limit of %d; -1 waits without limit", seconds, int(maxTimeout.Seconds()))
	}
	return timeout, nil
}
