package operation

import (
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Progress is how work says how far it is. A nil Progress takes everything and does
// nothing, so the same work can run without an operation.
type Progress struct {
	registry *Registry
	entry    *entry
}

// Set says how far the work is: a short word for its stage, how much is done of how
// much (0 when that is not known), and a line for a person. Long texts are cut.
func (p *Progress) Set(stage string, done, total int64, text string) {
	if p == nil {
		return
	}
	r, e := p.registry, p.entry
	r.mu.Lock()
	defer r.mu.Unlock()
	now := osapi.OperationProgress{Stage: cut(stage, maxStage), Done: done, Total: total, Text: cut(text, maxText)}
	before := e.op.Metadata.Progress
	if Final(e.op.StatusCode) || before != nil && *before == now {
		return
	}
	e.op.Metadata.Progress = &now
	e.op.UpdatedAt = r.o.Clock.Now().UTC()
	if e.later != nil {
		return
	}
	span := time.Second / time.Duration(r.o.EventsPerSecond)
	wait := span - r.o.Clock.Now().Sub(e.published)
	if wait <= 0 {
		r.publish(e)
		return
	}
	e.later = r.o.Clock.AfterFunc(wait, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		// A status that came in between has published this already.
		if e.later != nil {
			e.later = nil
			r.publish(e)
		}
	})
}
