package rescue_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/smime/smimetest"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// sign is a file with a signed text.
func sign(t *testing.T, s smimetest.Signer, text string) *fstest.MapFile {
	t.Helper()
	return &fstest.MapFile{Data: s.Sign(t, text)}
}

func releaseText(t *testing.T, version string, files ...api.File) string {
	t.Helper()
	text, err := json.Marshal(api.Update{Format: "1.0", Version: version, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const running, newer = "202611220104", "202611230104"

// A medium can do what its signers allow, to the letter, and who carries it nothing besides.
func TestRead_EachKindOfMedium_GivesWhatIsSigned(t *testing.T) {
	updates, support, stranger := smimetest.New(t, "updates", now), smimetest.New(t, "support", now), smimetest.New(t, "stranger", now)
	app := api.File{Architecture: "x86_64", Filename: "x86_64/incus.raw.gz", Size: 3, Type: api.TypeApplication}
	other := api.File{Architecture: "aarch64", Filename: "aarch64/incus.raw.gz", Size: 3, Type: api.TypeApplication}
	outside := api.File{Filename: "../hotfix.sh.sig", Size: 3, Type: api.TypeApplication}
	var system []api.File
	for _, kind := range []api.Type{api.TypeUpdateEFI, api.TypeUpdateUsr, api.TypeUpdateUsrVerity, api.TypeUpdateUsrSignature} {
		system = append(system, api.File{Architecture: "x86_64", Filename: "x86_64/" + string(kind), Size: 3, Type: kind})
	}
	file := &fstest.MapFile{Data: []byte("abc")}
	medium := func(text *fstest.MapFile, files ...api.File) fstest.MapFS {
		m := fstest.MapFS{rescue.UpdateFile: text}
		for _, f := range files {
			m["update/"+f.Filename] = file
		}
		return m
	}
	type answer struct {
		Hotfix  string
		Version string
		Files   int
		System  bool
	}
	script := "#!/bin/bash\necho repaired\n"
	for name, test := range map[string]struct {
		medium fstest.MapFS
		want   answer
		err    error // errAny for one without a name
	}{
		"empty":                       {fstest.MapFS{}, answer{}, nil},
		"script":                      {fstest.MapFS{rescue.HotfixFile: sign(t, support, script)}, answer{Hotfix: script}, nil},
		"script of who signs updates": {fstest.MapFS{rescue.HotfixFile: sign(t, updates, script)}, answer{}, release.ErrUntrusted},
		"script of a stranger":        {fstest.MapFS{rescue.HotfixFile: sign(t, stranger, script)}, answer{}, release.ErrUntrusted},
		"script without a signature":  {fstest.MapFS{rescue.HotfixFile: {Data: []byte(script)}}, answer{}, release.ErrUntrusted},
		"script too long":             {fstest.MapFS{rescue.HotfixFile: {Data: make([]byte, 8<<20+1)}}, answer{}, errAny},
		"application":                 {medium(sign(t, updates, releaseText(t, newer, app, other)), app, other), answer{Version: newer, Files: 1}, nil},
		"the same release":            {medium(sign(t, updates, releaseText(t, running, app)), app), answer{Version: running, Files: 1}, nil},
		"older":                       {medium(sign(t, updates, releaseText(t, "202601010000", app)), app), answer{}, rescue.ErrOlder},
		"system":                      {medium(sign(t, updates, releaseText(t, newer, system...)), system...), answer{Version: newer, Files: 4, System: true}, nil},
		"system with a part missing":  {medium(sign(t, updates, releaseText(t, newer, system...)), system[1:]...), answer{Version: newer, Files: 3}, nil},
		"files missing":               {medium(sign(t, updates, releaseText(t, newer, app))), answer{}, errAny},
		"file of another size":        {fstest.MapFS{rescue.UpdateFile: sign(t, updates, releaseText(t, newer, app)), "update/" + app.Filename: {Data: []byte("abcd")}}, answer{}, errAny},
		"file outside":                {medium(sign(t, updates, releaseText(t, newer, outside)), outside), answer{}, errAny},
		"release of a stranger":       {medium(sign(t, stranger, releaseText(t, newer, app)), app), answer{}, release.ErrUntrusted},
		"release that is none":        {medium(sign(t, updates, "{"), app), answer{}, errAny},
		"script good, release bad": {fstest.MapFS{rescue.HotfixFile: sign(t, support, script), rescue.UpdateFile: sign(t, stranger, "{}")},
			answer{Hotfix: script}, release.ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			anchors := rescue.Anchors{Update: []*x509.Certificate{updates.Certificate}, Hotfix: []*x509.Certificate{support.Certificate}}
			found, err := rescue.Read(test.medium, anchors, rescue.Facts{Architecture: "x86_64", Oldest: running, Now: now})
			if (test.err == nil) != (err == nil) || test.err != errAny && !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			got := answer{Hotfix: string(found.Hotfix), System: found.System}
			if found.Update != nil {
				got.Version, got.Files = found.Update.Version, len(found.Update.Files)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var errAny = errors.New("any error that has no name")

// An image whose maker signs no media takes none.
func TestRead_ImageWithoutCertificates_UsesNothing(t *testing.T) {
	s := smimetest.New(t, "anybody", now)
	files := fstest.MapFS{rescue.HotfixFile: sign(t, s, "echo")}
	found, err := rescue.Read(files, rescue.Anchors{}, rescue.Facts{Now: now})
	if err == nil || found.Hotfix != nil {
		t.Errorf("got %+v, %v", found, err)
	}
}

// An image that trusts nobody is one thing, and one whose list is damaged another. Without a
// list of its own, who signs releases signs scripts too.
func TestReadAnchors_FilesMissingDamagedAndGood_AreToldApart(t *testing.T) {
	update, hotfix := smimetest.New(t, "update", now), smimetest.New(t, "hotfix", now)
	file := func(s smimetest.Signer) *fstest.MapFile {
		return &fstest.MapFile{Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw})}
	}
	type names struct{ Update, Hotfix []string }
	namesOf := func(list []*x509.Certificate) (out []string) {
		for _, c := range list {
			out = append(out, c.Subject.CommonName)
		}
		return out
	}
	for name, test := range map[string]struct {
		files fstest.MapFS
		want  names
		fails bool
	}{
		"nobody":              {fstest.MapFS{}, names{}, false},
		"one":                 {fstest.MapFS{"update.crt": file(update)}, names{[]string{"update"}, []string{"update"}}, false},
		"both":                {fstest.MapFS{"update.crt": file(update), "hotfix.crt": file(hotfix)}, names{[]string{"update"}, []string{"hotfix"}}, false},
		"damaged":             {fstest.MapFS{"update.crt": {Data: []byte("no certificate")}}, names{}, true},
		"too long":            {fstest.MapFS{"update.crt": {Data: append(file(update).Data, make([]byte, 1<<20)...)}}, names{}, true},
		"damaged for scripts": {fstest.MapFS{"update.crt": file(update), "hotfix.crt": {}}, names{}, true},
	} {
		got, err := rescue.ReadAnchors(test.files)
		if diff := cmp.Diff(test.want, names{namesOf(got.Update), namesOf(got.Hotfix)}); diff != "" || (err != nil) != test.fails {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}
