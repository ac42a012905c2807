package proxy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/proxy"
)

// An owner who made several mistakes sees all of them, with their places.
func TestParse_BrokenDocuments_NameEveryProblem(t *testing.T) {
	const check, read = "checking the proxy configuration: ", "reading the proxy configuration: "
	for document, want := range map[string]string{
		`{"servers":{"none":{"auth":"anonymous","host":"a"},"corp":{"auth":"digest","host":"a"}},"rules":[{"destination":"","target":"corp"},{"destination":"*","target":"crop"}]}`: check +
			`servers.corp: auth is "digest"; it must be anonymous, basic or kerberos` + "\n" + `servers.none: the name "none" is not free` + "\n" +
			`rules[0]: destination "" must be host names, * for any text, | between several` + "\n" + `rules[1]: target "crop" is neither a server nor direct nor none`,
		`{"servers":{"a":{"auth":"basic","host":"a","username":"u"}}}`:                                    check + "servers.a: auth basic needs a username and a password",
		`{"servers":{"a":{"auth":"basic","host":"a","username":"u:v","password":"p"}}}`:                   check + "servers.a: the username of auth basic must have no colon",
		`{"servers":{"a":{"auth":"kerberos","host":"a","username":"u","password":"p","realm":"A\n[x]"}}}`: check + "servers.a: auth kerberos needs a realm, as EXAMPLE.ORG",
		`{"servers":{"a":{"auth":"anonymous","host":"socks://a"}}}`:                                       check + `servers.a: host "socks://a": the scheme must be http or https`,
		`{"servers":{"a":{"auth":"anonymous","host":"a:0"}}}`:                                             check + `servers.a: host "a:0": the port must be 1 to 65535`,
		`{"servers":{"a":{"auth":"anonymous","host":"a b"}}}`:                                             check + `servers.a: host "a b" is not a host name or address, with :port where needed`,
		`{"servers":{"a":{"auth":"anonymous","host":"a","pasword":"p"}}}`:                                 read + `json: unknown field "pasword"`,
		`{} {}`: read + "there is more behind the document",
		`{"servers":{"a":{"password":["hunter2"]}}}`: read + "servers.password must be a string",
		strings.Repeat(" ", proxy.MaxConfig+1):       read + "more than 1048576 bytes",
	} {
		_, err := proxy.Parse([]byte(document))
		if err == nil {
			t.Errorf("%.80s: no error", document)
			continue
		}
		if diff := cmp.Diff(want, err.Error()); diff != "" {
			t.Errorf("%.80s: %s", document, diff)
		}
	}
}

// Whatever is in the file, the service starts or says why not.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"servers":{"a":{"auth":"basic","host":"https://a:1","username":"u","password":"p"}},"rules":[{"destination":"*.b|[::1]","target":"a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := proxy.Parse(data)
		if err != nil {
			return
		}
		_, err = proxy.New(config, proxy.Options{Kerberos: func(_, _, _, _ string) (proxy.Authorizer, error) { return nil, nil }})
		if err != nil {
			t.Error(err)
		}
	})
}
