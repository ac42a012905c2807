package operationscenter

import (
	"net/http"
	"testing"
)

// A proxy for the Internet must not stand between a node and its manager: neither
// connection may look at the environment. And with one connection a request, those that
// stay open would pile up.
func TestConnect_HasNoProxyAndStaysNotOpen(t *testing.T) {
	for name, o := range map[string]Options{"HTTPS": {}, "socket": {Socket: Socket}} {
		transport := connect(o, "manager.example.org", nil).(*http.Client).Transport.(*http.Transport)
		if transport.Proxy != nil {
			t.Errorf("%s: it asks for a proxy", name)
		}
		if !transport.DisableKeepAlives {
			t.Errorf("%s: it stays open", name)
		}
	}
}
