package daemon_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	seedapi "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/services"
)

// iscsi is a service that refuses port 0.
func iscsi() services.Service {
	return services.Typed[osapi.ServiceISCSIConfig, struct{}]{
		Service: "iscsi",
		CheckConfig: func(c *osapi.ServiceISCSIConfig) (p config.Problems) {
			for _, target := range c.Targets {
				if target.Port == 0 {
					p.Add("targets[0].port", "range", "0 is no port")
				}
			}
			return p
		},
		Observe:    func(context.Context) (struct{}, error) { return struct{}{}, nil },
		PlanChange: func(_, _ osapi.ServiceISCSIConfig, _ struct{}) plan.Plan { return plan.Plan{} },
		Describe:   func(struct{}) any { return struct{}{} },
	}
}

type noHands struct{}

func (noHands) Do(context.Context, plan.Plan) error { return nil }

func withServices(o *daemon.Options) {
	o.Machine.Services, o.Machine.Hands = services.NewRegistry(iscsi()), noHands{}
}

// What the seed says about consoles, certificates and services is in force when the node is
// ready, and is said to be used up exactly once.
func TestRun_SeedOfKernelSecurityAndServices_IsInForce(t *testing.T) {
	w := newWorld()
	w.seed.more.Kernel = &seedapi.Kernel{Console: []seedapi.KernelConsole{{Device: "ttyS1", BaudRate: 9600}}}
	w.seed.more.Security = &seedapi.Security{CustomCACerts: []string{"PEM"}}
	w.seed.more.Services = &seedapi.Services{
		Version: "1",
		ISCSI:   &seedapi.ISCSI{Enabled: true, Targets: []seedapi.ISCSITarget{{Target: "iqn.a", Address: "192.0.2.1", Port: 3260}}},
		OVN:     &seedapi.OVN{Enabled: true, Database: "ssl:x"},
	}
	f := startWith(t, w, nil, withServices)
	w.wait(t, "status ready")
	if diff := cmp.Diff(osapi.KernelConfig{Console: []osapi.KernelConsole{{Device: "ttyS1", BaudRate: 9600}}}, getAs[osapi.Kernel](t, f, "/1.0/system/kernel").Config); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(osapi.SecurityConfig{EncryptionRecoveryKeys: []string{"cbdefghi"}, CustomCACerts: []string{"PEM"}}, w.applied["security"]); diff != "" {
		t.Error(diff)
	}
	service := getAs[osapi.ServiceISCSI](t, f, "/1.0/services/iscsi").Config
	want := osapi.ServiceISCSIConfig{Enabled: true, Targets: []osapi.ServiceISCSITarget{{Target: "iqn.a", Address: "192.0.2.1", Port: 3260}}}
	if diff := cmp.Diff(want, service); diff != "" {
		t.Error(diff)
	}
	if !slices.Contains(w.messages, `warning: the seed services: service "ovn": this release does not have the service; it has: iscsi`) {
		t.Errorf("the console shows %q", w.messages)
	}
	if w.seedUsed != 1 {
		t.Errorf("used %d times", w.seedUsed)
	}
}

// A document that this machine refuses must not keep the node from starting, nor cost it its
// recovery key, nor hold for the ones beside it.
func TestRun_SeedThatTheMachineRefuses_IsToldAndLeftOut(t *testing.T) {
	w := newWorld()
	w.seed.more.Kernel = &seedapi.Kernel{Console: []seedapi.KernelConsole{{Device: "nonsense"}}}
	w.seed.more.Security = &seedapi.Security{CustomCACerts: []string{"no certificate"}}
	w.seed.more.Services = &seedapi.Services{ISCSI: &seedapi.ISCSI{Enabled: true, Targets: []seedapi.ISCSITarget{{}}}}
	w.seed.network = &osapi.NetworkConfig{Interfaces: []osapi.NetworkInterface{{}}}
	refuse := func(path string) config.Problems { return config.Problems{{Path: path, Rule: "form", Text: "no"}} }
	startWith(t, w, nil, func(o *daemon.Options) {
		withServices(o)
		o.Machine.Kernel = fakeSetting[osapi.KernelConfig, osapi.KernelState]{world: w, name: "kernel", check: func(value, _ *osapi.KernelConfig) config.Problems {
			if len(value.Console) > 0 {
				return refuse("console[0].device")
			}
			return nil
		}}
		o.Machine.Security = fakeSetting[osapi.SecurityConfig, osapi.SecurityState]{world: w, name: "security", check: func(value, _ *osapi.SecurityConfig) config.Problems {
			if len(value.CustomCACerts) > 0 {
				return refuse("custom_ca_certs[0]")
			}
			return nil
		}}
	})
	w.wait(t, "status ready")
	var told []string
	for _, message := range w.messages {
		if len(message) > 15 && message[:15] == "error: the seed" {
			told = append(told, message)
		}
	}
	want := []string{
		"error: the seed security is left out: custom_ca_certs[0]: no (rule form)",
		"error: the seed kernel is left out: console[0].device: no (rule form)",
		"error: the seed network is left out: interfaces[0].name: is empty (rule required)",
		"error: the seed services.iscsi is left out: targets[0].port: 0 is no port (rule range)",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(osapi.SecurityConfig{EncryptionRecoveryKeys: []string{"cbdefghi"}}, w.applied["security"]); diff != "" {
		t.Error(diff)
	}
}

// The seed's types and those of the services' API are kept apart, and must say the same.
func TestSeedServices_FieldsOfISCSI_AreThoseOfTheAPI(t *testing.T) {
	text, err := json.Marshal(seedapi.ISCSI{Enabled: true, Targets: []seedapi.ISCSITarget{{Target: "a", Address: "b", Port: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	var got osapi.ServiceISCSIConfig
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(osapi.ServiceISCSIConfig{Enabled: true, Targets: []osapi.ServiceISCSITarget{{Target: "a", Address: "b", Port: 1}}}, got); diff != "" {
		t.Error(diff)
	}
}
