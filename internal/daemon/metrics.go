package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-os/holdfast/internal/apidoc"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/metrics"
)

// describingRoutes are the node in numbers, and its API in words.
func (d *Daemon) describingRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: get, Path: "/1.0/metrics", Doc: "gives the node's metrics, in the text format of Prometheus", Response: httpapi.Raw{ContentType: metrics.ContentType}, Handler: func(r *httpapi.Request) (any, error) {
			text, err := d.metrics.Text(r.Context())
			return httpapi.Raw{ContentType: metrics.ContentType, Body: text}, err
		}},
		{Method: get, Path: "/1.0/openapi.yaml", Doc: "describes this API, as OpenAPI 3.1", Response: httpapi.Raw{ContentType: "application/yaml"}, Handler: func(*httpapi.Request) (any, error) {
			return httpapi.Raw{ContentType: "application/yaml", Body: []byte(apidoc.OpenAPI)}, nil
		}},
	}
}

// numbers is the source of the metrics.
type numbers struct{ d *Daemon }

// Snapshot is part of metrics.Source.
func (n numbers) Snapshot(ctx context.Context) (metrics.Snapshot, error) {
	d := n.d
	environment, err := d.machine.Facts.Environment(ctx)
	now := metrics.Snapshot{
		OSName: environment.OSName, OSVersion: environment.OSVersion, Ready: d.ready.Load(), Update: "idle",
		Operations: d.operations.Counts(), EventListeners: d.hub.Listeners(),
	}
	for _, phase := range d.boot.Snapshot().Phases {
		if phase.State == phaseDone {
			now.Phases = append(now.Phases, metrics.Phase{Name: phase.Name, Took: time.Duration(phase.Duration * float64(time.Second))})
		}
	}
	updates := d.machine.Updates.State()
	now.NeedsReboot = updates.NeedsReboot
	if updates.State != "" {
		now.Update = updates.State
	}
	storage, storageErr := d.machine.Facts.Storage(ctx)
	for _, pool := range storage.Pools {
		now.Pools = append(now.Pools, metrics.Pool{Name: pool.Name, State: pool.State})
	}
	if pair, err := d.machine.Identity.Certificate(); err == nil && len(pair.Certificate) > 0 {
		if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil {
			now.Certificates = []metrics.Certificate{{Name: "server", Expires: leaf.NotAfter}}
		}
	}
	names, appsErr := d.machine.Apps.List(ctx)
	for _, name := range slices.Sorted(slices.Values(names)) {
		app, err := d.machine.Apps.Show(ctx, name)
		if err != nil {
			appsErr = errors.Join(appsErr, err)
			continue
		}
		now.Applications = append(now.Applications, metrics.Application{Name: name, Version: app.State.Version, Running: app.State.Initialized})
	}
	return now, errors.Join(err, storageErr, appsErr)
}
