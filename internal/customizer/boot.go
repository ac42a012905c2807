package customizer

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/netboot"
)

// checkBoot refuses choices that cannot be started from, or that nobody else may see.
func checkBoot(all map[string]Choice) error {
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := netboot.CheckName(name); err != nil {
			failed = append(failed, err)
			continue
		}
		c := all[name]
		secrets, err := c.Secrets()
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("the choice %s: %w", name, err))
		case len(secrets) > 0:
			failed = append(failed, fmt.Errorf("the choice %s has secrets, which everybody on the network could read: take %s out", name, strings.Join(secrets, ", ")))
		case c.Offline:
			failed = append(failed, fmt.Errorf("the choice %s is offline, and a machine that starts over the network has no second medium", name))
		case c.Seeds.Install == nil:
			failed = append(failed, fmt.Errorf("the choice %s has no install seed: a system in memory would forget all at its first restart", name))
		}
	}
	return errors.Join(failed...)
}

// BootPath is where a choice of Options.Boot is served.
func BootPath(name string, c Choice) string {
	if c.Type == TypeISO {
		return "/boot/" + name + netboot.CD
	}
	return "/boot/" + name + netboot.Disk
}

// getBoot serves an image unpacked, with the media type by which firmware makes a disk of it.
// Firmware asks with HEAD for the length first, and then for all of it in one piece.
func (s *Service) getBoot(w http.ResponseWriter, r *http.Request) error {
	name, form := splitForm(r.PathValue("name"))
	c, known := s.o.Boot[name]
	kind, starts := netboot.ContentType(form)
	if !known || !starts || path.Base(BootPath(name, c)) != name+form {
		return coded(http.StatusNotFound, errors.New("not found: no choice is served for a start over the network under this name"))
	}
	return s.send(func() error {
		image, _, err := s.customize(r, c)
		if err != nil {
			return err
		}
		content, err := image.image.Raw(image.seed)
		if err != nil {
			return err
		}
		header := w.Header()
		header.Set("Content-Type", kind)
		header.Set("Cache-Control", "no-cache")
		_, err = content.Serve(w, r)
		return err
	})
}
