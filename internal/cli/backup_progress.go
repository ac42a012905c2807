package cli

import (
	"fmt"
	"io"
)

// quiet is how long a backup may be without a line that says how far it is, in bytes.
const quiet = 64 << 20

// tenths says each tenth of a large file that is read.
type tenths struct {
	env               *Env
	what              string
	r                 io.Reader
	done, total, last int64
}

func (t *tenths) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.done += int64(n)
	if tenth := t.done * 10 / max(t.total, 1); t.total > quiet && tenth > t.last {
		t.last = tenth
		// That a line cannot be written must not end the reading.
		_, _ = fmt.Fprintf(t.env.Stderr, "%s %s of %s\n", t.what, bytesText(uint64(t.done)), bytesText(uint64(t.total)))
	}
	return n, err
}

// doubles says how much of a file has come whose length nobody knows, each time that it has
// doubled.
type doubles struct {
	env        *Env
	w          io.Writer
	done, next int64
}

func (d *doubles) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.done += int64(n)
	if d.next = max(d.next, quiet); d.done >= d.next {
		d.next = 2 * d.done
		// That a line cannot be written must not end the backup.
		_, _ = fmt.Fprintf(d.env.Stderr, "received %s\n", bytesText(uint64(d.done)))
	}
	return n, err
}
