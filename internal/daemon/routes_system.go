package daemon

import (
	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

func (d *Daemon) systemRoutes() []httpapi.Route {
	const base = "/1.0/system"
	const later = "it comes with a later release"
	return []httpapi.Route{
		{Method: get, Path: base, Doc: "lists the parts of the system", Handler: func(r *httpapi.Request) (any, error) {
			return r.URLs(base, "fallback-listener", "kernel", "logging", "network", "provider", "resources", "security", "storage", "update"), nil
		}},
		{Method: get, Path: base + "/security", Doc: "shows how far the node can be trusted, and its recovery keys", Handler: d.getSecurity},
		{Method: put, Path: base + "/security", Doc: "changes the recovery keys", Later: "changing recovery keys comes with a later release"},
		{Method: post, Path: base + "/security/:retrieved", Doc: "notes that the recovery keys are kept elsewhere", Handler: d.securityRetrieved},
		{Method: post, Path: base + "/security/:tpm-rebind", Doc: "binds the disk to the TPM anew", Later: later},
		{Method: get, Path: base + "/network", Doc: "shows the network", Handler: d.getNetwork},
		{Method: put, Path: base + "/network", Doc: "changes the network", Later: "until then the seed named network says how it is"},
		{Method: post, Path: base + "/network/:confirm", Doc: "confirms a change of the network", Later: later},
		{Method: post, Path: base + "/network/:flush-dns", Doc: "forgets what names resolve to", Later: later},
		{Method: get, Path: base + "/resources", Doc: "shows the hardware, in the shape of Incus", Handler: func(r *httpapi.Request) (any, error) {
			return failable(d.machine.Facts.Resources(r.Context()))
		}},
		{Method: get, Path: base + "/update", Doc: "shows when and from where the node updates", Handler: d.getUpdate},
		{Method: put, Path: base + "/update", Doc: "changes when and from where the node updates", Request: Put[osapi.UpdateConfig]{}, Handler: d.putUpdate},
		{Method: post, Path: base + "/update/:check", Doc: "looks for updates now, after the answer", Request: osapi.UpdateCheckPost{}, EmptyBody: true, Handler: d.checkUpdate},
		{Method: get, Path: base + "/provider", Doc: "shows where releases come from", Handler: d.getProvider},
		{Method: put, Path: base + "/provider", Doc: "changes where releases come from", Request: Put[osapi.ProviderConfig]{}, Handler: d.putProvider},
		{Method: get, Path: base + "/fallback-listener", Doc: "shows the listener for emergencies", Later: later},
		{Method: put, Path: base + "/fallback-listener", Doc: "changes the listener for emergencies", Later: later},
		{Method: get, Path: base + "/kernel", Doc: "shows the settings of the kernel", Later: later},
		{Method: put, Path: base + "/kernel", Doc: "changes the settings of the kernel", Later: later},
		{Method: get, Path: base + "/logging", Doc: "shows where the log is sent", Later: later},
		{Method: put, Path: base + "/logging", Doc: "changes where the log is sent", Later: later},
	}
}

func (d *Daemon) storageRoutes() []httpapi.Route {
	const base = "/1.0/system/storage"
	const later = "changing storage through the node comes with a later release"
	return []httpapi.Route{
		{Method: get, Path: base, Doc: "shows drives and pools", Handler: d.getStorage},
		{Method: put, Path: base, Doc: "changes pools and the scrub schedule", Later: later},
		{Method: post, Path: base + "/:cleanup-root", Doc: "frees space on the root partition", Later: later},
		{Method: post, Path: base + "/:create-volume", Doc: "makes a volume in a pool", Later: later},
		{Method: post, Path: base + "/:delete-volume", Doc: "deletes a volume", Later: later},
		{Method: post, Path: base + "/:delete-pool", Doc: "deletes a pool", Later: later},
		{Method: post, Path: base + "/:import-pool", Doc: "imports a pool", Later: later},
		{Method: post, Path: base + "/:scrub-pool", Doc: "checks all data of a pool", Later: later},
		{Method: post, Path: base + "/:wipe-drive", Doc: "erases a drive", Later: later},
		{Method: post, Path: base + "/:encrypt-drive", Doc: "encrypts a drive", Later: later},
		{Method: post, Path: base + "/:import-encrypted-drive", Doc: "opens a drive encrypted elsewhere", Later: later},
	}
}
