package proxy

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// kerberosOverDNS finds the KDCs of the realm by its SRV records.
func kerberosOverDNS(user, realm, password, host string) (Authorizer, error) {
	return NewKerberos(user, realm, password, host, fmt.Sprintf(
		"[libdefaults]\n default_realm = %s\n dns_lookup_kdc = true\n dns_lookup_realm = false\n udp_preference_limit = 1\n", realm))
}

// NewKerberos authorizes a principal to the service HTTP/host over SPNEGO. conf is
// the text of a krb5.conf. Tickets are asked for when they are needed, and kept while
// they are valid.
func NewKerberos(user, realm, password, host, conf string) (Authorizer, error) {
	parsed, err := config.NewFromString(conf)
	if err != nil {
		return nil, fmt.Errorf("reading the Kerberos settings of the realm %s: %w", realm, err)
	}
	// FAST is not spoken by the KDCs of Active Directory.
	logged := client.NewWithPassword(user, realm, password, parsed, client.DisablePAFXFAST(true))
	return &kerberos{client: logged, realm: realm, service: "HTTP/" + host}, nil
}

type kerberos struct {
	// mu keeps several first requests from logging in at once.
	mu      sync.Mutex
	client  *client.Client
	realm   string
	service string
}

func (k *kerberos) Authorization(ctx context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The library knows no context. It gives up on a KDC by itself, after seconds.
	if err := ctx.Err(); err != nil {
		return "", err
	}
	mechanism := spnego.SPNEGOClient(k.client, k.service)
	if err := mechanism.AcquireCred(); err != nil {
		return "", fmt.Errorf("logging in to the Kerberos realm %s: %w", k.realm, err)
	}
	token, err := mechanism.InitSecContext()
	if err != nil {
		return "", fmt.Errorf("asking the Kerberos realm %s for a ticket for %s: %w", k.realm, k.service, err)
	}
	data, err := token.Marshal()
	if err != nil {
		return "", fmt.Errorf("writing the Kerberos token for %s: %w", k.service, err)
	}
	return "Negotiate " + base64.StdEncoding.EncodeToString(data), nil
}
