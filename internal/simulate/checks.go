package simulate

import (
	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
)

func checkProvider(value, kept *osapi.ProviderConfig, _ struct{}) error {
	return daemon.CheckProvider(value, kept, daemon.ProviderFacts{})
}
