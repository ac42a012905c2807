package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-os/holdfast/api/os"
)

// MaxBackup is the longest backup that is read, in bytes.
const MaxBackup = 64 << 30

// Paths of what concerns the node itself.
const (
	SystemBackupPath  = "/1.0/system/:backup"
	SystemRestorePath = "/1.0/system/:restore"
	SystemResetPath   = "/1.0/system/:factory-reset"
)

// BackupSystem writes a backup of what the node keeps to w: a gzip tar, or what age makes of
// it for a recipient. Without a recipient it has the node's secrets in clear. A node of
// IncusOS knows no recipient: see whether the answer is encrypted.
func (c *Client) BackupSystem(ctx context.Context, post os.BackupPost, w io.Writer) error {
	return c.backup(ctx, SystemBackupPath, post, w)
}

// BackupApplication writes a backup of an application's data to w.
func (c *Client) BackupApplication(ctx context.Context, name string, post os.BackupPost, w io.Writer) error {
	path, err := ApplicationPath(name)
	if err != nil {
		return err
	}
	return c.backup(ctx, path+"/:backup", post, w)
}

func (c *Client) backup(ctx context.Context, path string, post os.BackupPost, w io.Writer) error {
	body, err := json.Marshal(post)
	if err != nil {
		return fmt.Errorf("encoding the request for %s: %w", path, err)
	}
	return c.download(ctx, Request{Method: http.MethodPost, Path: path, Body: body}, w, MaxBackup)
}

// RestoreSystem sends a backup of a node, which then restarts. skip names what is left out,
// as "network-macs", and cards network cards of the node for those of the backup's machine,
// as "eno1=enp1s0". The archive is not encrypted.
func (c *Client) RestoreSystem(ctx context.Context, archive io.Reader, skip, cards []string) error {
	_, err := c.upload(ctx, SystemRestorePath, choosing(skip, cards), archive)
	return err
}

// PlanRestoreSystem says what RestoreSystem would do.
func (c *Client) PlanRestoreSystem(ctx context.Context, archive io.Reader, skip, cards []string) (os.Plan, error) {
	return c.planUpload(ctx, SystemRestorePath, choosing(skip, cards), archive)
}

func choosing(skip, cards []string) url.Values {
	query := url.Values{}
	if len(skip) > 0 {
		query.Set("skip", strings.Join(skip, ","))
	}
	if len(cards) > 0 {
		query.Set("cards", strings.Join(cards, ","))
	}
	return query
}

// RestoreApplication sends a backup of an application. The node answers when it has checked
// and unpacked it; the application restarts with it behind the answer.
func (c *Client) RestoreApplication(ctx context.Context, name string, archive io.Reader) error {
	path, err := ApplicationPath(name)
	if err != nil {
		return err
	}
	_, err = c.upload(ctx, path+"/:restore", nil, archive)
	return err
}

// PlanRestoreApplication says what RestoreApplication would do. The archive is sent for it.
func (c *Client) PlanRestoreApplication(ctx context.Context, name string, archive io.Reader) (os.Plan, error) {
	path, err := ApplicationPath(name)
	if err != nil {
		return os.Plan{}, err
	}
	return c.planUpload(ctx, path+"/:restore", nil, archive)
}

// FactoryReset makes a new node of this one. The answer comes before it restarts.
func (c *Client) FactoryReset(ctx context.Context, post os.FactoryResetPost) error {
	_, err := c.ask(ctx, http.MethodPost, SystemResetPath, post, "")
	return err
}

// PlanFactoryReset says what FactoryReset would do.
func (c *Client) PlanFactoryReset(ctx context.Context, post os.FactoryResetPost) (os.Plan, error) {
	body, err := json.Marshal(post)
	if err != nil {
		return os.Plan{}, fmt.Errorf("encoding the request for %s: %w", SystemResetPath, err)
	}
	return c.planPost(ctx, SystemResetPath, body)
}

// ResetApplication starts an application anew, empty and with the node's seed or that of
// post. The answer comes before it happens.
func (c *Client) ResetApplication(ctx context.Context, name string, post os.ApplicationResetPost) error {
	path, body, err := resetApplication(name, post)
	if err != nil {
		return err
	}
	_, err = c.Do(ctx, Request{Method: http.MethodPost, Path: path, Body: body})
	return err
}

// resetApplication has no body without seeds: a node of IncusOS takes none.
func resetApplication(name string, post os.ApplicationResetPost) (path string, body []byte, err error) {
	if path, err = ApplicationPath(name); err != nil {
		return "", nil, err
	}
	path += "/:factory-reset"
	if len(post.Seeds) == 0 {
		return path, nil, nil
	}
	if body, err = json.Marshal(post); err != nil {
		return "", nil, fmt.Errorf("encoding the request for %s: %w", path, err)
	}
	return path, body, nil
}

// PlanResetApplication says what ResetApplication would do.
func (c *Client) PlanResetApplication(ctx context.Context, name string, post os.ApplicationResetPost) (os.Plan, error) {
	path, body, err := resetApplication(name, post)
	if err != nil {
		return os.Plan{}, err
	}
	return c.planPost(ctx, path, body)
}

func (c *Client) planPost(ctx context.Context, path string, body []byte) (os.Plan, error) {
	answer, err := c.Plan(ctx, Request{Method: http.MethodPost, Path: path, Body: body})
	if err != nil {
		return os.Plan{}, err
	}
	return decodeAnswer[os.Plan](path, answer)
}

// planUpload is upload that changes nothing. A node that knows no plans is not asked: it
// would do it.
func (c *Client) planUpload(ctx context.Context, path string, query url.Values, body io.Reader) (os.Plan, error) {
	if err := c.knowsPlans(ctx); err != nil {
		return os.Plan{}, err
	}
	answer, err := c.upload(ctx, path, withValue(query, "dry-run", "1"), body)
	if err != nil {
		return os.Plan{}, err
	}
	plan, err := decodeAnswer[os.Plan](path, answer)
	if err == nil && plan.Steps == nil {
		err = fmt.Errorf("the answer for %s is not a plan: look whether the node has made the change", path)
	}
	return plan, err
}

// upload sends a file and reads the answer.
func (c *Client) upload(ctx context.Context, path string, query url.Values, body io.Reader) (Answer, error) {
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	// A body whose length is known is sent with it, by its type.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, body)
	if err != nil {
		return Answer{}, fmt.Errorf("making a request for %s: %w", path, err)
	}
	request.Header.Set("User-Agent", c.userAgent)
	request.Header.Set("Accept", "application/json, */*;q=0.5")
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, &ConnectError{Endpoint: c.endpoint, Err: unwrapURL(err)}
	}
	defer response.Body.Close()
	data, err := c.readAll(path, response.Body)
	if err != nil {
		return Answer{}, err
	}
	return decode(path, response.StatusCode, response.Header, data)
}

// SecureBootUpdatePath takes archives of updates for the firmware's keys.
const SecureBootUpdatePath = "/1.0/debug/secureboot/:update"

// UpdateSecureBoot sends an archive of signed updates for the firmware's keys and says how
// far the node has come with it: one variable for each start.
func (c *Client) UpdateSecureBoot(ctx context.Context, archive io.Reader) (os.SecureBootState, error) {
	answer, err := c.upload(ctx, SecureBootUpdatePath, nil, archive)
	if err != nil {
		return os.SecureBootState{}, err
	}
	return decodeAnswer[os.SecureBootState](SecureBootUpdatePath, answer)
}

// PlanUpdateSecureBoot says what UpdateSecureBoot would do.
func (c *Client) PlanUpdateSecureBoot(ctx context.Context, archive io.Reader) (os.Plan, error) {
	return c.planUpload(ctx, SecureBootUpdatePath, nil, archive)
}
