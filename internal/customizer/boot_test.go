package customizer_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/customizer"
)

func choiceOf(t *testing.T, text string) customizer.Choice {
	t.Helper()
	c, err := customizer.DecodeChoice([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Firmware tells images apart by their media type, unpacks nothing, and needs the length before
// the first byte.
func TestBoot_NamedChoice_IsServedAsFirmwareTakesIt(t *testing.T) {
	w := start(t, func(o *customizer.Options) {
		o.Boot = map[string]customizer.Choice{
			"rack1": choiceOf(t, `{"architecture":"x86_64","type":"raw","seeds":{"install":{"target":{"bus":"nvme"}}}}`),
			"cd":    choiceOf(t, `{"architecture":"x86_64","type":"iso","channel":"testing","seeds":{"install":{}}}`),
		}
	})
	type seen struct {
		Status                   int
		Type, Encoding, Download string
		Length, Body             int
	}
	const size = 6 * mib
	got := map[string]seen{}
	for _, request := range []string{"GET /boot/rack1.img", "HEAD /boot/rack1.img", "GET /boot/cd.iso",
		"GET /boot/rack1.iso", "GET /boot/rack1", "GET /boot/rack1.img.gz", "GET /boot/rack2.img", "POST /boot/rack1.img"} {
		method, path, _ := strings.Cut(request, " ")
		a := w.do(method, path, "", "Accept-Encoding", "gzip")
		one := seen{Status: a.status}
		if a.status == 200 {
			one = seen{a.status, a.header.Get("Content-Type"), a.header.Get("Content-Encoding"), a.header.Get("Content-Disposition"), len(a.header.Get("Content-Length")), len(a.body)}
		}
		got[request] = one
	}
	want := map[string]seen{
		"GET /boot/rack1.img":    {200, "application/vnd.efi-img", "", "", len("6291456"), size},
		"HEAD /boot/rack1.img":   {200, "application/vnd.efi-img", "", "", len("6291456"), 0},
		"GET /boot/cd.iso":       {200, "application/vnd.efi-iso", "", "", len("6291456"), size},
		"GET /boot/rack1.iso":    {Status: 404},
		"GET /boot/rack1":        {Status: 404},
		"GET /boot/rack1.img.gz": {Status: 404},
		"GET /boot/rack2.img":    {Status: 404},
		"POST /boot/rack1.img":   {Status: 405},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	set := seedIn(t, w.do("GET", "/boot/rack1.img", "").body, "202611220104")
	if set.Install == nil || set.Install.Target.Bus != "nvme" {
		t.Errorf("seed %+v", set.Install)
	}
}

// What a rack full of machines cannot start from, or what nobody else may read, is told when
// the service starts.
func TestNew_BootChoiceThatCannotBe_IsRefused(t *testing.T) {
	_, err := customizer.New(customizer.Options{Tree: t.TempDir(), Boot: map[string]customizer.Choice{
		"../up":   choiceOf(t, `{"architecture":"x86_64","type":"raw","seeds":{"install":{}}}`),
		"live":    choiceOf(t, `{"architecture":"x86_64","type":"raw"}`),
		"offline": choiceOf(t, `{"architecture":"x86_64","type":"raw","offline":true,"seeds":{"install":{},"applications":{"applications":[{"name":"incus"}]}}}`),
		"secret":  choiceOf(t, `{"architecture":"x86_64","type":"raw","seeds":{"install":{},"provider":{"name":"images","config":{"token":"hunter2"}}}}`),
	}})
	if err == nil {
		t.Fatal("no error")
	}
	want := `the boot name "../up" is not made of small letters, digits and dashes, at most 63
the choice live has no install seed: a system in memory would forget all at its first restart
the choice offline is offline, and a machine that starts over the network has no second medium
the choice secret has secrets, which everybody on the network could read: take seeds.provider.config.token out`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
