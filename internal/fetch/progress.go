package fetch

import "time"

// Progress says how far a download is.
type Progress struct {
	// Done is how many bytes of the file are there; it falls when a part was wrong.
	Done int64
	// Total is how many bytes the file has.
	Total int64
	// Fetched is how many bytes this call has read from the network, repetitions included.
	Fetched int64
	// Rate is in bytes a second, over about the last 10 s; 0 while it is not known.
	Rate int64
	// Remaining is the time that is left at this rate, in whole seconds; -1 while the rate
	// is not known.
	Remaining time.Duration
}

// How progress is told.
const (
	progressEvery  = 250 * time.Millisecond
	progressWindow = 10 * time.Second
)

// meter measures a rate and tells the progress, at most four times a second and at the end.
type meter struct {
	tell    func(Progress)
	now     func() time.Time
	samples []sample
	told    time.Time
	fetched int64
}

type sample struct {
	at      time.Time
	fetched int64
}

func newMeter(tell func(Progress), now func() time.Time) *meter {
	return &meter{tell: tell, now: now, samples: []sample{{now(), 0}}}
}

// add counts bytes from the network; done and total are those of the file.
func (m *meter) add(n int, done, total int64) {
	m.fetched += int64(n)
	if m.tell == nil {
		return
	}
	now := m.now()
	if done < total && !m.told.IsZero() && now.Sub(m.told) < progressEvery {
		return
	}
	m.told = now
	m.samples = append(m.samples, sample{now, m.fetched})
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) >= progressWindow {
		m.samples = m.samples[1:]
	}
	p := Progress{Done: done, Total: total, Fetched: m.fetched, Remaining: -1}
	if first := m.samples[0]; now.After(first.at) {
		p.Rate = int64(float64(m.fetched-first.fetched) / now.Sub(first.at).Seconds())
	}
	if done == total {
		p.Remaining = 0
	} else if p.Rate > 0 {
		p.Remaining = min(time.Duration((total-done+p.Rate-1)/p.Rate), maxAsked/time.Second) * time.Second
	}
	m.tell(p)
}
