package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/bundle"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// logEntries is how much of the journal of each start goes into a bundle.
const logEntries = 5000

// supportBundle makes the archive that an owner sends to whoever helps. What cannot be
// had is noted in it, and no secret that the node keeps is in it.
func (d *Daemon) supportBundle(r *httpapi.Request) (any, error) {
	secrets, err := d.secrets(r.Context())
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	if err := bundle.Write(&archive, d.supportMembers(r), secrets, d.clock.Now()); err != nil {
		return nil, fmt.Errorf("making the bundle: %w", err)
	}
	return httpapi.Raw{ContentType: "application/gzip", Body: archive.Bytes()}, nil
}

// secrets are all that the node knows.
func (d *Daemon) secrets(ctx context.Context) ([]string, error) {
	secrets, err := d.changes.Secrets()
	if err != nil {
		return nil, coded(err)
	}
	key, err := d.machine.Keys.Recovery(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding out what must not be in the bundle: %w", err)
	}
	config, err := current(ctx, d, sectionSecurity, d.machine.Security)
	if err != nil {
		return nil, err
	}
	state, err := d.machine.Security.State(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("finding out what must not be in the bundle: %w", err)
	}
	secrets = append(secrets, key)
	secrets = append(secrets, config.EncryptionRecoveryKeys...)
	secrets = slices.AppendSeq(secrets, maps.Values(state.PoolRecoveryKeys))
	secrets = slices.AppendSeq(secrets, maps.Values(state.DriveRecoveryKeys))
	return slices.DeleteFunc(secrets, func(s string) bool { return s == "" }), nil
}

func (d *Daemon) supportMembers(r *httpapi.Request) []bundle.Member {
	ctx := r.Context()
	member := func(name string, get func() (any, error)) bundle.Member {
		return bundle.Member{Name: name, Open: func() (io.Reader, error) {
			value, err := get()
			if err != nil {
				return nil, err
			}
			if tagged, ok := value.(httpapi.Tagged); ok {
				value = tagged.Answer
			}
			text, err := json.MarshalIndent(value, "", "  ")
			return bytes.NewReader(text), err
		}}
	}
	journal := func(boot string) func() (any, error) {
		return func() (any, error) { return d.machine.Diagnosis.Log(ctx, LogQuery{Boot: boot, Entries: logEntries}) }
	}
	return []bundle.Member{
		member("server.json", func() (any, error) { return d.getServer(r) }),
		member("boot.json", func() (any, error) { return d.boot.Snapshot(), nil }),
		member("config.json", func() (any, error) { return d.getConfiguration(r) }),
		member("history.json", func() (any, error) { return d.getHistory(r) }),
		member("security.json", func() (any, error) { return d.getSecurity(r) }),
		member("network.json", func() (any, error) {
			config, err := current(ctx, d, sectionNetwork, d.machine.Network)
			if err != nil {
				return nil, err
			}
			return d.machine.Network.State(ctx, config)
		}),
		member("storage.json", func() (any, error) { return d.machine.Facts.Storage(ctx) }),
		member("resources.json", func() (any, error) { return d.machine.Facts.Resources(ctx) }),
		member("kernel.json", func() (any, error) { return d.machine.Diagnosis.Kernel(ctx) }),
		member("event-log.json", func() (any, error) { return d.machine.Diagnosis.EventLog(ctx) }),
		member("processes.txt", func() (any, error) { return d.machine.Diagnosis.Processes(ctx) }),
		member("operations.json", func() (any, error) { return d.operations.List(), nil }),
		member("audit.json", func() (any, error) { return d.lastAudit(ctx) }),
		{Name: "metrics.txt", Open: func() (io.Reader, error) {
			text, err := d.metrics.Text(ctx)
			return bytes.NewReader(text), err
		}},
		member("journal/this-boot.json", journal("0")),
		member("journal/boot-before.json", journal("-1")),
	}
}

func (d *Daemon) lastAudit(ctx context.Context) (osapi.Audit, error) {
	book, err := d.auditLog()
	if err != nil {
		return osapi.Audit{}, err
	}
	since := uint64(0)
	if last := book.Last(); last > audit.MaxLimit {
		since = last - audit.MaxLimit
	}
	return book.Read(ctx, since, audit.MaxLimit)
}
