package incus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// object is one entry of a preseed, as it goes to Incus.
type object map[string]any

// preseed is the part of Incus' preseed that is understood.
type preseed struct {
	Config         map[string]any `json:"config"`
	Networks       []object       `json:"networks"`
	StoragePools   []object       `json:"storage_pools"`
	StorageVolumes []object       `json:"storage_volumes"`
	Profiles       []object       `json:"profiles"`
	Projects       []object       `json:"projects"`
	Certificates   []object       `json:"certificates"`
}

// parsePreseed refuses keys that would be ignored, before anything is applied.
func parsePreseed(seed map[string]any) (preseed, error) {
	known := []string{"config", "networks", "storage_pools", "storage_volumes", "profiles", "projects", "certificates"}
	rest := map[string]any{}
	var unknown []error
	for _, key := range slices.Sorted(maps.Keys(seed)) {
		switch {
		case slices.Contains(known, key):
			rest[key] = seed[key]
		case !isEmpty(seed[key]):
			unknown = append(unknown, fmt.Errorf("preseed.%s of the incus seed is not supported; known are %s", key, strings.Join(known, ", ")))
		}
	}
	if len(unknown) > 0 {
		return preseed{}, errors.Join(unknown...)
	}
	text, err := json.Marshal(rest)
	if err != nil {
		return preseed{}, fmt.Errorf("reading the preseed of the incus seed: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var p preseed
	if err := decoder.Decode(&p); err != nil {
		return preseed{}, fmt.Errorf("reading the preseed of the incus seed: %w", err)
	}
	return p, nil
}

func isEmpty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// apply pushes everything, in an order in which later entries may name earlier ones.
func (c *Client) apply(ctx context.Context, p preseed) error {
	if len(p.Config) > 0 {
		if err := c.configure(ctx, texts(p.Config)); err != nil {
			return fmt.Errorf("applying preseed.config: %w", err)
		}
	}
	inDefault := func(o object) bool { return project(o) == "" || project(o) == "default" }
	steps := []struct {
		kind, path string
		list       []object
	}{
		{"networks", "/1.0/networks", filter(p.Networks, inDefault)},
		{"storage_pools", "/1.0/storage-pools", p.StoragePools},
		{"projects", "/1.0/projects", p.Projects},
		{"networks", "/1.0/networks", filter(p.Networks, func(o object) bool { return !inDefault(o) })},
	}
	for _, step := range steps {
		if err := c.ensureAll(ctx, step.kind, step.path, step.list); err != nil {
			return err
		}
	}
	for _, volume := range p.StorageVolumes {
		if err := c.ensureSeededVolume(ctx, volume); err != nil {
			return fmt.Errorf("applying preseed.storage_volumes %v: %w", volume["name"], err)
		}
	}
	if err := c.ensureAll(ctx, "profiles", "/1.0/profiles", p.Profiles); err != nil {
		return err
	}
	for i, certificate := range p.Certificates {
		if err := c.ensureCertificate(ctx, certificate); err != nil {
			return fmt.Errorf("applying preseed.certificates %d (%v): %w", i+1, certificate["name"], err)
		}
	}
	return nil
}

func (c *Client) ensureAll(ctx context.Context, kind, path string, list []object) error {
	for _, o := range list {
		if err := c.ensure(ctx, path, o); err != nil {
			return fmt.Errorf("applying preseed.%s %v: %w", kind, o["name"], err)
		}
	}
	return nil
}

// ensure makes an object, or merges its description, config and devices into the one
// that exists. Nothing is sent when that changes nothing.
func (c *Client) ensure(ctx context.Context, path string, wanted object) error {
	name, _ := wanted["name"].(string)
	if name == "" {
		return fmt.Errorf("it has no name")
	}
	query := ""
	if p := project(wanted); p != "" {
		query = "?project=" + url.QueryEscape(p)
	}
	body := maps.Clone(wanted)
	delete(body, "project")
	if config, ok := body["config"].(map[string]any); ok {
		body["config"] = texts(config)
	}
	if devices, ok := body["devices"].(map[string]any); ok {
		body["devices"] = deviceTexts(devices)
	}
	item := path + "/" + url.PathEscape(name) + query
	var current object
	err := c.get(ctx, item, &current)
	if isMissing(err) {
		return c.do(ctx, http.MethodPost, path+query, body, nil)
	}
	if err != nil {
		return err
	}
	merged, changed := merge(current, body)
	if !changed {
		return nil
	}
	return c.do(ctx, http.MethodPut, item, merged, nil)
}

// merge gives the writable half of current with the values of wanted over it.
func merge(current, wanted object) (object, bool) {
	merged := object{}
	changed := false
	for _, key := range []string{"description", "config", "devices"} {
		before, ok := current[key]
		if !ok {
			continue
		}
		merged[key] = before
		switch value := wanted[key].(type) {
		case string:
			merged[key] = value
		case map[string]any:
			old, _ := before.(map[string]any)
			all := maps.Clone(old)
			if all == nil {
				all = map[string]any{}
			}
			maps.Copy(all, value)
			merged[key] = all
			if len(old) == 0 && len(all) == 0 {
				continue
			}
		}
		changed = changed || !reflect.DeepEqual(merged[key], before)
	}
	return merged, changed
}

func (c *Client) ensureSeededVolume(ctx context.Context, volume object) error {
	pool, _ := volume["pool"].(string)
	kind, _ := volume["type"].(string)
	if kind == "" {
		kind = "custom"
	}
	if pool == "" {
		return fmt.Errorf("it has no pool")
	}
	body := maps.Clone(volume)
	delete(body, "pool")
	return c.ensure(ctx, "/1.0/storage-pools/"+url.PathEscape(pool)+"/volumes/"+url.PathEscape(kind), body)
}

// ensureCertificate adds a certificate to the trust store unless it is there.
func (c *Client) ensureCertificate(ctx context.Context, certificate object) error {
	text, _ := certificate["certificate"].(string)
	der, err := decodeCertificate(text)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(der)
	err = c.get(ctx, "/1.0/certificates/"+hex.EncodeToString(sum[:]), nil)
	if err == nil || !isMissing(err) {
		return err
	}
	body := maps.Clone(certificate)
	body["certificate"] = base64.StdEncoding.EncodeToString(der)
	if body["type"] == nil {
		body["type"] = "client"
	}
	return c.do(ctx, http.MethodPost, "/1.0/certificates", body, nil)
}

func decodeCertificate(text string) ([]byte, error) {
	if block, _ := pem.Decode([]byte(text)); block != nil {
		return block.Bytes, nil
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil || len(der) == 0 {
		return nil, fmt.Errorf("the field certificate is neither PEM nor base64")
	}
	return der, nil
}

// configure sets keys of the server and leaves the others.
func (c *Client) configure(ctx context.Context, config map[string]any) error {
	return c.do(ctx, http.MethodPatch, "/1.0", object{"config": config}, nil)
}

// texts turns scalars into text, because in YAML people write true and 10 without quotes.
func texts(config map[string]any) map[string]any {
	result := map[string]any{}
	for key, value := range config {
		if value == nil {
			value = ""
		}
		result[key] = fmt.Sprint(value)
	}
	return result
}

func deviceTexts(devices map[string]any) map[string]any {
	result := map[string]any{}
	for name, device := range devices {
		if properties, ok := device.(map[string]any); ok {
			device = texts(properties)
		}
		result[name] = device
	}
	return result
}

func project(o object) string {
	name, _ := o["project"].(string)
	return name
}

func filter(list []object, keep func(object) bool) []object {
	return slices.DeleteFunc(slices.Clone(list), func(o object) bool { return !keep(o) })
}
