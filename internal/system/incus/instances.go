package incus

import (
	"context"
	"net/http"
	"slices"
)

// Running gives the running instances that Incus starts again after a restart of the
// machine, as "project/name", sorted. Those that are gone when they stop, and those that
// their owner starts by hand, are left out.
func (c *Client) Running(ctx context.Context) ([]string, error) {
	var all []struct {
		Name      string            `json:"name"`
		Project   string            `json:"project"`
		Status    string            `json:"status"`
		Ephemeral bool              `json:"ephemeral"`
		Config    map[string]string `json:"expanded_config"`
	}
	if err := c.do(ctx, http.MethodGet, "/1.0/instances?recursion=1&all-projects=true", nil, &all); err != nil {
		return nil, err
	}
	names := []string{}
	for _, i := range all {
		if i.Status == "Running" && !i.Ephemeral && i.Config["boot.autostart"] != "false" {
			names = append(names, i.Project+"/"+i.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
