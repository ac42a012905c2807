package cloudinit_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/os"
	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/cloudinit"
	"github.com/holdfast-os/holdfast/internal/seed"
)

const userData = `#cloud-config
# What cloud-init would do is none of ours, not even when it is odd.
users: [&default {name: me, <<: {a: 1}}]
ssh_pwauth: !custom yes
hostname: *default
holdfast:
  version: "1"
`

// A cloud that knows nothing but cloud-init can bring a node up.
func TestParse_SectionAmongOthers_GivesTheDocuments(t *testing.T) {
	text := `#cloud-config
users: [&me {name: me, <<: {a: 1}}]
ssh_pwauth: !custom yes
shared: &apps [{name: incus}]
holdfast:
  install:
  applications: {applications: *apps}
  update: {channel: stable}
  network: |
    -----BEGIN AGE ENCRYPTED FILE-----
    AAAA
    -----END AGE ENCRYPTED FILE-----
`
	got, err := cloudinit.Parse("user-data", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &seed.Set{
		Install:      &api.Install{},
		Applications: &api.Applications{Applications: []api.Application{{Name: "incus"}}},
		Update:       &api.Update{UpdateConfig: os.UpdateConfig{Channel: "stable"}},
		Sealed: []seed.Member{{Name: "network.yaml.age", Data: []byte(
			"-----BEGIN AGE ENCRYPTED FILE-----\nAAAA\n-----END AGE ENCRYPTED FILE-----\n")}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Inside the section a misspelt word must not be a setting that is silently absent; where
// nothing is ours, nothing is said.
func TestParse_UserDataOfAllKinds_AreTakenRefusedOrLeft(t *testing.T) {
	missing := "no such seed"
	for name, test := range map[string]struct{ text, want string }{
		"nothing":           {"", missing},
		"a script":          {"#!/bin/sh\necho holdfast:\n", missing},
		"an include":        {"#include\nhttps://example.org/x\n", missing},
		"without section":   {"#cloud-config\nhostname: x\n", missing},
		"empty section":     {"#cloud-config\nholdfast:\n", missing},
		"empty":             {"#cloud-config\n", missing},
		"a list":            {"#cloud-config\n- a\n", missing},
		"with CRLF":         {"#cloud-config\r\nhostname: x\r\n", missing},
		"no first line":     {"holdfast:\n  kernel: {}\n", `seed user-data: there is a section "holdfast", but the first line is not #cloud-config: add it`},
		"packed":            {"\x1f\x8b\x08\x00", "seed user-data: the user data are packed with gzip: give them as plain text"},
		"several parts":     {"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n", `seed user-data: the user data have several parts (MIME): give one cloud-config with the section "holdfast", as plain text`},
		"a template":        {"## template: jinja\n#cloud-config\nholdfast: {}\n", "seed user-data: the user data are a template: write the values out, under the first line #cloud-config"},
		"too long":          {"#cloud-config\n" + strings.Repeat("#", 1<<20), "seed user-data: more than 1048576 bytes"},
		"unknown document":  {userData, "seed user-data:7: holdfast.version: no seed has this name: known are install, applications, incus, migration-manager, operations-center, network, provider, update, security, services, kernel"},
		"unknown field":     {"#cloud-config\nholdfast:\n  update:\n    chanel: x\n", `seed user-data:4: holdfast.update.chanel: there is no such field: did you mean "channel"?`},
		"unknown seed":      {"#cloud-config\nholdfast: {updat: {}}\n", `seed user-data:2: holdfast.updat: no seed has this name: did you mean "update"?`},
		"section is a text": {"#cloud-config\nholdfast: yes please\n", "seed user-data:2: holdfast: a value where a map of seeds is expected"},
		"section twice":     {"#cloud-config\nholdfast: {}\nholdfast: {}\n", "seed user-data:3: holdfast: the field is there twice"},
		"recovery keys":     {"#cloud-config\nholdfast: {security: {encryption_recovery_keys: []}}\n", "seed user-data:2: holdfast.security.encryption_recovery_keys: recovery keys cannot be in a seed, which anybody with the medium can read: take them out, and set them at /1.0/system/security once the node runs"},
		"no sealed text":    {"#cloud-config\nholdfast: {update: some text}\n", "seed user-data:2: holdfast.update: a value where a map is expected"},
		"both problems":     {"#cloud-config\nholdfast:\n  update: {a: 1}\n  applications: {}\n", "seed user-data:3: holdfast.update.a: there is no such field: known are version, auto_reboot, channel, check_frequency, maintenance_windows\nseed user-data:4: holdfast.applications.applications: at least one application is needed, as [{\"name\": \"incus\"}]; or leave the file out"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cloudinit.Parse("user-data", []byte(test.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			var problem *seed.Problem
			if !errors.Is(err, seed.Missing) && !errors.As(err, &problem) {
				t.Errorf("%T holds no *seed.Problem", err)
			}
		})
	}
}

// A few lines of aliases must not become a billion values.
func TestParse_AliasBombInTheSection_IsRefused(t *testing.T) {
	var text bytes.Buffer
	text.WriteString("#cloud-config\na: &a [x,x,x,x,x,x,x,x,x,x]\n")
	for c := 'b'; c <= 'i'; c++ {
		text.WriteString(string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ",") + "]\n")
	}
	text.WriteString("holdfast: {incus: {preseed: {config: {x: *i}}}}\n")
	_, err := cloudinit.Parse("user-data", text.Bytes())
	var problem *seed.Problem
	if !errors.As(err, &problem) || problem.Rule != "limit" {
		t.Errorf("got %v", err)
	}
}

// User data come from whoever runs the cloud.
func FuzzParse(f *testing.F) {
	f.Add([]byte(userData))
	f.Add([]byte("#cloud-config\nholdfast: {install: , kernel: {console: [{device: ttyS0}]}}\n"))
	f.Add([]byte("#cloud-config\na: &a [*a]\nholdfast: *a\n"))
	f.Add([]byte("Content-Type: multipart/mixed\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := cloudinit.Parse("user-data", data)
		var problem *seed.Problem
		if err != nil && !errors.Is(err, seed.Missing) && !errors.As(err, &problem) {
			t.Errorf("got %v", err)
		}
		if err == nil {
			if err := seed.Write(&bytes.Buffer{}, set); err != nil && !errors.As(err, &problem) {
				t.Errorf("a set that was read cannot be written: %v", err)
			}
		}
	})
}
