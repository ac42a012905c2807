package proxy

import (
	"context"
	"encoding/base64"
	"fmt"
)

// Authorizer gives the value of the Proxy-Authorization header for one request to an
// upstream proxy; empty means none. It is safe for use by several goroutines. Its
// errors hold no secret.
type Authorizer interface {
	Authorization(ctx context.Context) (string, error)
}

// fixed is the same value each time.
type fixed string

func (f fixed) Authorization(context.Context) (string, error) { return string(f), nil }

func newAuthorizer(s server, options Options) (Authorizer, error) {
	switch s.auth {
	case "anonymous":
		return fixed(""), nil
	case "basic":
		return fixed("Basic " + base64.StdEncoding.EncodeToString([]byte(s.user+":"+s.password))), nil
	case "kerberos":
		return options.Kerberos(s.user, s.realm, s.password, s.host)
	}
	return nil, fmt.Errorf("auth %q is not known", s.auth)
}
