package seedsource_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/os"
	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
)

// media are files by label and path, as "SEED_DATA/./network.yaml".
type media map[string]map[string]string

var errBroken = errors.New("input/output error")

func (m media) Read(_ context.Context, label, dir string, limit int64, wanted func(string) bool) (map[string][]byte, bool, error) {
	files, there := m[label]
	if files["broken"] != "" {
		return nil, true, errBroken
	}
	out := map[string][]byte{}
	for name, text := range files {
		var base string
		if _, err := fmt.Sscanf(name, dir+"/%s", &base); err == nil && wanted(base) {
			if int64(len(text)) > limit {
				return nil, true, errors.New("too long")
			}
			out[base] = []byte(text)
		}
	}
	return out, there, nil
}

// partition is a seed partition with one document.
func partition(t *testing.T, name, text string) func() (io.ReadCloser, error) {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(&out), nil }
}

func empty() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, 4096))), nil }

// The owner writes to one place, and must know which one counts when there are more.
func TestFind_SeveralSources_TheFirstOneCountsAlone(t *testing.T) {
	channel := func(name string) *seed.Set {
		return &seed.Set{Update: &api.Update{UpdateConfig: os.UpdateConfig{Channel: name}}}
	}
	cloud := map[string]string{"./user-data": "#cloud-config\nholdfast: {update: {channel: nocloud}}\n", "./meta-data": "holdfast: {}"}
	drive := map[string]string{"openstack/latest/user_data": "#cloud-config\nholdfast: {update: {channel: drive}}\n"}
	own := func(t *testing.T) func() (io.ReadCloser, error) {
		return partition(t, "update.yaml", "channel: own")
	}
	none := func(*testing.T) func() (io.ReadCloser, error) { return empty }
	for name, test := range map[string]struct {
		media media
		own   func(*testing.T) func() (io.ReadCloser, error)
		want  seedsource.Found
	}{
		"medium before all": {media{"SEED_DATA": {"./update.json": `{"channel": "medium"}`, "./README": "x"}, "CIDATA": cloud}, own,
			seedsource.Found{Set: channel("medium"), Origin: "the medium SEED_DATA", Outside: true}},
		"an empty medium replaces too": {media{"SEED_DATA": {}, "CIDATA": cloud}, own,
			seedsource.Found{Set: &seed.Set{}, Origin: "the medium SEED_DATA", Outside: true}},
		"own before a cloud": {media{"cidata": cloud}, own, seedsource.Found{Set: channel("own"), Origin: "the seed partition"}},
		"NoCloud before ConfigDrive": {media{"config-2": drive, "cidata": cloud}, none,
			seedsource.Found{Set: channel("nocloud"), Origin: "the user data of NoCloud on the medium cidata", Outside: true}},
		"ConfigDrive": {media{"config-2": drive, "CIDATA": {"./user-data": "#!/bin/sh\n"}}, none,
			seedsource.Found{Set: channel("drive"), Origin: "the user data of ConfigDrive on the medium config-2", Outside: true}},
		"JSON before YAML": {media{"SEED_DATA": {"./update.yaml": "channel: yaml", "./update.json": `{"channel": "json"}`}}, none,
			seedsource.Found{Set: &seed.Set{Update: channel("json").Update, Warnings: []*seed.Problem{
				{File: "update.yaml", Rule: "unique", Text: "it is not read, since update.json stands before it: remove one of them"}}}, Origin: "the medium SEED_DATA", Outside: true}},
		"nothing": {media{}, none, seedsource.Found{Set: &seed.Set{}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := seedsource.Find(t.Context(), test.media, test.own(t))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A stick from another system has its names in upper case: that its seed is not read must be
// said, since it replaces all others.
func TestFind_MediumInUpperCase_IsAProblemThatNamesTheFile(t *testing.T) {
	got, err := seedsource.Find(t.Context(), media{"SEED_DATA": {"./UPDATE.YML": "channel: a", "./README.TXT": "x"}}, partition(t, "update.yaml", "channel: own"))
	want := []*seed.Problem{{File: "UPDATE.YML", Rule: "unknown-seed", Text: "seeds are read from the top of the archive or medium, in lower case: name it update.yml, or take it out"}}
	if diff := cmp.Diff(want, seedsource.Problems(err)); diff != "" || got.Origin != "the medium SEED_DATA" || !got.Set.Empty() {
		t.Errorf("%+v %s", got, diff)
	}
}

// A medium that is there and cannot be read is no reason to start with another seed: what
// the owner wanted is not known.
func TestFind_FirstSourceBroken_IsAnErrorAndNotTheNextSource(t *testing.T) {
	cloud := map[string]string{"./user-data": "#cloud-config\nholdfast: {update: {channel: nocloud}}\n"}
	for name, test := range map[string]struct {
		media media
		own   func() (io.ReadCloser, error)
	}{
		"medium":      {media{"SEED_DATA": {"broken": "yes"}, "CIDATA": cloud}, partition(t, "update.yaml", "channel: own")},
		"partition":   {media{"CIDATA": cloud}, func() (io.ReadCloser, error) { return nil, errBroken }},
		"cloud":       {media{"CIDATA": {"broken": "yes"}, "config-2": cloud}, empty},
		"second kind": {media{"config-2": {"broken": "yes"}}, empty},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := seedsource.Find(t.Context(), test.media, test.own)
			if !errors.Is(err, errBroken) || got.Origin != "" || !got.Set.Empty() {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// A medium that meant to install must not start to live on its own disk because of a typo.
func TestWantsInstall_OfDocumentsInAnyState(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"plain":               {map[string]string{"./install.yaml": "{}"}, true},
		"empty":               {map[string]string{"./install.yml": ""}, true},
		"null":                {map[string]string{"./install.json": "null"}, true},
		"broken":              {map[string]string{"./install.json": "{"}, true},
		"wrong":               {map[string]string{"./install.yaml": "targt: 1"}, true},
		"sealed":              {map[string]string{"./install.yaml.age": "age-encryption.org/v1\n"}, true},
		"upper case":          {map[string]string{"./INSTALL.YML": "{}"}, true},
		"another":             {map[string]string{"./network.yaml": "{}"}, false},
		"another, and broken": {map[string]string{"./network.yaml": "{"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := seedsource.WantsInstall(seedsource.FindMedium(t.Context(), media{"SEED_DATA": test.files})); got != test.want {
				t.Errorf("got %t", got)
			}
		})
	}
	for text, want := range map[string]bool{"{install: {}}": true, "{install: {targt: 1}}": true, "{install: 7}": true, "{update: {x: 1}}": false} {
		user := media{"CIDATA": {"./user-data": "#cloud-config\nholdfast: " + text + "\n"}}
		if got := seedsource.WantsInstall(seedsource.FindCloud(t.Context(), user)); got != want {
			t.Errorf("%s: got %t", text, got)
		}
	}
}

// The key may be in the machine or on a stick; a source that is of no use does not hide the
// other, and no message has a key in it.
func TestKeys_FromBothSources_AreCollected(t *testing.T) {
	private, _, err := seed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	none := func() ([]string, error) { return nil, nil }
	for name, test := range map[string]struct {
		media    media
		oem      func() ([]string, error)
		keys     int
		warnings []string
	}{
		"none":   {media{}, none, 0, nil},
		"stick":  {media{"SEED_KEY": {"./SEED.KEY": private}}, none, 1, nil},
		"SMBIOS": {media{}, func() ([]string, error) { return []string{"x=y", "holdfast.seed-key=correct horse"}, nil }, 1, nil},
		"both":   {media{"SEED_KEY": {"./seed.key": private + "\n" + private}}, func() ([]string, error) { return []string{"holdfast.seed-key=" + private}, nil }, 3, nil},
		"broken": {media{"SEED_KEY": {"./seed.key": private[:30]}}, func() ([]string, error) { return nil, errBroken }, 0,
			[]string{"looking for a key for sealed seeds in the SMBIOS table: input/output error",
				"the key for sealed seeds on the medium SEED_KEY: a line that should be a private key of age (AGE-SECRET-KEY-...) is none: it was cut off or mistyped"}},
		"no file":     {media{"SEED_KEY": {"./key.txt": private}}, none, 0, []string{"the medium SEED_KEY has no file seed.key"}},
		"no readable": {media{"SEED_KEY": {"broken": "yes"}}, none, 0, []string{"reading the medium SEED_KEY: input/output error"}},
	} {
		t.Run(name, func(t *testing.T) {
			keys, warnings := seedsource.Keys(t.Context(), test.media, test.oem)
			var texts []string
			for _, w := range warnings {
				texts = append(texts, w.Error())
			}
			if diff := cmp.Diff(test.warnings, texts); diff != "" || len(keys) != test.keys {
				t.Errorf("%d keys %s", len(keys), diff)
			}
		})
	}
}
