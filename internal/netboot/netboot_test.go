package netboot

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A machine that gets a URL it cannot use says hardly anything: the server says it before.
func TestCheckURL_WhatFirmwareCannotUse_IsTold(t *testing.T) {
	long := "http://boot.example.org/" + strings.Repeat("a", 240) + ".img"
	got := map[string]string{}
	for _, url := range []string{
		"http://192.0.2.1:8080/boot/rack1.img", "https://boot.example.org/boot/rack1.iso", "tftp://192.0.2.1/rack1.img", "boot/rack1.img",
		"http://boot.example.org/boot/rack1", "http://boot.example.org/boot/rack1.img.gz",
		"http://boot.example.org/boot/a.img?choice=abc", "http://me:hidden@boot.example.org/a.img", "http://[::1/a.img", long,
	} {
		got[url] = ""
		if err := CheckURL(url); err != nil {
			got[url] = err.Error()
		}
	}
	const drops = "the boot URL on boot.example.org has a login, a query or a fragment, which firmware drops: give the choice a name of its own"
	want := map[string]string{
		"http://192.0.2.1:8080/boot/rack1.img":          "",
		"https://boot.example.org/boot/rack1.iso":       "",
		"tftp://192.0.2.1/rack1.img":                    `the boot URL "tftp://192.0.2.1/rack1.img" does not begin with http:// or https:// and a server`,
		"boot/rack1.img":                                `the boot URL "boot/rack1.img" does not begin with http:// or https:// and a server`,
		"http://boot.example.org/boot/rack1":            `the boot URL "http://boot.example.org/boot/rack1" ends neither in .img nor in .iso, and firmware would not know what it is`,
		"http://boot.example.org/boot/rack1.img.gz":     `the boot URL "http://boot.example.org/boot/rack1.img.gz" ends neither in .img nor in .iso, and firmware would not know what it is`,
		"http://boot.example.org/boot/a.img?choice=abc": drops,
		"http://me:hidden@boot.example.org/a.img":       drops,
		"http://[::1/a.img":                             `checking the boot URL: parse "http://[::1/a.img": missing ']' in host`,
		long:                                            "the boot URL has 268 bytes, and DHCP gives out at most 255: take a shorter name",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The installer must not wait until somebody takes out a disk that is memory, and must wait
// for every other one.
func TestInMemory_Disks_AreToldApart(t *testing.T) {
	got := map[string]bool{}
	for _, disk := range []string{"/dev/pmem0", "/dev/pmem12", "/dev/pmem0.1", "/dev/pmem0s", "/dev/sda", "/dev/pmem0p1", "/dev/pmemory", "pmem0", ""} {
		got[disk] = InMemory(disk)
	}
	want := map[string]bool{"/dev/pmem0": true, "/dev/pmem12": true, "/dev/pmem0.1": true, "/dev/pmem0s": true,
		"/dev/sda": false, "/dev/pmem0p1": false, "/dev/pmemory": false, "pmem0": false, "": false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckName_Names_AreOneWord(t *testing.T) {
	for name, good := range map[string]bool{"rack1": true, "a": true, "a-b": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "A": false, "a.b": false, "../a": false, strings.Repeat("a", 64): false} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
