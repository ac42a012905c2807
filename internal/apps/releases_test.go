package apps_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/release"
)

// source is a release provider with one release.
type source struct {
	update  api.Update
	err     error
	fetched api.File
}

func (s *source) Latest(_ context.Context, channel, arch, _ string) (api.Update, error) {
	if channel != "stable" || arch != "x86_64" {
		return api.Update{}, release.ErrNoUpdate
	}
	return s.update, s.err
}

func (s *source) Fetch(_ context.Context, _ api.Update, file api.File, _ string, progress release.Progress) error {
	s.fetched = file
	progress(1, 4)
	return nil
}

// A release has many files; the one that is merged must be this application's, for this
// machine, and not a manifest beside it.
func TestReleases_ReleaseWithManyFiles_FetchesTheApplicationOfThisMachine(t *testing.T) {
	want := api.File{Architecture: "x86_64", Type: api.TypeApplication, Filename: "x86_64/incus.raw.gz"}
	s := &source{update: api.Update{Version: "202601010000", Files: []api.File{
		{Architecture: "aarch64", Type: api.TypeApplication, Filename: "aarch64/incus.raw.gz"},
		{Architecture: "x86_64", Type: api.TypeImageManifest, Filename: "x86_64/incus.raw.gz"},
		{Architecture: "x86_64", Type: api.TypeApplication, Filename: "x86_64/incus-ceph.raw.gz"},
		want,
	}}}
	r := apps.Releases{Source: s, Channel: func() string { return "stable" }, Architecture: "x86_64"}
	found, err := r.Latest(background, "incus.raw", "")
	if err != nil || found.Version != "202601010000" {
		t.Fatalf("got %+v, %v", found, err)
	}
	percent := -1
	if err := r.Fetch(background, found, "incus.raw", "/dst", func(p int) { percent = p }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, s.fetched); diff != "" || percent != 25 {
		t.Errorf("%s, %d percent", diff, percent)
	}
	if _, err := r.Latest(background, "openfga.raw", ""); !errors.Is(err, apps.ErrNoFile) {
		t.Errorf("without the application: %v", err)
	}
	s.err = release.ErrOlder
	if _, err := r.Latest(background, "incus.raw", "202612010000"); !errors.Is(err, apps.ErrOlder) {
		t.Errorf("an older channel: %v", err)
	}
}
