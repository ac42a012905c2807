package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/state"
)

// providerImages is the provider of this release.
const providerImages = "images"

func architecture() string {
	if runtime.GOARCH == "arm64" {
		return layout.AArch64
	}
	return layout.X86_64
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// tolerated are the rules that a node may break which its owner has opened with a recovery
// key: a TPM that has died, Secure Boot that was switched off. The owner needs the API to put
// things right, and the instances need not wait for a new TPM. The node says that it is not
// trusted instead.
var tolerated = []string{install.RuleTPM, install.RuleSecureBoot, install.RuleSetupMode}

// nodeProblems are what keeps an installed node from starting.
func nodeProblems(found install.Problems) []string {
	var problems []string
	for _, problem := range found {
		if !slices.Contains(tolerated, problem.Rule) {
			problems = append(problems, problem.Error())
		}
	}
	return problems
}

// poolKeys are the keys of ZFS pools, by pool.
func (h *Host) poolKeys() (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(stateDir, "zpool.*.key"))
	if err != nil {
		return nil, fmt.Errorf("listing the keys of pools: %w", err)
	}
	keys := map[string]string{}
	for _, path := range paths {
		key, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the key of a pool: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "zpool."), ".key")
		keys[name] = base64.StdEncoding.EncodeToString(key)
	}
	return keys, nil
}

// certificateFingerprint gives the SHA-256 of the first certificate that is there; empty
// when none is.
func certificateFingerprint(paths ...string) (string, error) {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading the certificate of Incus: %w", err)
		}
		found, _ := pem.Decode(text)
		if found == nil {
			return "", fmt.Errorf("reading the certificate of Incus: %s holds none", path)
		}
		sum := sha256.Sum256(found.Bytes)
		return hex.EncodeToString(sum[:]), nil
	}
	return "", nil
}

// appStore keeps what the node remembers of its applications.
type appStore struct{ *Host }

var applicationsDocument = state.Document{Name: "applications", Version: 1}

func (s appStore) Load() (apps.State, error) {
	store, err := s.openStore()
	if err != nil {
		return nil, err
	}
	found := apps.State{}
	loaded, err := store.Load(applicationsDocument, &found)
	if loaded.Damage != nil {
		s.log.Error("state document damaged, its last copy is used", "document", applicationsDocument.Name, "error", loaded.Damage)
	}
	return found, err
}

func (s appStore) Save(value apps.State) error {
	store, err := s.openStore()
	if err != nil {
		return err
	}
	return store.Save(applicationsDocument, value)
}

// hostApps is Apps and AppUpdates, with errors that choose the HTTP code.
type hostApps struct{ manager *apps.Manager }

func (h hostApps) List(context.Context) ([]string, error) { return h.manager.List() }

// Add answers 400, not 404, for a name that no application has.
func (h hostApps) Add(ctx context.Context, name string) error {
	err := h.manager.Add(ctx, name)
	if errors.Is(err, apps.ErrUnknown) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return appError(err)
}

func (h hostApps) Show(ctx context.Context, name string) (osapi.Application, error) {
	application, err := h.manager.Show(ctx, name)
	return application, appError(err)
}

func (h hostApps) Configure(ctx context.Context, name string, config osapi.ApplicationConfig) error {
	return appError(h.manager.Configure(ctx, name, config))
}

func (h hostApps) Restart(ctx context.Context, name string) error {
	return appError(h.manager.Restart(ctx, name))
}

func (h hostApps) Remove(ctx context.Context, name string) error {
	return appError(h.manager.Remove(ctx, name))
}

func (h hostApps) StartAll(ctx context.Context, _ string) error { return h.manager.StartAll(ctx) }

func (h hostApps) Ensure(ctx context.Context, seeded []string) error {
	return h.manager.Ensure(ctx, seeded)
}

func (h hostApps) Check(ctx context.Context, name string) error {
	_, err := h.manager.CheckUpdate(ctx, name)
	return err
}

func (h hostApps) FindVersion(_ context.Context, name, version string) (string, error) {
	found, err := h.manager.FindVersion(name, version)
	return found, appError(err)
}

func (h hostApps) SwitchVersion(ctx context.Context, name, version string) error {
	return appError(h.manager.SwitchVersion(ctx, name, version))
}

func appError(err error) error {
	for _, pair := range []struct{ cause, kind error }{
		{apps.ErrUnknown, ErrNotFound}, {apps.ErrNotInstalled, ErrNotFound}, {apps.ErrInstalled, ErrConflict},
		{apps.ErrPrimary, ErrInvalid}, {apps.ErrSecondPrimary, ErrInvalid}, {apps.ErrNeeded, ErrConflict},
		{apps.ErrUnsupported, ErrUnsupported}, {apps.ErrNoVersion, ErrInvalid},
	} {
		if errors.Is(err, pair.cause) {
			return fmt.Errorf("%w: %w", pair.kind, err)
		}
	}
	return err
}

// otherRelease finds the release in the other slot by its UKI on the ESP:
// Holdfast_<version>.efi, or Holdfast_<version>+<left>-<done>.efi while its tries are
// counted. Empty when there is only the running one.
func otherRelease(dir, running string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("looking for the other release on the ESP: %w", err)
	}
	for _, entry := range entries {
		name, found := strings.CutPrefix(entry.Name(), layout.Name+"_")
		if !found {
			continue
		}
		version, _, _ := strings.Cut(strings.TrimSuffix(name, ".efi"), "+")
		if version != running {
			return version, nil
		}
	}
	return "", nil
}

// rootVolume is the Starts of a machine: the directory under which early boot counts them.
type rootVolume string

func (r rootVolume) Finished() error { return bootinfo.FinishStart(string(r)) }
