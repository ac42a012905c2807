package simulate

import (
	"encoding/pem"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/cacerts"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/logging"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/recovery"
	"github.com/holdfast-os/holdfast/internal/release"
)

// The checks and planners of the sections, as the daemon joins them: the rules are those
// of the packages named here.

func checkKernel(value, _ *osapi.KernelConfig, facts kernel.Facts) error {
	return kernel.Check(value, facts).Err()
}

// planKernel: at the start what is kept is what is asked for.
func planKernel(before *osapi.KernelConfig, next osapi.KernelConfig, facts kernel.Facts) (plan.Plan, error) {
	if before == nil {
		before = &next
	}
	return kernel.NewPlan(*before, next, facts), nil
}

func checkLogging(value, _ *osapi.LoggingConfig, _ logging.Facts) error {
	return logging.Check(value).Err()
}

func planLogging(before *osapi.LoggingConfig, next osapi.LoggingConfig, facts logging.Facts) (plan.Plan, error) {
	if before == nil {
		before = &next
	}
	return logging.NewPlan(*before, next, facts), nil
}

func checkSecurity(value, kept *osapi.SecurityConfig, facts cacerts.Facts) error {
	var before osapi.SecurityConfig
	if kept != nil {
		before = *kept
	}
	var problems config.Problems
	value.EncryptionRecoveryKeys = slices.Clone(value.EncryptionRecoveryKeys)
	for i := range value.EncryptionRecoveryKeys {
		is := ""
		if i < len(before.EncryptionRecoveryKeys) {
			is = before.EncryptionRecoveryKeys[i]
		}
		if !config.Keep(&value.EncryptionRecoveryKeys[i], is) {
			problems.Add(fmt.Sprintf("encryption_recovery_keys[%d]", i), "kept", "there is no key to keep at this place of the list")
		}
	}
	if len(problems) > 0 {
		return problems
	}
	problems = recovery.Check(before.EncryptionRecoveryKeys, value.EncryptionRecoveryKeys)
	return append(problems, cacerts.Check(before.CustomCACerts, value.CustomCACerts, facts.Now)...).Err()
}

func planSecurity(before *osapi.SecurityConfig, next osapi.SecurityConfig, facts cacerts.Facts) (plan.Plan, error) {
	var whole plan.Plan
	if before != nil && !slices.Equal(before.EncryptionRecoveryKeys, next.EncryptionRecoveryKeys) {
		whole = recovery.NewPlan(before.EncryptionRecoveryKeys, next.EncryptionRecoveryKeys)
	}
	certificates, err := cacerts.NewPlan(next.CustomCACerts, facts)
	whole.Append(certificates)
	return whole, err
}

func hideSecurity(c osapi.SecurityConfig) osapi.SecurityConfig {
	c.EncryptionRecoveryKeys = slices.Clone(c.EncryptionRecoveryKeys)
	for i := range c.EncryptionRecoveryKeys {
		config.Hide(&c.EncryptionRecoveryKeys[i])
	}
	return c
}

func checkProvider(value, _ *osapi.ProviderConfig, _ struct{}) error {
	var problems config.Problems
	if value.Name != "images" {
		problems.Add("name", "known", "%q is not a provider of this release, which has %q", value.Name, "images")
	}
	known := []string{"server_url", "update_ca"}
	for _, key := range slices.Sorted(maps.Keys(value.Config)) {
		if !slices.Contains(known, key) {
			problems.Add("config."+key, "known", "unknown, the provider %q has %s", "images", strings.Join(known, " and "))
		}
	}
	server, ca := value.Config["server_url"], value.Config["update_ca"]
	if (server == "") != (ca == "") {
		problems.Add("config", "together", "server_url and update_ca go together: set both or none")
	}
	if parsed, err := url.Parse(server); server != "" && (err != nil || parsed.Host == "") {
		problems.Add("config.server_url", "url", "%s", "it is not a URL, as \"https://releases.example.org/os\"")
	}
	if found, _ := pem.Decode([]byte(ca)); ca != "" && (found == nil || found.Type != "CERTIFICATE") {
		problems.Add("config.update_ca", "certificate", "it is not a certificate in PEM form")
	}
	if len(problems) == 0 && server != "" {
		if _, err := release.NewSource(release.Options{ServerURL: server, UpdateCA: []byte(ca)}); err != nil {
			problems.Add("config", "usable", "%s", err)
		}
	}
	return problems.Err()
}
