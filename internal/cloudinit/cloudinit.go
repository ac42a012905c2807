// Package cloudinit finds a node's seed in what a cloud gives to its machines.
//
// Clouds do not write into images; they attach a medium for cloud-init. Two kinds have
// their content on a disk: NoCloud (a file system labelled CIDATA or cidata, with the file
// user-data) and ConfigDrive of OpenStack (labelled config-2, with the file
// openstack/latest/user_data). The file is YAML for cloud-init, a "cloud-config". Its
// section "holdfast" is the seed:
//
//	#cloud-config
//	holdfast:
//	  applications: {applications: [{name: incus}]}
//	  incus: {apply_defaults: true}
//
// Parties: the owner writes the user data, the cloud's hypervisor brings it, and a node
// reads it once, at its first start, when neither a medium SEED_DATA nor the image has a
// seed. A hypervisor that lies here could as well have written into the image's disk.
//
// Invariants: below "holdfast" everything is as strict as in a seed file, since a word
// that is misspelt must not be a setting that is silently absent; what is beside it
// belongs to others and is not looked at. meta-data, vendor-data and network-config are
// not read: a node has its own words for these. No cloud-init runs, and no program of the
// user data is ever started.
//
// What can fail: user data that are packed or of several parts (MIME) might hold a section
// and are refused with words; scripts and the like hold none and are none of ours. The
// package is pure; internal/system/seedmedia mounts and reads.
package cloudinit

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/holdfast-os/holdfast/internal/seed"
)

// Section is the key of the user data below which the seed stands.
const Section = "holdfast"

// MaxUserData is the largest user data that are read, in bytes.
const MaxUserData = seed.MaxMember

// Source is where one kind of cloud has its user data.
type Source struct {
	// Name is what people call it.
	Name string
	// Labels are those of the file system, one of which it has.
	Labels []string
	// Dir and File are where on it the user data are.
	Dir, File string
}

// Sources are the kinds that are looked for, in this order.
func Sources() []Source {
	return []Source{
		{Name: "NoCloud", Labels: []string{"CIDATA", "cidata"}, Dir: ".", File: "user-data"},
		{Name: "ConfigDrive", Labels: []string{"config-2", "CONFIG-2"}, Dir: "openstack/latest", File: "user_data"},
	}
}

// Parse gives the seed in user data. Without a section, and for user data that are no
// cloud-config, the error is seed.Missing; other errors join *seed.Problem, whose file is
// the name given here.
func Parse(file string, data []byte) (*seed.Set, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	refuse := func(text string) (*seed.Set, error) {
		return &seed.Set{}, &seed.Problem{File: file, Rule: "form", Text: text}
	}
	if len(data) > MaxUserData {
		return refuse(fmt.Sprintf("more than %d bytes", MaxUserData))
	}
	head, _, _ := bytes.Cut(data, []byte("\n"))
	first := strings.TrimSpace(string(head))
	switch {
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return refuse("the user data are packed with gzip: give them as plain text")
	case isMultipart(data):
		return refuse("the user data have several parts (MIME): give one cloud-config with the section \"" + Section + "\", as plain text")
	case first == "#cloud-config" || strings.HasPrefix(first, "#cloud-config "):
	case strings.HasPrefix(first, "## template:"):
		return refuse("the user data are a template: write the values out, under the first line #cloud-config")
	default:
		// A script, an include or nothing: none of ours. A section without the first line
		// would be ignored by cloud-init, and is not guessed at here either.
		if hasSection(data) {
			return refuse("there is a section \"" + Section + "\", but the first line is not #cloud-config: add it")
		}
		return &seed.Set{}, seed.Missing
	}
	return seed.ReadSection(file, data, Section)
}

// isMultipart tells a MIME message by a header that it must have.
func isMultipart(data []byte) bool {
	head := bytes.ToLower(data[:min(len(data), 4096)])
	before, _, _ := bytes.Cut(bytes.ReplaceAll(head, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
	for line := range bytes.Lines(before) {
		if bytes.HasPrefix(line, []byte("content-type:")) && bytes.Contains(line, []byte("multipart/")) {
			return true
		}
	}
	return false
}

// hasSection finds a line that begins the section.
func hasSection(data []byte) bool {
	for line := range bytes.Lines(data) {
		if bytes.HasPrefix(line, []byte(Section+":")) {
			return true
		}
	}
	return false
}
