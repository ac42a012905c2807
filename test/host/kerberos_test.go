//go:build linux

package host

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/service"
	"github.com/jcmturner/gokrb5/v8/spnego"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/proxy"
	"github.com/holdfast-os/holdfast/test/needs"
)

// newRealm has the real programs make a realm with a user "node1", password "hunter2",
// and the proxy's service. It gives the krb5.conf and the keytab of the service.
func newRealm(t *testing.T) (conf string, keys *keytab.Keytab) {
	t.Helper()
	needs.Programs(t, "kdb5_util", "kadmin.local", "krb5kdc")
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	conf = fmt.Sprintf("[libdefaults]\n default_realm = EXAMPLE.ORG\n dns_lookup_kdc = false\n udp_preference_limit = 1\n rdns = false\n"+
		"[realms]\n EXAMPLE.ORG = {\n  kdc = %s\n }\n", address)
	writeFile(t, filepath.Join(dir, "krb5.conf"), conf)
	writeFile(t, filepath.Join(dir, "kdc.conf"), fmt.Sprintf("[kdcdefaults]\n kdc_listen = 127.0.0.1:%d\n kdc_tcp_listen = 127.0.0.1:%d\n"+
		"[realms]\n EXAMPLE.ORG = {\n  database_name = %s/principal\n  key_stash_file = %s/stash\n  acl_file = %s/acl\n }\n", port, port, dir, dir, dir))
	env := append(os.Environ(), "KRB5_CONFIG="+dir+"/krb5.conf", "KRB5_KDC_PROFILE="+dir+"/kdc.conf")
	for _, args := range [][]string{
		{"kdb5_util", "create", "-s", "-r", "EXAMPLE.ORG", "-P", "master"},
		{"kadmin.local", "-r", "EXAMPLE.ORG", "-q", "addprinc +requires_preauth -pw hunter2 node1"},
		{"kadmin.local", "-r", "EXAMPLE.ORG", "-q", "addprinc -randkey HTTP/127.0.0.1"},
		{"kadmin.local", "-r", "EXAMPLE.ORG", "-q", "ktadd -k " + dir + "/service.keytab HTTP/127.0.0.1"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	kdc := exec.Command("krb5kdc", "-n", "-r", "EXAMPLE.ORG")
	kdc.Env = env
	if err := kdc.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(kdc) })
	await(t, "the KDC", func() bool {
		conn, err := net.Dial("tcp", address)
		return err == nil && conn.Close() == nil
	})
	if keys, err = keytab.Load(filepath.Join(dir, "service.keytab")); err != nil {
		t.Fatal(err)
	}
	return conf, keys
}

// A proxy of a Windows domain takes the ticket that a real KDC gave for the password
// that the owner configured, and each request has a fresh one.
func TestProxy_RealKDC_AuthorizesToTheProxy(t *testing.T) {
	conf, keys := newRealm(t)
	const told = 10
	through := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	// What the KDC says about the user beside the name is not in the form of Windows.
	checked := spnego.SPNEGOKRB5Authenticate(through, keys, service.DecodePAC(false))
	var seen []string
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The library knows servers, not proxies: the header has another name there.
		header := r.Header.Get("Proxy-Authorization")
		seen = append(seen, header[:min(len(header), told)])
		r.Header.Set("Authorization", header)
		checked.ServeHTTP(w, r)
	}))
	t.Cleanup(upstream.Close)
	got := []int{}
	for _, password := range []string{"hunter2", "wrong"} {
		client := serveProxy(t, api.NetworkProxyServer{Auth: "kerberos", Host: upstream.Listener.Addr().String(), Username: "node1", Password: password, Realm: "EXAMPLE.ORG"},
			proxy.Options{Kerberos: func(user, realm, password, host string) (proxy.Authorizer, error) {
				return proxy.NewKerberos(user, realm, password, host, conf)
			}})
		for range 2 {
			got = append(got, statusOf(t, client, "http://example.invalid/"))
		}
	}
	if diff := cmp.Diff([]int{http.StatusTeapot, http.StatusTeapot, http.StatusBadGateway, http.StatusBadGateway}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Negotiate ", "Negotiate "}, seen); diff != "" {
		t.Error(diff)
	}
}
