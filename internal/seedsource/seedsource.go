// Package seedsource decides where a node takes its seed from, and where the key for a
// sealed one.
//
// Parties: early boot asks whether an installation is wanted, the daemon asks for the
// documents; both ask here, so that they decide alike. Media are read through an
// interface.
//
// The first that exists wins, and replaces the others as a whole:
//
//  1. a medium with the partition name or label SEED_DATA: its files;
//  2. the archive in the partition seed-data of the disk that the machine started from;
//  3. the section "holdfast" of user data for cloud-init, NoCloud before ConfigDrive.
//
// Invariants: media other than the node's own disk are asked only while the node has no
// configuration yet (the callers see to that): a stick that is plugged into a running node
// changes nothing. A medium that is there and cannot be read is an error and not a reason
// to take the next one: what the owner wanted is not known then.
//
// A key comes from a medium labelled SEED_KEY, file seed.key, or from the machine's SMBIOS
// table, the OEM string that begins with holdfast.seed-key=. It can open a sealed seed and
// nothing else.
package seedsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/holdfast-os/holdfast/internal/cloudinit"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// Where media and keys are found.
const (
	LabelSeed = "SEED_DATA"
	LabelKey  = "SEED_KEY"
	FileKey   = "seed.key"
	// KeyString begins the OEM string (SMBIOS type 11) with the key.
	KeyString = "holdfast.seed-key="
)

// Labels are those of all media that a seed or a key is looked for on.
func Labels() []string {
	labels := []string{LabelSeed, LabelKey}
	for _, source := range cloudinit.Sources() {
		labels = append(labels, source.Labels...)
	}
	return labels
}

// Media reads from media that are plugged in.
type Media interface {
	// Read gives the regular files of the folder dir, on the medium with the label, whose
	// names are wanted; each of at most limit bytes, or an error. False: no such medium. A
	// folder that is not there has no files.
	Read(ctx context.Context, label, dir string, limit int64, wanted func(name string) bool) (map[string][]byte, bool, error)
}

// Found is a seed and where it came from.
type Found struct {
	// Set are the documents; those of the sound ones when there is an error.
	Set *seed.Set
	// Origin says where from in words; empty when there is no seed at all.
	Origin string
	// Outside is true for a seed that is not in the partition of the system disk.
	Outside bool
}

// Find looks for the seed. own opens the seed partition of the system disk; nil when there
// is none. Without media only that is read. The error joins *seed.Problem for what is
// wrong with documents; anything else means that a source could not be read.
func Find(ctx context.Context, media Media, own func() (io.ReadCloser, error)) (Found, error) {
	if media != nil {
		if found, err := FindMedium(ctx, media); found.Origin != "" || err != nil {
			return found, err
		}
	}
	if own != nil {
		found, err := findOwn(own)
		if found.Origin != "" || err != nil {
			return found, err
		}
	}
	if media != nil {
		return FindCloud(ctx, media)
	}
	return Found{Set: &seed.Set{}}, nil
}

// FindMedium is the first step of Find: the medium SEED_DATA. Origin is empty when there is
// none.
func FindMedium(ctx context.Context, media Media) (Found, error) {
	files, there, err := media.Read(ctx, LabelSeed, ".", seed.MaxMember, func(name string) bool {
		seedName, _ := seed.NameOf(name)
		return seedName != ""
	})
	if err != nil {
		return Found{Set: &seed.Set{}}, fmt.Errorf("reading the medium %s: %w", LabelSeed, err)
	}
	if !there {
		return Found{Set: &seed.Set{}}, nil
	}
	set, err := seed.Read(members(files))
	return Found{Set: set, Origin: "the medium " + LabelSeed, Outside: true}, err
}

// members puts files into the order in which those of one document are looked at: JSON,
// YAML, sealed ones last.
func members(files map[string][]byte) []seed.Member {
	var all []seed.Member
	for _, name := range slices.Sorted(maps.Keys(files)) {
		all = append(all, seed.Member{Name: name, Data: files[name]})
	}
	slices.SortStableFunc(all, func(a, b seed.Member) int { return rank(a.Name) - rank(b.Name) })
	return all
}

func rank(name string) int {
	return slices.IndexFunc([]string{".json", ".yaml", ".yml", ""}, func(ending string) bool { return strings.HasSuffix(name, ending) })
}

func findOwn(own func() (io.ReadCloser, error)) (Found, error) {
	r, err := own()
	if err != nil {
		return Found{Set: &seed.Set{}}, err
	}
	set, err := seed.Parse(r)
	err = errors.Join(err, r.Close())
	if errors.Is(err, seed.Missing) || err == nil && set.Empty() {
		return Found{Set: &seed.Set{}}, nil
	}
	return Found{Set: set, Origin: "the seed partition"}, err
}

// FindCloud is the last step of Find: user data of a cloud. Origin is empty when there are
// none with a section of ours.
func FindCloud(ctx context.Context, media Media) (Found, error) {
	for _, source := range cloudinit.Sources() {
		for _, label := range source.Labels {
			files, there, err := media.Read(ctx, label, source.Dir, cloudinit.MaxUserData, func(name string) bool { return name == source.File })
			if err != nil {
				return Found{Set: &seed.Set{}}, fmt.Errorf("reading the medium %s (%s): %w", label, source.Name, err)
			}
			if !there || files[source.File] == nil {
				continue
			}
			set, err := cloudinit.Parse(source.File, files[source.File])
			if errors.Is(err, seed.Missing) {
				continue
			}
			return Found{Set: set, Origin: "the user data of " + source.Name + " on the medium " + label, Outside: true}, err
		}
	}
	return Found{Set: &seed.Set{}}, nil
}

// WantsInstall tells whether a seed asks for an installation, out of both answers of Find.
// An install document that is broken or sealed counts: a medium that meant to install must
// not start to live on its own disk.
func WantsInstall(found Found, err error) bool {
	const install = "install"
	isInstall := func(file string) bool { name, _ := seed.NameOf(file); return name == install }
	if found.Set != nil && (found.Set.Install != nil || slices.ContainsFunc(found.Set.Sealed, func(m seed.Member) bool { return isInstall(m.Name) })) {
		return true
	}
	return slices.ContainsFunc(Problems(err), func(p *seed.Problem) bool {
		return isInstall(p.File) || p.Path == cloudinit.Section+"."+install || strings.HasPrefix(p.Path, cloudinit.Section+"."+install+".")
	})
}

// Problems are the problems of documents in an error, however they are joined.
func Problems(err error) []*seed.Problem {
	var all []*seed.Problem
	for _, one := range Joined(err) {
		var problem *seed.Problem
		if errors.As(one, &problem) {
			all = append(all, problem)
		}
	}
	return all
}

// Joined are the errors that are joined in one, also in several layers.
func Joined(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, Joined(one)...)
	}
	return all
}

// Keys gives every key at hand for sealed documents. oem gives the OEM strings of the
// machine. A source that cannot be used is a warning, since another may have the key; no
// warning has the key in it.
func Keys(ctx context.Context, media Media, oem func() ([]string, error)) (keys []age.Identity, warnings []error) {
	take := func(from, text string) {
		found, err := seed.ParseKeys(text)
		if err != nil {
			warnings = append(warnings, fmt.Errorf("the key for sealed seeds %s: %w", from, err))
		}
		keys = append(keys, found...)
	}
	strs, err := oem()
	if err != nil {
		warnings = append(warnings, fmt.Errorf("looking for a key for sealed seeds in the SMBIOS table: %w", err))
	}
	for _, text := range strs {
		if key, ours := strings.CutPrefix(text, KeyString); ours {
			take("in the SMBIOS table", key)
		}
	}
	files, there, err := media.Read(ctx, LabelKey, ".", seed.MaxKey, func(name string) bool { return strings.EqualFold(name, FileKey) })
	switch {
	case err != nil:
		warnings = append(warnings, fmt.Errorf("reading the medium %s: %w", LabelKey, err))
	case there && len(files) == 0:
		warnings = append(warnings, fmt.Errorf("the medium %s has no file %s", LabelKey, FileKey))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		take("on the medium "+LabelKey, string(files[name]))
	}
	return keys, warnings
}
