package media

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// ChoiceOptions are how a person writes a Choice down: the document of `holdfast image customize
// --options` and of `holdfast image serve --boot`. The short fields are for what most people
// want; Seeds has room for everything.
type ChoiceOptions struct {
	// Architecture is "x86_64" or "aarch64"; default that of the image.
	Architecture string `json:"architecture,omitempty"`
	// Type is "raw" or "iso"; default "raw".
	Type string `json:"type,omitempty"`
	// Channel is the one to take the newest release of; default "stable".
	Channel string `json:"channel,omitempty"`
	// Version is one release, 12 digits; default that of the image.
	Version string `json:"version,omitempty"`
	// Applications are names, as "incus"; default none.
	Applications []string `json:"applications,omitempty"`
	// InstallTarget has the image install itself on the disk that it describes; default none.
	InstallTarget *api.InstallTarget `json:"install_target,omitempty"`
	// ForceInstall has the image install itself, over what is on the disk; default false.
	ForceInstall bool `json:"force_install,omitempty"`
	// Network is the seed "network"; default none, which asks each card for an address.
	Network json.RawMessage `json:"network,omitempty"`
	// TrustedCertificates are PEM certificates of clients, for every chosen application that
	// has a list of them; without a chosen one for Incus. Default none.
	TrustedCertificates []string `json:"trusted_certificates,omitempty"`
	// Seeds are documents by name; default none.
	Seeds map[string]json.RawMessage `json:"seeds,omitempty"`
}

// DecodeOptions reads options out of a file, by the rules of seeds. The error is Problems,
// each with the line in the file.
func DecodeOptions(f File) (ChoiceOptions, error) {
	c := ChoiceOptions{}
	err := problemsOf(seed.DecodeOther(f.Name, f.Data, &c), nil)
	if err == nil {
		_, err = c.Choice()
	}
	problems := listOf(err)
	for i, p := range problems {
		problems[i].File = f.Name
		if p.Line == 0 {
			problems[i].Line = lineOf(f.Data, p.Path)
		}
	}
	if len(problems) > 0 {
		return ChoiceOptions{}, problems
	}
	return c, nil
}

// Choice fills in the defaults and writes the short fields out as seeds. The error is
// Problems, with all that is wrong.
func (c ChoiceOptions) Choice() (Choice, error) {
	made := Choice{
		Architecture: cmp.Or(c.Architecture, "x86_64"), Type: cmp.Or(c.Type, TypeRaw), Channel: cmp.Or(c.Channel, DefaultChannel), Version: c.Version,
	}
	var problems Problems
	for i, text := range c.TrustedCertificates {
		if err := checkCertificate(text); err != nil {
			problems = append(problems, Problem{Path: fmt.Sprintf("trusted_certificates[%d]", i), Rule: "certificate", Text: err.Error()})
		}
	}
	if len(problems) > 0 {
		c.TrustedCertificates = nil // they are told, and would be told again
	}
	set, err := c.seeds()
	problems = append(problems, listOf(err)...)
	if err == nil {
		made.Seeds = *set
	} else {
		made.Seeds.Install = &api.Install{} // what is wrong with the seeds is told already
	}
	return made, append(made.checkFrame(), problems...).Err()
}

func listOf(err error) Problems {
	var found Problems
	if err == nil || errors.As(err, &found) {
		return found
	}
	return Problems{{Rule: "document", Text: err.Error()}}
}

// seeds renders the documents that go into the image.
func (c ChoiceOptions) seeds() (*seed.Set, error) {
	set := &seed.Set{}
	var problems Problems
	decode := func(path, name string, text []byte) {
		if document, err := set.Get(name); err == nil && document != nil {
			problems = append(problems, Problem{Path: path, Rule: "twice", Text: "the choice has seed " + name + " twice: take one of them out"})
			return
		}
		for _, p := range listProblems(set.Decode(name+".json", text), nil) {
			problems = append(problems, Problem{Path: strings.Trim(path+"."+p.Path, "."), Rule: p.Rule, Text: p.Text})
		}
	}
	short := c.short()
	for _, name := range slices.Sorted(maps.Keys(short)) {
		decode(short[name].path, name, short[name].text)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Seeds)) {
		if string(c.Seeds[name]) != "null" {
			decode("seeds."+name, name, c.Seeds[name])
		}
	}
	for _, p := range CheckSet(set, nil) {
		path := "seeds." + p.File
		if from, ok := short[p.File]; ok {
			path = from.path
		}
		problems = append(problems, Problem{Path: strings.Trim(path+"."+p.Path, "."), Rule: p.Rule, Text: p.Text})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return set, c.trust(set)
}

type shortField struct {
	path string
	text []byte
}

// short are the documents that the short fields stand for.
func (c ChoiceOptions) short() map[string]shortField {
	found := map[string]shortField{}
	add := func(path, name string, document any) {
		text, err := json.Marshal(document)
		if err != nil {
			text = []byte("null") // cannot be: these are plain types
		}
		found[name] = shortField{path, text}
	}
	if len(c.Applications) > 0 {
		list := api.Applications{}
		for _, name := range c.Applications {
			list.Applications = append(list.Applications, api.Application{Name: name})
		}
		add("applications", "applications", list)
	}
	if c.InstallTarget != nil || c.ForceInstall {
		add("install_target", "install", api.Install{ForceInstall: c.ForceInstall, Target: c.InstallTarget})
	}
	if len(c.Network) > 0 && string(c.Network) != "null" {
		found["network"] = shortField{"network", c.Network}
	}
	return found
}

// trust adds the trusted certificates to the documents of the applications.
func (c ChoiceOptions) trust(set *seed.Set) error {
	if len(c.TrustedCertificates) == 0 {
		return nil
	}
	var names []string
	if set.Applications != nil {
		for _, a := range set.Applications.Applications {
			names = append(names, a.Name)
		}
	}
	if slices.Contains(names, "migration-manager") {
		if set.MigrationManager == nil {
			set.MigrationManager = &api.MigrationManager{}
		}
		set.MigrationManager.TrustedClientCertificates = append(set.MigrationManager.TrustedClientCertificates, c.TrustedCertificates...)
	}
	if slices.Contains(names, "operations-center") {
		if set.OperationsCenter == nil {
			set.OperationsCenter = &api.OperationsCenter{}
		}
		set.OperationsCenter.TrustedClientCertificates = append(set.OperationsCenter.TrustedClientCertificates, c.TrustedCertificates...)
	}
	managers := func(name string) bool { return name == "migration-manager" || name == "operations-center" }
	if len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !managers(n) }) {
		return nil
	}
	if set.Incus == nil {
		set.Incus = &api.Incus{ApplyDefaults: true, Preseed: &api.IncusPreseed{Config: map[string]any{"core.https_address": ":8443"}}}
	}
	if set.Incus.Preseed == nil {
		set.Incus.Preseed = &api.IncusPreseed{}
	}
	for i, text := range c.TrustedCertificates {
		certificate, err := bare(text)
		if err != nil {
			return Problems{{Path: fmt.Sprintf("trusted_certificates[%d]", i), Rule: "certificate", Text: err.Error()}}
		}
		set.Incus.Preseed.Certificates = append(set.Incus.Preseed.Certificates,
			api.IncusCertificate{Name: fmt.Sprintf("admin-%d", i+1), Type: "client", Certificate: certificate})
	}
	return nil
}

// Add puts documents among the seeds of the options, in the place of those of the same name.
func (c *ChoiceOptions) Add(set *seed.Set) error {
	seeds := maps.Clone(c.Seeds)
	if seeds == nil {
		seeds = map[string]json.RawMessage{}
	}
	for _, name := range seed.Names() {
		document, err := set.Get(name)
		if err != nil {
			continue // not there
		}
		if seeds[name], err = json.Marshal(document); err != nil {
			return fmt.Errorf("encoding seed %s: %w", name, err)
		}
	}
	c.Seeds = seeds
	return nil
}
