package daemon

import (
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// requestKey is what requests are counted by.
type requestKey struct{ method, code string }

// requestCounts counts the requests of the API.
type requestCounts struct {
	mu    sync.Mutex
	total map[requestKey]uint64
	took  time.Duration
}

func (c *requestCounts) count(seen httpapi.Seen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total == nil {
		c.total = map[requestKey]uint64{}
	}
	method := seen.HTTP.Method
	if seen.Route == nil {
		method = "other" // what a caller makes up must not grow the table
	}
	c.total[requestKey{method, strconv.Itoa(seen.Code)}]++
	c.took += seen.Took
}
