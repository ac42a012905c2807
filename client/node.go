package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/api/os"
)

// Server names the node and what runs on it.
func (c *Client) Server(ctx context.Context) (os.Server, error) {
	value, _, err := get[os.Server](ctx, c, "/1.0", nil)
	return value, err
}

// Applications lists the names of the installed applications.
func (c *Client) Applications(ctx context.Context) ([]string, error) {
	return c.memberNames(ctx, "/1.0/applications", "application")
}

// Application shows one installed application, with the ETag for SetApplication.
func (c *Client) Application(ctx context.Context, name string) (os.Application, string, error) {
	p, err := ApplicationPath(name)
	if err != nil {
		return os.Application{}, "", err
	}
	return get[os.Application](ctx, c, p, nil)
}

// SetApplication replaces an application's configuration. An empty etag means whatever is there.
func (c *Client) SetApplication(ctx context.Context, name string, config os.ApplicationConfig, etag string) error {
	p, err := ApplicationPath(name)
	if err != nil {
		return err
	}
	return c.send(ctx, http.MethodPut, p, map[string]any{"config": config}, etag)
}

// AddApplication installs an application and returns once it runs, which includes its download.
func (c *Client) AddApplication(ctx context.Context, name string) error {
	return c.send(ctx, http.MethodPost, "/1.0/applications", os.ApplicationsPost{Name: name}, "")
}

// RestartApplication asks for a restart and does not wait for its end.
func (c *Client) RestartApplication(ctx context.Context, name string) error {
	return c.applicationAction(ctx, name, ":restart")
}

// RemoveApplication removes an application. The primary one cannot be removed.
func (c *Client) RemoveApplication(ctx context.Context, name string) error {
	return c.applicationAction(ctx, name, ":remove")
}

// CheckApplication asks the node to look for a newer version and does not wait for it.
func (c *Client) CheckApplication(ctx context.Context, name string) error {
	return c.applicationAction(ctx, name, ":check-update")
}

// SwitchApplication asks the node to go to another version that it has; empty is the one
// before. It does not wait for it.
func (c *Client) SwitchApplication(ctx context.Context, name, version string) error {
	p, err := ApplicationPath(name)
	if err != nil {
		return err
	}
	return c.send(ctx, http.MethodPost, p+"/:switch-version", os.ApplicationVersionPost{Version: version}, "")
}

func (c *Client) applicationAction(ctx context.Context, name, action string) error {
	p, err := ApplicationPath(name)
	if err != nil {
		return err
	}
	if action != ":remove" {
		_, err := c.ask(ctx, http.MethodPost, p+"/"+action, nil, "")
		return err
	}
	return c.send(ctx, http.MethodPost, p+"/"+action, nil, "")
}

// ApplicationPath is the path of one application, for Do and Raw. A name that cannot
// be one part of a path is an error.
func ApplicationPath(name string) (string, error) {
	return memberPath("/1.0/applications", "application", name)
}

// memberPath is the path of one member of a collection; kind is what it is called.
func memberPath(collection, kind, name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.HasPrefix(name, ":") {
		return "", fmt.Errorf("%s name %q: not a name", kind, name)
	}
	return collection + "/" + url.PathEscape(name), nil
}

// memberNames reads a collection: the API lists paths, people want names.
func (c *Client) memberNames(ctx context.Context, collection, kind string) ([]string, error) {
	urls, _, err := get[[]string](ctx, c, collection, nil)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(urls))
	for i, u := range urls {
		if names[i], err = url.PathUnescape(path.Base(u)); err != nil {
			return nil, fmt.Errorf("%s %q of the node's list: %w", kind, u, err)
		}
	}
	return names, nil
}

// Security shows the chain of trust and the recovery keys: keep the answer secret.
func (c *Client) Security(ctx context.Context) (os.Security, error) {
	value, _, err := get[os.Security](ctx, c, "/1.0/system/security", nil)
	return value, err
}

// SecurityRetrieved tells the node that its recovery keys are kept elsewhere.
func (c *Client) SecurityRetrieved(ctx context.Context) error {
	return c.send(ctx, http.MethodPost, "/1.0/system/security/:retrieved", nil, "")
}

// Storage shows drives and pools.
func (c *Client) Storage(ctx context.Context) (os.Storage, error) {
	value, _, err := get[os.Storage](ctx, c, "/1.0/system/storage", nil)
	return value, err
}

// Network shows the network configuration and what came of it.
func (c *Client) Network(ctx context.Context) (os.Network, error) {
	value, _, err := get[os.Network](ctx, c, "/1.0/system/network", nil)
	return value, err
}

// Resources shows the hardware, as JSON in the shape of Incus' resources.
func (c *Client) Resources(ctx context.Context) (json.RawMessage, error) {
	value, _, err := get[json.RawMessage](ctx, c, "/1.0/system/resources", nil)
	return value, err
}

// Update shows how the node updates, with the ETag for SetUpdate.
func (c *Client) Update(ctx context.Context) (os.Update, string, error) {
	return get[os.Update](ctx, c, "/1.0/system/update", nil)
}

// SetUpdate replaces the update configuration. An empty etag means whatever is there.
func (c *Client) SetUpdate(ctx context.Context, config os.UpdateConfig, etag string) error {
	return c.send(ctx, http.MethodPut, "/1.0/system/update", map[string]any{"config": config}, etag)
}

// CheckUpdate asks the node to look for updates; with OSOnly the applications are left
// alone, and it waits for the end.
func (c *Client) CheckUpdate(ctx context.Context, post os.UpdateCheckPost) error {
	if post == (os.UpdateCheckPost{}) {
		_, err := c.ask(ctx, http.MethodPost, "/1.0/system/update/:check", nil, "")
		return err
	}
	return c.send(ctx, http.MethodPost, "/1.0/system/update/:check", post, "")
}

// PlanUpdate says what an update would do.
func (c *Client) PlanUpdate(ctx context.Context) (os.UpdatePlan, error) {
	var plan os.UpdatePlan
	answer, err := c.ask(ctx, http.MethodPost, "/1.0/system/update/:plan", nil, "")
	if err != nil {
		return plan, err
	}
	if err := json.Unmarshal(answer.Metadata, &plan); err != nil {
		return plan, fmt.Errorf("reading the plan: %w", err)
	}
	return plan, nil
}

// Provider shows where releases come from, with the ETag for SetProvider.
func (c *Client) Provider(ctx context.Context) (os.Provider, string, error) {
	return get[os.Provider](ctx, c, "/1.0/system/provider", nil)
}

// SetProvider replaces the provider configuration. An empty etag means whatever is there.
func (c *Client) SetProvider(ctx context.Context, config os.ProviderConfig, etag string) error {
	return c.send(ctx, http.MethodPut, "/1.0/system/provider", map[string]any{"config": config}, etag)
}

// PowerOff switches the node off. The answer comes before it happens.
func (c *Client) PowerOff(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, "/1.0/system/:poweroff", nil, "")
	return err
}

// Reboot restarts the node. The answer comes before it happens.
func (c *Client) Reboot(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, "/1.0/system/:reboot", nil, "")
	return err
}

// Suspend sends the node to sleep. The answer comes before it happens.
func (c *Client) Suspend(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, "/1.0/system/:suspend", nil, "")
	return err
}

// LogQuery chooses entries of the node's journal. The zero value means the running boot.
type LogQuery struct {
	// Unit is a systemd unit, as "incus.service"; default all.
	Unit string
	// Boot is an offset ("-1" is the boot before) or a boot's id; default the running boot.
	Boot string
	// Entries is how many of the newest entries to give; default all that fit an answer.
	Entries int
	// Since and Until are times as journalctl reads them, as "-1h" or "2026-11-22 01:00".
	Since string
	Until string
}

func (q LogQuery) values() (url.Values, error) {
	values := url.Values{}
	for name, value := range map[string]string{"unit": q.Unit, "boot": q.Boot, "since": q.Since, "until": q.Until} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if q.Entries < 0 {
		return nil, errors.New("number of log entries: less than nothing")
	}
	if q.Entries > 0 {
		values.Set("entries", strconv.Itoa(q.Entries))
	}
	return values, nil
}

// DebugLog reads the journal, oldest first. Each entry is an object of journal fields,
// as `journalctl -o json` writes it.
func (c *Client) DebugLog(ctx context.Context, q LogQuery) ([]json.RawMessage, error) {
	values, err := q.values()
	if err != nil {
		return nil, err
	}
	entries, _, err := get[[]json.RawMessage](ctx, c, "/1.0/debug/log", values)
	return entries, err
}

// DebugProcesses is the list of processes as text, as `ps fauxww` writes it.
func (c *Client) DebugProcesses(ctx context.Context) (string, error) {
	value, _, err := get[string](ctx, c, "/1.0/debug/processes", nil)
	return value, err
}

// DebugBoot lists the phases of the node's start with their times.
func (c *Client) DebugBoot(ctx context.Context) (os.DebugBoot, error) {
	value, _, err := get[os.DebugBoot](ctx, c, "/1.0/debug/boot", nil)
	return value, err
}
