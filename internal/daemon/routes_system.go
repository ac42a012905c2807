package daemon

import (
	"slices"

	incusapi "github.com/lxc/incus/v6/shared/api"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

func (d *Daemon) systemRoutes() []httpapi.Route {
	const base = "/1.0/system"
	return slices.Concat(d.settingRoutes(), []httpapi.Route{
		{Method: get, Path: base, Doc: "lists the parts of the system", Response: []string{}, Handler: func(r *httpapi.Request) (any, error) {
			return r.URLs(base, "config", "fallback-listener", "history", "kernel", "logging", "network", "provider", "resources", "security", "storage", "update"), nil
		}},
		{Method: post, Path: base + "/security/:retrieved", Doc: "notes that the recovery keys are kept elsewhere", Handler: d.securityRetrieved},
		{Method: post, Path: base + "/security/:tpm-rebind", Doc: "binds the disk to the TPM anew", Handler: d.rebind},
		{Method: post, Path: base + "/network/:confirm", Doc: "confirms the change that waits for it", Handler: func(r *httpapi.Request) (any, error) {
			_, err := d.confirm(r)
			return nil, err
		}},
		{Method: post, Path: base + "/network/:flush-dns", Doc: "forgets what names resolve to", Handler: func(r *httpapi.Request) (any, error) {
			return nil, coded(d.machine.Resolver.FlushDNS(r.Context()))
		}},
		{Method: get, Path: base + "/resources", Doc: "shows the hardware, in the shape of Incus", Response: incusapi.Resources{}, Handler: func(r *httpapi.Request) (any, error) {
			return failable(d.machine.Facts.Resources(r.Context()))
		}},
		{Method: post, Path: base + "/update/:check", Doc: "looks for updates now, after the answer", Request: osapi.UpdateCheckPost{}, EmptyBody: true, Handler: d.checkUpdate},
		{Method: post, Path: base + "/update/:plan", Doc: "says what an update would do, and changes nothing", Response: osapi.UpdatePlan{}, Handler: d.planUpdate},
	})
}

// settingRoutes are the sections of the configuration.
func (d *Daemon) settingRoutes() []httpapi.Route {
	security := settingRoutes(d, sectionSecurity, "how far the node can be trusted, and its recovery keys", d.machine.Security,
		func(c osapi.SecurityConfig, s osapi.SecurityState) any { return osapi.Security{Config: c, State: s} })
	security[0].Handler = d.getSecurity
	return slices.Concat(
		security,
		settingRoutes(d, sectionKernel, "the settings of the kernel", d.machine.Kernel,
			func(c osapi.KernelConfig, s osapi.KernelState) any { return osapi.Kernel{Config: c, State: s} }),
		settingRoutes(d, sectionNetwork, "the network", d.machine.Network,
			func(c osapi.NetworkConfig, s osapi.NetworkState) any { return d.network(c, s) }),
		settingRoutes(d, sectionLogging, "where the log is sent", d.machine.Logging,
			func(c osapi.LoggingConfig, s osapi.LoggingState) any { return osapi.Logging{Config: c, State: s} }),
		settingRoutes(d, sectionProvider, "where releases come from", d.machine.Provider,
			func(c osapi.ProviderConfig, s osapi.ProviderState) any { return osapi.Provider{Config: c, State: s} }),
		settingRoutes(d, sectionUpdate, "when and from where the node updates", Setting[osapi.UpdateConfig, osapi.UpdateState](updateSetting{d}),
			func(c osapi.UpdateConfig, s osapi.UpdateState) any { return osapi.Update{Config: c, State: s} }),
		settingRoutes(d, sectionListener, "the listener for emergencies", d.listener,
			func(c osapi.FallbackListenerConfig, s osapi.FallbackListenerState) any {
				return osapi.FallbackListener{Config: c, State: s}
			}),
	)
}

// network adds to the network whether a change of it is under way.
func (d *Daemon) network(c osapi.NetworkConfig, s osapi.NetworkState) osapi.Network {
	if d.changes != nil {
		status, ok := d.changes.Pending()
		s.ConfigurationInProcess = ok && slices.Contains(status.Sections, sectionNetwork)
	}
	return osapi.Network{Config: &c, State: s}
}

func (d *Daemon) storageRoutes() []httpapi.Route {
	const base = "/1.0/system/storage"
	const later = "changing storage through the node comes with a later release"
	return []httpapi.Route{
		{Method: get, Path: base, Doc: "shows drives and pools", Response: osapi.Storage{}, Handler: d.getStorage},
		{Method: put, Path: base, Doc: "changes pools and the scrub schedule", Later: later},
		{Method: post, Path: base + "/:cleanup-root", Doc: "frees space on the root partition", Later: later},
		{Method: post, Path: base + "/:create-volume", Doc: "makes a volume in a pool", Later: later},
		{Method: post, Path: base + "/:delete-volume", Doc: "deletes a volume", Later: later},
		{Method: post, Path: base + "/:delete-pool", Doc: "deletes a pool", Later: later},
		{Method: post, Path: base + "/:import-pool", Doc: "imports a pool", Later: later},
		{Method: post, Path: base + "/:rescan-scsi", Doc: "looks for new SCSI drives", Later: later},
		{Method: post, Path: base + "/:trim-pool", Doc: "tells the drives of a pool which blocks are free", Later: later},
		{Method: post, Path: base + "/:scrub-pool", Doc: "checks all data of a pool", Later: later},
		{Method: post, Path: base + "/:wipe-drive", Doc: "erases a drive", Later: later},
		{Method: post, Path: base + "/:encrypt-drive", Doc: "encrypts a drive", Later: later},
		{Method: post, Path: base + "/:import-encrypted-drive", Doc: "opens a drive encrypted elsewhere", Later: later},
	}
}
