package fetch_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"sync"
	"syscall"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

var errPower = errors.New("the power is gone")

// disk is a folder in memory that forgets what was not synced. Each change is a step; at
// step number cut the power goes, before the step is done.
type disk struct {
	mu    sync.Mutex
	steps int
	cut   int // 0 is never
	// space is what is free; after is what is free again once a write has found too little.
	space, after int64
	// names are those that programs see, lasting those that a power cut leaves.
	names, lasting map[string]*inode
	// longest is how long the part ever was.
	longest int
}

type inode struct{ data, synced []byte }

func newDisk() *disk {
	return &disk{space: 1 << 40, names: map[string]*inode{}, lasting: map[string]*inode{}}
}

// put is a file that has been there for long.
func (d *disk) put(name, text string) {
	f := &inode{[]byte(text), []byte(text)}
	d.names[name], d.lasting[name] = f, f
}

func (d *disk) step() error {
	if d.cut > 0 && d.steps >= d.cut-1 {
		return errPower
	}
	d.steps++
	return nil
}

// change does one step under the lock.
func (d *disk) change(do func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	return do()
}

func (d *disk) Open(name string, create bool) (fetch.Handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil && !create {
		return nil, fs.ErrNotExist
	}
	if f == nil {
		if err := d.step(); err != nil {
			return nil, err
		}
		f = &inode{}
		d.names[name] = f
	}
	return &handle{d: d, f: f}, nil
}

func (d *disk) Rename(from, to string) error {
	return d.change(func() error {
		if d.names[from] == nil {
			return fs.ErrNotExist
		}
		d.names[to] = d.names[from]
		delete(d.names, from)
		return nil
	})
}

func (d *disk) Remove(name string) error {
	return d.change(func() error { delete(d.names, name); return nil })
}

func (d *disk) Sync() error {
	return d.change(func() error { d.lasting = maps.Clone(d.names); return nil })
}

func (d *disk) Free() (int64, error) { return d.space, nil }

type handle struct {
	d  *disk
	f  *inode
	at int64
}

func (h *handle) Read(p []byte) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.at >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.data[h.at:])
	h.at += int64(n)
	return n, nil
}

// Write writes what there is space for.
func (h *handle) Write(p []byte) (n int, err error) {
	err = h.d.change(func() error {
		var full error
		if int64(len(p)) > h.d.space {
			p, full = p[:h.d.space], syscall.ENOSPC
			h.d.space += h.d.after
		}
		h.d.space -= int64(len(p))
		h.f.data = append(h.f.data[:h.at:h.at], p...)
		h.at += int64(len(p))
		n = len(p)
		h.d.longest = max(h.d.longest, len(h.f.data))
		return full
	})
	return n, err
}

func (h *handle) Seek(offset int64, whence int) (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if whence == io.SeekEnd {
		offset += int64(len(h.f.data))
	}
	h.at = offset
	return offset, nil
}

func (h *handle) Truncate(size int64) error {
	return h.d.change(func() error {
		if size < int64(len(h.f.data)) {
			h.f.data = h.f.data[:size:size]
		}
		return nil
	})
}

func (h *handle) Sync() error {
	return h.d.change(func() error { h.f.synced = bytes.Clone(h.f.data); return nil })
}

func (h *handle) Close() error { return nil }

// The ways in which a disk may look after the end.
var endings = map[string]func(d *disk){
	// the process was killed
	"all is kept": func(*disk) {},
	// the power was cut, and the disk had written nothing that it had not to
	"only what was synced": func(d *disk) {
		d.names = d.lasting
		for _, f := range d.names {
			f.data = f.synced
		}
	},
	"names before content": func(d *disk) {
		for _, f := range d.names {
			f.data = f.synced
		}
	},
	"content before names": func(d *disk) { d.names = d.lasting },
	"lengths before content": func(d *disk) {
		for _, f := range d.names {
			zeros := make([]byte, len(f.data))
			copy(zeros, f.synced)
			f.data = zeros
		}
	},
}

// restart gives the disk as the next start finds it.
func (d *disk) restart(ending func(*disk)) {
	ending(d)
	d.cut = 0
	d.names = maps.Clone(d.names)
	d.lasting = maps.Clone(d.names)
	for _, f := range d.names {
		f.data = bytes.Clone(f.data)
		f.synced = f.data
	}
}

// text is a file's content; "" when there is none.
func (d *disk) text(name string) string {
	if f := d.names[name]; f != nil {
		return string(f.data)
	}
	return ""
}
