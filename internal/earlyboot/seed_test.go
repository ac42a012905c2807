package earlyboot

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// copyMounts puts the files of a folder where a medium would be mounted.
type copyMounts struct{}

func (copyMounts) Mount(source, target, _ string, _ uintptr, _ string) error {
	return os.CopyFS(target, os.DirFS(source))
}

func (copyMounts) Unmount(target string, _ int) error { return os.RemoveAll(target) }

// A seed on a stick or from a cloud decides as one in the image does, and only where there
// is no node yet. A stick that stays plugged in must not install a machine twice.
func TestHasInstallSeed_Media_DecideInOrder(t *testing.T) {
	network, install := archive(t, tar.Header{Name: "network.yaml", Size: 2}), archive(t, tar.Header{Name: "install.yaml", Size: 2})
	cloud := "#cloud-config\nholdfast: {install: {}}\n"
	for name, test := range map[string]struct {
		own       []byte
		files     map[string]string // by path below dev/disk/by-label
		media     bool
		want, err bool
	}{
		"stick":                          {own: network, files: map[string]string{"SEED_DATA/install.yaml": "{}"}, media: true, want: true},
		"stick with a broken one":        {own: network, files: map[string]string{"SEED_DATA/install.yaml": "{"}, media: true, want: true},
		"stick with a sealed one":        {own: network, files: map[string]string{"SEED_DATA/install.yaml.age": "age-encryption.org/v1\n"}, media: true, want: true},
		"stick without one replaces own": {own: install, files: map[string]string{"SEED_DATA/network.yaml": "{}"}, media: true},
		"a node has no eye for it":       {own: network, files: map[string]string{"SEED_DATA/install.yaml": "{}", "CIDATA/user-data": cloud}},
		"just installed":                 {own: archive(t, tar.Header{Name: "network.yaml", Size: 2}, tar.Header{Name: "holdfast-installed"}), files: map[string]string{"SEED_DATA/install.yaml": "{}"}, media: true},
		"just installed from a cloud":    {own: archive(t, tar.Header{Name: "holdfast-installed"}), files: map[string]string{"CIDATA/user-data": cloud}, media: true},
		"cloud without own":              {own: make([]byte, 4096), files: map[string]string{"CIDATA/user-data": cloud}, media: true, want: true},
		"cloud of the other kind":        {own: make([]byte, 4096), files: map[string]string{"config-2/openstack/latest/user_data": cloud}, media: true, want: true},
		"own before a cloud":             {own: network, files: map[string]string{"CIDATA/user-data": cloud}, media: true},
		"cloud that says nothing":        {own: make([]byte, 4096), files: map[string]string{"CIDATA/user-data": "#!/bin/sh\n"}, media: true},
		"stick that cannot be read":      {own: network, files: map[string]string{"SEED_DATA/network.yaml": string(make([]byte, 2<<20))}, media: true, err: true},
		"in a folder":                    {own: archive(t, tar.Header{Name: "t/install.yaml", Size: 2}), media: true, want: true},
		"upper case on a stick":          {own: network, files: map[string]string{"SEED_DATA/INSTALL.YML": "{}"}, media: true, want: true},
		"sealed in the image":            {own: archive(t, tar.Header{Name: "install.yaml.age", Size: 2}), media: true, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			host, dir, _ := testHost(t, func(run.Command) (run.Result, error) { return run.Result{}, nil })
			host.mounts = copyMounts{}
			write(t, filepath.Join(dir, "seed"), string(test.own))
			for path, text := range test.files {
				write(t, filepath.Join(dir, "dev/disk/by-label", path), text)
			}
			got, err := host.HasInstallSeed(t.Context(), filepath.Join(dir, "seed"), test.media)
			if got != test.want || (err != nil) != test.err {
				t.Errorf("got %t, %v", got, err)
			}
		})
	}
}
