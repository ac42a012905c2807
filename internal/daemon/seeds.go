package daemon

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// How the documents of the seed become sections of the configuration. Each is taken once,
// for a section that nothing was said about yet; later the owner's word counts.

func (d *Daemon) seededNetwork(ctx context.Context) (*osapi.NetworkConfig, error) {
	set, err := d.machine.Seed.Read(ctx)
	if err != nil || set.Network == nil {
		return nil, err
	}
	return &set.Network.NetworkConfig, nil
}

func (d *Daemon) seededUpdate(ctx context.Context) (*osapi.UpdateConfig, error) {
	set, err := d.machine.Seed.Read(ctx)
	if err != nil || set.Update == nil {
		return nil, err
	}
	return &set.Update.UpdateConfig, nil
}

func (d *Daemon) seededKernel(ctx context.Context) (*osapi.KernelConfig, error) {
	set, err := d.machine.Seed.Read(ctx)
	if err != nil || set.Kernel == nil {
		return nil, err
	}
	next := &osapi.KernelConfig{}
	for _, console := range set.Kernel.Console {
		next.Console = append(next.Console, osapi.KernelConsole(console))
	}
	return next, nil
}

// seededConsole are the consoles of the seed for the first screen, also that of an install
// medium. A screen is wanted most when the seed cannot be read.
func (d *Daemon) seededConsole(ctx context.Context) []osapi.KernelConsole {
	seeded, err := d.seededKernel(ctx)
	if err != nil {
		d.log.Info("showing on the kernel's consoles alone", "error", err)
	}
	if seeded == nil {
		return nil
	}
	return seeded.Console
}

// leaveOut tells of a document that this machine refuses and goes on without it; other
// errors stay.
func (d *Daemon) leaveOut(name string, err error) error {
	var problems config.Problems
	if !errors.As(err, &problems) {
		return err
	}
	d.log.Error("a document of the seed is left out", "seed", name, "error", err)
	d.machine.Display.Message("error", "the seed "+name+" is left out: "+problems.Error())
	return nil
}

// startKernel takes the seed's consoles at the first start, and applies the section.
func (d *Daemon) startKernel(ctx context.Context) error {
	if err := d.leaveOut("kernel", seedSection(ctx, d, sectionKernel, d.seededKernel)); err != nil {
		return err
	}
	return d.startSetting(sectionKernel)(ctx)
}

// seedSecurity keeps the key that early boot has made, and with it the certificates of the
// seed. Without them, when they are refused: the key must not be lost for them.
func (d *Daemon) seedSecurity(ctx context.Context) error {
	made := func(ctx context.Context) (*osapi.SecurityConfig, error) {
		key, err := d.machine.Keys.Recovery(ctx)
		return &osapi.SecurityConfig{EncryptionRecoveryKeys: []string{key}}, err
	}
	err := seedSection(ctx, d, sectionSecurity, func(ctx context.Context) (*osapi.SecurityConfig, error) {
		set, err := d.machine.Seed.Read(ctx)
		if err != nil {
			return nil, err
		}
		next, err := made(ctx)
		if err == nil && set.Security != nil {
			next.CustomCACerts = set.Security.CustomCACerts
		}
		return next, err
	})
	if err := d.leaveOut("security", err); err != nil {
		return err
	}
	return seedSection(ctx, d, sectionSecurity, made)
}

// seedServices keeps what the seed says about services. One that this release does not
// have, or that it refuses, is told and left out.
func (d *Daemon) seedServices(ctx context.Context) error {
	set, err := d.machine.Seed.Read(ctx)
	if err != nil || set.Services == nil {
		return err
	}
	text, err := json.Marshal(set.Services)
	if err != nil {
		return fmt.Errorf("encoding the seed services: %w", err)
	}
	var named map[string]json.RawMessage
	if err := json.Unmarshal(text, &named); err != nil {
		return fmt.Errorf("encoding the seed services: %w", err)
	}
	delete(named, "version")
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if _, err := d.machine.Services.Get(name); err != nil {
			d.log.Error("a service of the seed is left out", "service", name, "error", err)
			d.machine.Display.Message("warning", "the seed services: "+err.Error())
			continue
		}
		raw := named[name]
		err := seedSection(ctx, d, servicePrefix+name, func(context.Context) (*json.RawMessage, error) { return &raw, nil })
		if err := d.leaveOut("services."+name, err); err != nil {
			return err
		}
	}
	return nil
}

// seedListener lets the first administrators of the applications in by the listener for
// emergencies too.
func (d *Daemon) seedListener(ctx context.Context) error {
	return d.leaveOut(sectionListener, seedSection(ctx, d, sectionListener, func(ctx context.Context) (*osapi.FallbackListenerConfig, error) {
		set, err := d.machine.Seed.Read(ctx)
		if err != nil {
			return nil, err
		}
		clients := seededClients(set)
		if len(clients) == 0 {
			return nil, nil
		}
		return &osapi.FallbackListenerConfig{TrustedClientCertificates: clients}, nil
	}))
}

// seededClients are the certificates of those who may do anything with the applications of
// a seed, PEM, each once. Clients that Incus restricts to projects are not among them, and
// what is no certificate is left out: Incus will say so.
func seededClients(set *seed.Set) []string {
	var given []string
	if set.Incus != nil && set.Incus.Preseed != nil {
		for _, c := range set.Incus.Preseed.Certificates {
			if c.Type == "client" && !c.Restricted {
				given = append(given, c.Certificate)
			}
		}
	}
	if set.MigrationManager != nil {
		given = append(given, set.MigrationManager.TrustedClientCertificates...)
	}
	if set.OperationsCenter != nil {
		given = append(given, set.OperationsCenter.TrustedClientCertificates...)
	}
	var all []string
	for _, text := range given {
		var der []byte
		if block, _ := pem.Decode([]byte(text)); block != nil {
			der = block.Bytes
		} else if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			der = raw
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			continue
		}
		one := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	return all
}

// seedUsed lets the secrets of the seed go. That they are still there keeps no node from
// working; the next start tries again.
func (d *Daemon) seedUsed(ctx context.Context) {
	if err := d.machine.Seed.Used(ctx); err != nil {
		d.log.Error("the secrets of the seed are still on the disk", "error", err)
		d.machine.Display.Message("warning", "the secrets of the seed are still on the disk, the next start tries again: "+err.Error())
	}
}
