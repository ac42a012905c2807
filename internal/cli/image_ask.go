package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxc/incus/v6/shared/units"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/prompt"
)

// interview asks for what the flags do not say, and gives a command line that says it all.
type interview struct {
	*prompt.Talk
	env *Env
	f   *customizeFlags
}

// askCustomize is `holdfast image customize --interactive`: it completes the flags, shows
// what comes of them, and asks whether to write the image.
func askCustomize(ctx context.Context, env *Env, c *cobra.Command, f *customizeFlags) error {
	if !env.StdinTerminal {
		return withTry(errors.New("nobody is here to be asked"), "holdfast image customize --help")
	}
	i := interview{prompt.New(env.Stdin, env.Stderr), env, f}
	defer i.Close()
	for _, ask := range []func(context.Context) error{i.input, i.use, i.applications, i.network, i.trust, i.output} {
		if err := ask(ctx); err != nil {
			return err
		}
	}
	_, choice, err := f.choice(c)
	if err != nil {
		return err
	}
	shown, err := media.Hidden(&choice.Seeds)
	if err != nil {
		return err
	}
	text, err := yaml.Dump(shown)
	if err != nil {
		return fmt.Errorf("showing the seed: %w", err)
	}
	if err := i.Say("\nThe image will have this seed:\n\n%s\nThe same without questions:\n\n  %s\n", cleanLines(indent(string(text))), clean(f.commandLine())); err != nil {
		return err
	}
	yes, err := i.Yes(ctx, "Write "+clean(f.out)+"?", true)
	if err == nil && !yes {
		err = errors.New("not confirmed, nothing was written")
	}
	return err
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}

func (i interview) input(ctx context.Context) (err error) {
	if i.f.in != "" {
		return nil
	}
	found := ""
	for _, pattern := range []string{"*.img.gz", "*.img", "*.raw"} {
		if names, err := filepath.Glob(pattern); err == nil && len(names) == 1 && found == "" {
			found = names[0]
		}
	}
	i.f.in, err = i.Line(ctx, "Image to begin with", found, isFile)
	return err
}

func isFile(path string) error {
	if path == "" {
		return errors.New("a file is needed")
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	return err
}

// use asks what the image is for, and for the disk that it installs on.
func (i interview) use(ctx context.Context) error {
	if i.f.kind != "" || len(i.f.target) > 0 || i.f.force || i.f.options != "" {
		return nil
	}
	chosen, err := i.Choose(ctx, "What is it for?", []string{
		"installing from a USB stick or a disk", "installing from a CD", "running from where it is, without installing"}, 0)
	if err != nil || chosen == 2 {
		return err
	}
	if chosen == 1 {
		i.f.kind = media.TypeISO
	}
	disk, err := i.Choose(ctx, "On which disk?", []string{"the only one that is there", "the smallest one", "one on a bus, as nvme", "one whose id has a text in it"}, 0)
	if err != nil {
		return err
	}
	switch disk {
	case 1:
		i.f.target = append(i.f.target, "sort_order=smallest")
	case 2:
		bus, err := i.Line(ctx, "Bus", "nvme", oneWord)
		if err != nil {
			return err
		}
		i.f.target = append(i.f.target, "bus="+bus)
	case 3:
		id, err := i.Line(ctx, "Text in /dev/disk/by-id", "", oneWord)
		if err != nil {
			return err
		}
		i.f.target = append(i.f.target, "id="+id)
	}
	size, err := i.Line(ctx, "Smallest size of the disk, as 100GiB; empty for any", "", func(answer string) error {
		if _, err := units.ParseByteSizeString(answer); answer != "" && err != nil {
			return fmt.Errorf("%q is not a size: write it as 100GiB", answer)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if size != "" {
		i.f.target = append(i.f.target, "min_size="+size)
	}
	i.f.force, err = i.Yes(ctx, "Install over what is on that disk? Without it a disk with anything on it is refused", false)
	if len(i.f.target) == 0 {
		i.f.target = []string{anyDisk}
	}
	return err
}

func oneWord(answer string) error {
	if answer == "" || strings.ContainsAny(answer, " ,\t") {
		return errors.New("one word is needed, without commas")
	}
	return nil
}

func (i interview) applications(ctx context.Context) error {
	if len(i.f.applications) > 0 || i.f.options != "" {
		return nil
	}
	var known []string
	for _, name := range slices.Sorted(maps.Keys(apps.Catalogue())) {
		if apps.Catalogue()[name].Installable {
			known = append(known, name)
		}
	}
	answer, err := i.Line(ctx, "Applications, with commas ("+strings.Join(known, ", ")+")", known[0], func(answer string) error {
		for _, name := range names(answer) {
			if !slices.Contains(known, name) {
				return fmt.Errorf("there is no application %q: there are %s", name, strings.Join(known, ", "))
			}
		}
		return nil
	})
	i.f.applications = names(answer)
	return err
}

func names(answer string) []string {
	return strings.FieldsFunc(answer, func(r rune) bool { return r == ',' || r == ' ' })
}

// network asks for one card with a fixed address; what is more than that is a file.
func (i interview) network(ctx context.Context) error {
	if i.f.network != "" || i.f.options != "" {
		return nil
	}
	chosen, err := i.Choose(ctx, "Network?", []string{"every card asks for its address (DHCP, SLAAC)", "one card with a fixed address", "as a file says"}, 0)
	switch {
	case err != nil || chosen == 0:
		return err
	case chosen == 2:
		i.f.network, err = i.Line(ctx, "File with the network configuration", "", isFile)
		return err
	}
	card := osapi.NetworkInterface{Name: "lan", Roles: []string{"management", "instances"}}
	if card.Hwaddr, err = i.Line(ctx, "MAC address of the card, or its name as enp1s0", "", oneWord); err != nil {
		return err
	}
	address, err := i.Line(ctx, "Address, as 192.0.2.10/24", "", func(answer string) error {
		_, err := netip.ParsePrefix(answer)
		return err
	})
	if err != nil {
		return err
	}
	card.Addresses = []string{address}
	gateway, err := i.Line(ctx, "Gateway; empty for none", "", optionalAddress)
	if err != nil {
		return err
	}
	if gateway != "" {
		to := "0.0.0.0/0"
		if strings.Contains(gateway, ":") {
			to = "::/0"
		}
		card.Routes = []osapi.NetworkRoute{{To: to, Via: gateway}}
	}
	config := osapi.NetworkConfig{Interfaces: []osapi.NetworkInterface{card}}
	server, err := i.Line(ctx, "Name server; empty for none", "", optionalAddress)
	if err != nil {
		return err
	}
	if server != "" {
		config.DNS = &osapi.NetworkDNS{Nameservers: []string{server}}
	}
	return i.keepNetwork(ctx, config)
}

func optionalAddress(answer string) error {
	if answer == "" {
		return nil
	}
	_, err := netip.ParseAddr(answer)
	return err
}

// keepNetwork checks the configuration as a node does, and writes it to a file, so that the
// command line can name it.
func (i interview) keepNetwork(ctx context.Context, config osapi.NetworkConfig) error {
	text, err := yaml.Dump(config)
	if err != nil {
		return fmt.Errorf("writing the network configuration: %w", err)
	}
	if _, err := media.Documents([]media.File{{Name: "network.yaml", Data: text}}); err != nil {
		return wrongChoice(err)
	}
	i.f.network, err = i.Line(ctx, "File to keep it in", "network.yaml", func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		return errors.Join(err, f.Close())
	})
	return err
}

func (i interview) trust(ctx context.Context) error {
	if len(i.f.trust) > 0 || i.f.options != "" {
		return nil
	}
	found := ""
	if home := i.env.Getenv("HOME"); home != "" {
		if path := filepath.Join(home, ".config", "incus", "client.crt"); isFile(path) == nil {
			found = path
		}
	}
	question := "Certificate of a client that may manage the node; - for none"
	path, err := i.Line(ctx, question, found, func(answer string) error {
		if answer == "-" {
			return nil
		}
		return isFile(answer)
	})
	if err != nil {
		return err
	}
	if path != "-" {
		i.f.trust = []string{path}
		return nil
	}
	sure, err := i.Yes(ctx, "Nobody could reach the node without one. Go on", false)
	if err == nil && !sure {
		return i.trust(ctx)
	}
	return err
}

func (i interview) output(ctx context.Context) (err error) {
	if i.f.out != "" {
		return nil
	}
	name := "node.img.gz"
	if i.f.kind == media.TypeISO {
		name = "node.iso"
	}
	i.f.out, err = i.Line(ctx, "Image to write", name, func(path string) error {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already", path)
		}
		return nil
	})
	return err
}

// commandLine is what a shell takes to do the same.
func (f *customizeFlags) commandLine() string {
	line := "holdfast image customize"
	add := func(flag, value string) {
		if value != "" {
			line += " --" + flag + " " + quoted(value)
		}
	}
	add("in", f.in)
	add("out", f.out)
	add("options", f.options)
	add("type", f.kind)
	for _, name := range f.applications {
		add("application", name)
	}
	add("install-target", strings.Join(f.target, ","))
	if f.force {
		line += " --force-install"
	}
	add("network", f.network)
	for _, path := range f.trust {
		add("trust", path)
	}
	for _, path := range f.seeds {
		add("seed", path)
	}
	return line
}

// quoted is a word for a shell.
func quoted(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,._-/=:@%+") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
