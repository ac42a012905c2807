package simulate

import (
	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
)

func checkProvider(value, _ *osapi.ProviderConfig, _ struct{}) error {
	return daemon.CheckProvider(value)
}
