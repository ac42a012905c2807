package daemon

import (
	"log/slog"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// Table is the API as a table, for the reference pages. There is no machine behind it: no
// handler of it may be called.
func Table() []httpapi.Route {
	type nothing struct{}
	d := New(Options{Log: slog.New(slog.DiscardHandler), Machine: Machine{
		Kernel:   Planned[osapi.KernelConfig, osapi.KernelState, nothing]{},
		Security: Planned[osapi.SecurityConfig, osapi.SecurityState, nothing]{},
		Network:  Planned[osapi.NetworkConfig, osapi.NetworkState, nothing]{},
		Logging:  Planned[osapi.LoggingConfig, osapi.LoggingState, nothing]{},
		Provider: Planned[osapi.ProviderConfig, osapi.ProviderState, nothing]{},
	}})
	return d.Routes()
}
