package customizer

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// linkTime is how long a one-shot link waits for its download, or for the next try.
	linkTime = 10 * time.Minute
	// maxLinks bounds the one-shot links.
	maxLinks = 10_000
	// maxChoices and maxChoiceBytes bound the choices kept by id.
	maxChoices     = 10_000
	maxChoiceBytes = 32 << 20
)

// errFull is a service that keeps as many links as it may.
var errFull = errors.New("too many links are waiting for their download: try again in ten minutes")

// link is what a one-shot link gives.
type link struct {
	file    download
	cost    int
	expires time.Time
	// busy are the downloads under way; ended is one that was sent to its last byte.
	busy  int
	ended bool
}

// links are the one-shot links by their random names.
type links struct {
	now    func() time.Time
	random io.Reader
	// limit bounds what they keep in memory, in bytes.
	limit int

	mu    sync.Mutex
	all   map[string]*link
	bytes int
}

func newLinks(now func() time.Time, random io.Reader, limit int) *links {
	return &links{now: now, random: random, limit: limit, all: map[string]*link{}}
}

// add makes links for files, all or none; cost is what each keeps in memory, in bytes.
func (l *links) add(files []download, costs []int) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, one := range l.all {
		if one.busy == 0 && !l.now().Before(one.expires) {
			l.remove(name)
		}
	}
	total := 0
	for _, cost := range costs {
		total += cost
	}
	if len(l.all)+len(files) > maxLinks || l.bytes+total > l.limit {
		return nil, errFull
	}
	var names []string
	for i, file := range files {
		name, err := randomName(l.random)
		if err != nil {
			return nil, err
		}
		l.all[name] = &link{file: file, cost: costs[i], expires: l.now().Add(linkTime)}
		l.bytes += costs[i]
		names = append(names, name)
	}
	return names, nil
}

func (l *links) remove(name string) {
	l.bytes -= l.all[name].cost
	delete(l.all, name)
}

// take begins a download. goesOn is one that shows the entity tag, and has thus begun before:
// it may go on while the server has not noticed yet that its connection is gone, and behind
// the end. done ends it and says whether the last byte was sent.
func (l *links) take(name string, goesOn func(download) bool) (file download, done func(ended bool), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.all[name]
	if one == nil || !l.now().Before(one.expires) || (one.busy > 0 || one.ended) && !goesOn(one.file) {
		return nil, nil, false
	}
	one.busy++
	return one.file, func(ended bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		one.busy--
		one.ended = one.ended || ended
		if !ended {
			one.expires = l.now().Add(linkTime)
		}
	}, true
}

// look gives a file without a download, for HEAD.
func (l *links) look(name string) (download, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.all[name]
	if one == nil || !l.now().Before(one.expires) || one.busy > 0 || one.ended {
		return nil, false
	}
	return one.file, true
}

// randomName is a UUID of version 4.
func randomName(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("making a link: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// choices are the last few choices by id; the one that was not asked for the longest goes
// first.
type choices struct {
	mu    sync.Mutex
	byID  map[string]*list.Element
	order *list.List
	bytes int
}

type kept struct {
	id     string
	choice Choice
	cost   int
}

func newChoices() *choices { return &choices{byID: map[string]*list.Element{}, order: list.New()} }

func (c *choices) put(id string, choice Choice, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byID[id]; ok {
		c.order.MoveToFront(e)
		return
	}
	c.byID[id] = c.order.PushFront(kept{id, choice, cost})
	c.bytes += cost
	for c.order.Len() > maxChoices || c.bytes > maxChoiceBytes {
		last := c.order.Back()
		old, _ := c.order.Remove(last).(kept)
		delete(c.byID, old.id)
		c.bytes -= old.cost
	}
}

func (c *choices) get(id string) (Choice, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byID[id]
	if !ok {
		return Choice{}, false
	}
	c.order.MoveToFront(e)
	one, ok := e.Value.(kept)
	return one.choice, ok
}
