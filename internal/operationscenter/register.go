package operationscenter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Membership says which manager a node belongs to. The caller keeps it over restarts.
type Membership struct {
	// Server is the manager's base URL, "local" for the one on the node itself, and empty
	// for none.
	Server string `json:"server,omitempty"`
	// Certificate is PEM: what the manager connects to the node with; empty when it sent
	// none. The primary application and the emergency listener trust it until the node
	// moves away.
	Certificate string `json:"certificate,omitempty"`
}

// Registered is true for a node that belongs to a manager.
func (m Membership) Registered() bool { return m.Server != "" }

// Self is what a node tells of itself when it registers.
type Self struct {
	// Name is the host name.
	Name string `json:"name"`
	// ConnectionURL is what ConnectionURL gives.
	ConnectionURL string `json:"connection_url"`
	// MachineID is 32 lower-case hexadecimal digits.
	MachineID string `json:"machine_id"`
	// SystemUUID is the firmware's, from SMBIOS; empty when it has none.
	SystemUUID string `json:"system_uuid,omitempty"`
}

// Register makes the node known to the manager, and gives the membership to keep. The
// caller lets the primary application and the emergency listener trust its certificate
// before it stores it. A node that belongs to this manager already reports itself
// instead, and the membership stays as it is.
//
// ErrOtherManager when the node belongs to another manager: nothing is sent then. The
// request is sent once, since it is no use to ask twice for what may have been granted;
// *Refusal when the manager says no.
func (c *Client) Register(ctx context.Context, now Membership, self Self) (Membership, error) {
	if now.Registered() && now.Server != c.server {
		return now, fmt.Errorf("registering with %s: %w, %s: set the provider to \"images\" first, which leaves that manager, and then to %q with the new server",
			c.server, ErrOtherManager, now.Server, Name)
	}
	if now.Registered() {
		return now, c.Report(ctx, self.ConnectionURL, CauseNone)
	}
	if self.Name == "" || self.ConnectionURL == "" || self.MachineID == "" {
		return now, fmt.Errorf("registering with %s: %w: name, address and machine ID are needed", c.server, errIncomplete)
	}
	var granted struct {
		Certificate string `json:"certificate"`
	}
	if err := c.call(ctx, http.MethodPost, c.registerAddress(), self, &granted); err != nil {
		return now, fmt.Errorf("registering with %s: %w", c.server, err)
	}
	if granted.Certificate != "" {
		if _, err := parseCertificate(granted.Certificate); err != nil {
			return now, fmt.Errorf("registering with %s: the certificate that it sent: %w", c.server, err)
		}
	}
	return Membership{Server: c.server, Certificate: granted.Certificate}, nil
}

var errIncomplete = errors.New("the node does not know itself yet")

func (c *Client) registerAddress() *url.URL {
	if c.token == "" {
		return c.at("1.0", "provisioning", "servers", ":self_register")
	}
	address := c.at("1.0", "provisioning", "servers")
	address.RawQuery = url.Values{"token": {c.token}}.Encode()
	return address
}

// Report tells the manager where the node is reached, and why it says so. One try.
func (c *Client) Report(ctx context.Context, connectionURL string, cause Cause) error {
	body := struct {
		ConnectionURL string `json:"connection_url"`
		Cause         Cause  `json:"cause"`
	}{connectionURL, cause}
	if err := c.call(ctx, http.MethodPut, c.at("1.0", "provisioning", "servers", ":self"), body, nil); err != nil {
		return fmt.Errorf("reporting %q to %s: %w", cause, c.server, err)
	}
	return nil
}

// Departure is what is left to do when a node leaves its manager.
type Departure struct {
	// Membership is the one to store: none.
	Membership Membership
	// Distrust is PEM: the certificate that the primary application and the emergency
	// listener must not trust any more; empty for none.
	Distrust string
	// Warning is for a person; empty when there is nothing to say.
	Warning string
}

// Leave takes a node away from its manager. It cannot fail and asks nobody: a manager
// knows no deregistration, may be gone, and must not be able to hold a node.
func Leave(now Membership) Departure {
	if !now.Registered() {
		return Departure{}
	}
	return Departure{Distrust: now.Certificate,
		Warning: fmt.Sprintf("an Operations Center does not support deregistration: the node is still listed at %s, remove it there", now.Server)}
}
