package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

// connection is where the flags that choose a node end up.
type connection struct {
	env   *Env
	flags client.Options
	// socket is the path of a node's own socket; it excludes the other flags.
	socket string
	lab    string
}

func (n *connection) addFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&n.flags.Endpoint, "endpoint", "", "the node: https://HOST[:PORT] or unix:///PATH (default $"+client.EnvEndpoint+")")
	f.StringVar(&n.flags.CertFile, "cert", "", "PEM file of the client certificate (default $"+client.EnvCert+")")
	f.StringVar(&n.flags.KeyFile, "key", "", "PEM file of the client key (default $"+client.EnvKey+")")
	f.StringVar(&n.flags.ServerCertFile, "server-cert", "", "PEM file of the one certificate the node may show (default $"+client.EnvServerCert+", else the roots of this computer)")
	f.StringVar(&n.socket, "socket", "", "the unix socket of a node on this computer, real or simulated, instead of --endpoint")
	f.StringVar(&n.lab, "lab", "", "the lab with this name instead of the environment (\"default\" when no node is named and it exists)")
}

// open chooses the node: the socket, else flags before the lab that was named, before the
// environment, before the lab called default.
func (n *connection) open() (*client.Client, error) {
	options, err := n.options()
	if err != nil {
		return nil, err
	}
	options.UserAgent = userAgent()
	return client.New(options)
}

func userAgent() string { return "holdfast/" + Version }

func (n *connection) options() (client.Options, error) {
	getenv := n.env.Getenv
	switch {
	case n.socket != "" && (n.lab != "" || n.flags != client.Options{}):
		return client.Options{}, &usageError{
			err: errors.New("--socket names the node already, and asks for no certificate"),
			try: "leave out --endpoint, --lab, --cert, --key and --server-cert",
		}
	case n.socket != "":
		return client.Options{Endpoint: "unix://" + n.socket}, nil
	case n.lab != "":
		values, err := labEnv(n.env.Dir, n.lab)
		if err != nil {
			return client.Options{}, err
		}
		getenv = func(name string) string { return values[name] }
	case n.flags.Endpoint != "" && getenv(client.EnvEndpoint) == "":
		// A node named by a flag has nothing to do with the lab.
	case getenv(client.EnvEndpoint) == "":
		values, err := labEnv(n.env.Dir, "default")
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return client.Options{}, err
		}
		getenv = func(name string) string { return values[name] }
	}
	options := client.OptionsFromEnv(getenv)
	override(&options.Endpoint, n.flags.Endpoint)
	override(&options.CertFile, n.flags.CertFile)
	override(&options.KeyFile, n.flags.KeyFile)
	override(&options.ServerCertFile, n.flags.ServerCertFile)
	return options, nil
}

func override(value *string, flag string) {
	if flag != "" {
		*value = flag
	}
}

var labName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// labEnv reads .lab/NAME/env from dir or the nearest of its parents that has it.
func labEnv(dir, name string) (map[string]string, error) {
	if !labName.MatchString(name) {
		return nil, fmt.Errorf("lab name %q: want letters, digits and . _ -", name)
	}
	for {
		file, err := os.Open(filepath.Join(dir, ".lab", name, "env"))
		if err == nil {
			defer file.Close()
			return parseEnv(file)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading lab %s: %w", name, err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil, withTry(fmt.Errorf("lab %s: %w here or in a folder above", name, fs.ErrNotExist), "holdfast lab up "+name)
		}
		dir = parent
	}
}

// parseEnv reads lines of the form KEY=VALUE; blank lines and those with # are left out.
func parseEnv(r io.Reader) (map[string]string, error) {
	values := map[string]string{}
	scanner := bufio.NewScanner(io.LimitReader(r, 64<<10))
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found {
			return nil, fmt.Errorf("lab env line %d: want KEY=VALUE", number)
		}
		values[key] = strings.Trim(value, `"`)
	}
	return values, scanner.Err()
}
