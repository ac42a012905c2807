package bootloader_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/bootloader"
)

// What is put onto the ESP while the machine is in distress is whole, gets its tries, and
// leaves one image of the release: two would start by chance.
func TestPlace_ImageOfAnyRelease_IsTheOnlyOneOfItsVersion(t *testing.T) {
	for name, c := range map[string]struct {
		files, want []string
	}{
		"beside another":           {linux(a), []string{a, "Holdfast_202611230000+3-0.efi"}},
		"in the place of the good": {linux(a, b), []string{a, "Holdfast_202611230000+3-0.efi"}},
		"in the place of the bad":  {linux(a, "Holdfast_202611230000+0-3.efi"), []string{a, "Holdfast_202611230000+3-0.efi"}},
		"after a cut":              {linux(a, ".#Holdfast_202611230000+3-0.efi"), []string{a, "Holdfast_202611230000+3-0.efi"}},
	} {
		l := esp(t, "202611230000", nil, c.files...)
		seen := ""
		err := l.Place(t.Context(), "202611230000", strings.NewReader("new kernel"), func(file string) error {
			text, err := os.ReadFile(file)
			seen = filepath.Base(file) + " " + string(text)
			return err
		})
		if err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(c.want, files(t, l)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if seen != ".#Holdfast_202611230000+3-0.efi new kernel" {
			t.Errorf("%s: checked was %q", name, seen)
		}
		text, err := os.ReadFile(filepath.Join(l.ESP, bootloader.Folder, "Holdfast_202611230000+3-0.efi"))
		if err != nil || string(text) != "new kernel" {
			t.Errorf("%s: got %q, %v", name, text, err)
		}
	}
}

// Until the last byte is there and accepted, nothing changes for the boot loader.
func TestPlace_ImageThatIsNotWhole_LeavesTheESPAsItWas(t *testing.T) {
	broken, refused := errors.New("the sum is wrong"), errors.New("the firmware would not start it")
	accept := func(string) error { return nil }
	for name, c := range map[string]struct {
		version string
		content io.Reader
		check   func(string) error
		want    error
	}{
		"another content": {"202611230000", io.MultiReader(strings.NewReader("new"), iotest.ErrReader(broken)), accept, broken},
		"refused":         {"202611230000", strings.NewReader("new"), func(string) error { return refused }, refused},
	} {
		l := esp(t, "202611230000", nil, linux(a, b)...)
		if err := l.Place(t.Context(), c.version, c.content, c.check); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if diff := cmp.Diff([]string{a, b}, files(t, l)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	l := esp(t, "202611230000", nil, linux(a)...)
	if err := l.Place(t.Context(), "../../x", strings.NewReader("new"), accept); err == nil {
		t.Error("a version that leads elsewhere was taken")
	}
}
