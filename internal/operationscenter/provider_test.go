package operationscenter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/x509"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
	"github.com/holdfast-os/holdfast/internal/release"
)

var errRedirect, errServer = release.ErrRedirect, release.ErrServer

func noWait(ctx context.Context, _ time.Duration) error { return ctx.Err() }

const (
	uuid1 = "00000000-0000-4000-8000-000000000001"
	uuid2 = "00000000-0000-4000-8000-000000000002"
	uuid3 = "00000000-0000-4000-8000-000000000003"
)

// The sum is that of the five bytes "hello".
var helloFile = api.File{Architecture: "x86_64", Component: "os", Filename: "x86_64/usr.raw.gz", Size: 5, Type: "update-usr",
	SHA256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}

func hello(uuid, version string, channels ...string) octest.Release {
	return octest.Release{UUID: uuid, Version: version, Channels: channels, Files: []octest.File{
		{Filename: "x86_64/usr.raw.gz", Component: "os", Type: "update-usr", Architecture: "x86_64", Content: []byte("hello")},
		{Filename: "aarch64/usr.raw.gz", Component: "os", Type: "update-usr", Architecture: "aarch64", Content: []byte("hello")}}}
}

func helloUpdate(uuid, version string, channels ...string) api.Update {
	return api.Update{Format: "1.0", Channels: channels, Files: []api.File{helloFile}, Origin: "octest", Severity: "low", Version: version,
		PublishedAt: time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC), URL: "/1.0/provisioning/updates/" + uuid}
}

// A node takes the newest release of its channel that is made for it and really there.
func TestLatest_EachList_GivesTheReleaseToRun(t *testing.T) {
	capitals := hello(uuid2, "202611220000", "stable")
	capitals.Files[0].SHA256 = "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824"
	armOnly := hello(uuid3, "202611230000", "stable")
	armOnly.Files = armOnly.Files[1:]
	pending := hello(uuid3, "202611230000", "stable")
	pending.Pending = true
	odd := hello(uuid3, "v7", "stable")
	oddElsewhere := hello(uuid3, "v7", "testing")
	for _, test := range []struct {
		name     string
		releases []octest.Release // oldest first
		running  string
		want     api.Update
		wantErr  error
	}{
		{"newest of the channel", []octest.Release{hello(uuid1, "202611210000", "stable"), hello(uuid2, "202611220000", "stable", "testing")}, "202611210000",
			helloUpdate(uuid2, "202611220000", "stable", "testing"), nil},
		{"of another channel", []octest.Release{hello(uuid1, "202611210000", "stable"), hello(uuid2, "202611220000", "testing")}, "",
			helloUpdate(uuid1, "202611210000", "stable"), nil},
		{"the one that runs", []octest.Release{hello(uuid1, "202611210000", "stable"), hello(uuid2, "202611220000", "testing")}, "202611220000",
			helloUpdate(uuid2, "202611220000", "testing"), nil},
		{"for another architecture", []octest.Release{hello(uuid1, "202611210000", "stable"), armOnly}, "",
			helloUpdate(uuid1, "202611210000", "stable"), nil},
		{"not there yet", []octest.Release{hello(uuid1, "202611210000", "stable"), pending}, "",
			helloUpdate(uuid1, "202611210000", "stable"), nil},
		{"odd one of another channel", []octest.Release{hello(uuid1, "202611210000", "stable"), oddElsewhere}, "",
			helloUpdate(uuid1, "202611210000", "stable"), nil},
		{"a sum in capitals", []octest.Release{capitals}, "", helloUpdate(uuid2, "202611220000", "stable"), nil},
		{"odd version", []octest.Release{hello(uuid1, "202611210000", "stable"), odd}, "", api.Update{}, release.ErrIndex},
		{"older than what runs", []octest.Release{hello(uuid1, "202611210000", "stable")}, "202611220000", api.Update{}, release.ErrOlder},
		{"nothing", nil, "202611220000", api.Update{}, release.ErrNoUpdate},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			for _, r := range test.releases {
				w.Publish(r)
			}
			got, err := w.client(t).Latest(t.Context(), "stable", "x86_64", test.running)
			checkErr(t, err, test.wantErr)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			w.strict(t)
		})
	}
}

// A release is downloaded, checked and unpacked as from any other provider.
func TestFetch_FileOfARelease_IsUnpackedUnderItsName(t *testing.T) {
	w := newWorld(t)
	content := packed(t, bytes.Repeat([]byte("holdfast"), 100_000))
	// The newest release of the list is another one: its files are not to be mixed up.
	r := octest.Release{UUID: uuid1, Version: "202611210000", Channels: []string{"stable"},
		Files: []octest.File{{Filename: "incus.raw.gz", Component: "incus", Type: "application", Content: content}}}
	w.Publish(r)
	w.Publish(hello(uuid2, "202611220000", "testing"))
	client := w.client(t)
	update, err := client.Latest(t.Context(), "stable", "x86_64", "")
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "incus.raw")
	var last, total int64
	if err := client.Fetch(t.Context(), update, update.Files[0], dst, func(d, of int64) { last, total = d, of }); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.Repeat([]byte("holdfast"), 100_000)) {
		t.Errorf("%d bytes, not those that were packed", len(got))
	}
	if info, err := os.Stat(dst); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if last != int64(len(content)) || total != int64(len(content)) {
		t.Errorf("progress ended with %d of %d, want %d", last, total, len(content))
	}
	w.strict(t)
}

// Nothing that is not what the manager promised gets a name on the disk.
func TestFetch_OtherContent_IsRefusedAndLeavesNoFile(t *testing.T) {
	good := packed(t, []byte("hello"))
	bomb := packed(t, make([]byte, 1<<20))
	for _, test := range []struct {
		name  string
		file  octest.File
		fault octest.Fault
		want  error
	}{
		{"sum of something else", octest.File{Content: good, SHA256: helloFile.SHA256}, octest.Fault{}, release.ErrMismatch},
		{"shorter", octest.File{Content: good, Size: 500}, octest.Fault{}, release.ErrMismatch},
		{"longer", octest.File{Content: good, Size: 10}, octest.Fault{}, release.ErrMismatch},
		{"not gzip", octest.File{Content: []byte("hello")}, octest.Fault{}, release.ErrMismatch},
		{"something behind the gzip", octest.File{Content: append(bytes.Clone(good), "and more"...)}, octest.Fault{}, release.ErrMismatch},
		{"cut gzip", octest.File{Content: good[:len(good)-5]}, octest.Fault{}, release.ErrMismatch},
		{"bomb", octest.File{Content: bomb}, octest.Fault{}, release.ErrLimit},
		{"a page in its place", octest.File{Content: good}, octest.Fault{Path: "/1.0/provisioning/updates/" + uuid1 + "/files/", Status: 200, Body: "<html>log in</html>"}, release.ErrMismatch},
		{"an error in its place", octest.File{Content: good}, octest.Fault{Path: "/1.0/provisioning/updates/" + uuid1 + "/files/", Status: 404, Body: `{"type":"error","error":"gone","error_code":404}`}, release.ErrServer},
		{"a redirect", octest.File{Content: good}, octest.Fault{Path: "/1.0/provisioning/updates/" + uuid1 + "/files/", Status: 302, Location: "https://169.254.169.254/"}, release.ErrRedirect},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			test.file.Filename, test.file.Component, test.file.Type = "incus.raw.gz", "incus", "application"
			w.Publish(octest.Release{UUID: uuid1, Version: "202611210000", Channels: []string{"stable"}, Files: []octest.File{test.file}})
			o := w.options()
			o.Limits.MaxExpanded = 1000
			client := newClient(t, o)
			update, err := client.Latest(t.Context(), "stable", "x86_64", "")
			if err != nil {
				t.Fatal(err)
			}
			if test.fault.Status != 0 {
				w.Fail(test.fault)
			}
			dir := t.TempDir()
			checkErr(t, client.Fetch(t.Context(), update, update.Files[0], filepath.Join(dir, "incus.raw"), nil), test.want)
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// What a manager lists becomes names on the node and paths at the manager.
func TestLatest_ListWithABadFile_IsRefused(t *testing.T) {
	good := octest.File{Filename: "incus.raw.gz", Component: "incus", Type: "application", Content: []byte("x")}
	for name, change := range map[string]func(*octest.File){
		"parent":           func(f *octest.File) { f.Filename = "../shadow" },
		"absolute":         func(f *octest.File) { f.Filename = "/etc/shadow" },
		"NUL":              func(f *octest.File) { f.Filename = "a\x00b" },
		"three deep":       func(f *octest.File) { f.Filename = "a/b/c" },
		"hidden":           func(f *octest.File) { f.Filename = ".profile" },
		"query":            func(f *octest.File) { f.Filename = "a?b" },
		"other folder":     func(f *octest.File) { f.Filename, f.Architecture = "aarch64/incus.raw.gz", "x86_64" },
		"short sum":        func(f *octest.File) { f.SHA256 = "abc" },
		"negative size":    func(f *octest.File) { f.Size = -1 },
		"size of no disk":  func(f *octest.File) { f.Size = 1 << 50 },
		"the same name 2x": func(f *octest.File) { f.Filename = "other.raw.gz" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			bad := good
			change(&bad)
			other := good
			other.Filename = "other.raw.gz"
			w.Publish(octest.Release{UUID: uuid1, Version: "202611210000", Channels: []string{"stable"}, Files: []octest.File{other, bad}})
			_, err := w.client(t).Latest(t.Context(), "stable", "x86_64", "")
			checkErr(t, err, release.ErrIndex)
		})
	}
}

// A release of another provider has other addresses.
func TestFetch_ReleaseOfAnotherProvider_IsRefused(t *testing.T) {
	w := newWorld(t)
	for _, address := range []string{"/202611220104", "/1.0/provisioning/updates/../../../x", ""} {
		update := helloUpdate(uuid1, "202611220104", "stable")
		update.URL = address
		checkErr(t, w.client(t).Fetch(t.Context(), update, update.Files[0], filepath.Join(t.TempDir(), "x"), nil), release.ErrIndex)
	}
	if diff := cmp.Diff([]string(nil), w.Requests()); diff != "" {
		t.Error(diff)
	}
}

// A manager that restarts costs a few seconds, not an update.
func TestLatest_ServerInTrouble_IsAskedFiveTimes(t *testing.T) {
	for _, test := range []struct {
		times int
		want  int
		ok    bool
	}{{4, 4, true}, {5, 4, false}} {
		w := newWorld(t)
		w.Publish(hello(uuid1, "202611210000", "stable"))
		w.Fail(octest.Fault{Path: "/1.0/provisioning/updates", Times: test.times, Status: 502, Body: "<html>"})
		var waits []time.Duration
		o := w.options()
		o.Wait = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
		_, err := newClient(t, o).Latest(t.Context(), "stable", "x86_64", "")
		if (err == nil) != test.ok {
			t.Errorf("%d failures: %v", test.times, err)
		}
		if diff := cmp.Diff([]time.Duration{time.Second, time.Second, time.Second, time.Second}[:test.want], waits); diff != "" {
			t.Errorf("%d failures: %s", test.times, diff)
		}
	}
}

// A question that a manager says no to is not put again.
func TestLatest_Refusal_IsFinal(t *testing.T) {
	w := newWorld(t)
	w.Fail(octest.Fault{Status: 403, Body: `{"type":"error","error":"go\naway","error_code":403}`})
	_, err := w.client(t).Latest(t.Context(), "stable", "x86_64", "")
	var got *operationscenter.Refusal
	if !errors.As(err, &got) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(&operationscenter.Refusal{Code: 403, Text: "go away"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"GET /1.0/provisioning/updates"}, w.Requests()); diff != "" {
		t.Error(diff)
	}
}

// A manager that hangs must not hold the node's update check for ever.
func TestLatest_SilentServer_EndsAtTheLimit(t *testing.T) {
	w := newWorld(t)
	never := make(chan struct{})
	w.Fail(octest.Fault{Hold: never})
	o := w.options()
	o.Limits.Header = 20 * time.Millisecond
	_, err := newClient(t, o).Latest(t.Context(), "stable", "x86_64", "")
	checkErr(t, err, release.ErrLimit)
}

// stalling answers with a head and then nothing more, or without end.
type stalling struct {
	body io.ReadCloser
}

func (s stalling) Do(r *http.Request) (*http.Response, error) {
	go func() {
		<-r.Context().Done()
		_ = s.body.Close()
	}()
	return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: s.body, Request: r}, nil
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("["), len(p))), nil }

func TestLatest_AnswerWithoutEnd_EndsAtTheLimit(t *testing.T) {
	quietBody, _ := io.Pipe()
	oneByte, w := io.Pipe()
	go func() { _, _ = w.Write([]byte("{")) }()
	for name, body := range map[string]io.ReadCloser{"bytes without end": io.NopCloser(endless{}), "no byte": quietBody, "one byte": oneByte} {
		w := newWorld(t)
		o := w.options()
		o.Limits = release.Limits{Stall: 20 * time.Millisecond, MaxIndex: 1000}
		o.Connect = func(*x509.Certificate) operationscenter.Doer { return stalling{body} }
		_, err := newClient(t, o).Latest(t.Context(), "stable", "x86_64", "")
		if !errors.Is(err, release.ErrLimit) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A download that stops must not look like a file of another content.
func TestFetch_DownloadThatStops_EndsAtTheLimit(t *testing.T) {
	body, _ := io.Pipe()
	w := newWorld(t)
	o := w.options()
	o.Limits.Stall = 20 * time.Millisecond
	o.Connect = func(*x509.Certificate) operationscenter.Doer { return stalling{body} }
	update, dir := helloUpdate(uuid1, "202611220000", "stable"), t.TempDir()
	err := newClient(t, o).Fetch(t.Context(), update, update.Files[0], filepath.Join(dir, "usr.raw"), nil)
	if !errors.Is(err, release.ErrLimit) || errors.Is(err, release.ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

// The reader is all that stands between a download and the disk.
func TestOpen_EachContent_EndsWellOnlyWithThePromisedBytes(t *testing.T) {
	for content, want := range map[string]error{"hello": nil, "hell": release.ErrMismatch, "": release.ErrMismatch, "hello!": release.ErrMismatch, "hallo": release.ErrMismatch} {
		o := operationscenter.Options{ServerURL: "https://manager.example.org", Token: token,
			Connect: func(*x509.Certificate) operationscenter.Doer { return told{content, -1} }}
		file := operationscenter.File{Filename: "x86_64/usr.raw.gz", Size: 5, SHA256: helloFile.SHA256}
		r, err := newClient(t, o).Open(t.Context(), uuid1, file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		checkErr(t, err, want)
		if len(got) > 5 || r.Close() != nil {
			t.Errorf("%q: got %q", content, got)
		}
	}
}

// told answers every question with the same text.
type told struct {
	text   string
	length int64
}

func (a told) Do(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, ContentLength: a.length, Body: io.NopCloser(strings.NewReader(a.text))}, nil
}

// Whatever a manager answers, what comes out of it is safe to use as names and paths.
func FuzzFiles(f *testing.F) {
	f.Add(`{"type":"sync","status_code":200,"metadata":[{"filename":"x86_64/usr.raw.gz","size":5,"sha256":"2CF24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","architecture":"x86_64"}]}`)
	f.Add(`{"type":"error","error":"x","error_code":-7}`)
	f.Add(`{"type":"sync","status_code":200,"metadata":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		client, err := operationscenter.New(operationscenter.Options{ServerURL: "https://manager.example.org", Token: token,
			Connect: func(*x509.Certificate) operationscenter.Doer { return told{text, int64(len(text))} }, Wait: noWait})
		if err != nil {
			t.Fatal(err)
		}
		files, err := client.Files(context.Background(), uuid1)
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("the token is in %q", err)
		}
		for _, file := range files {
			if err != nil || !filepath.IsLocal(file.Filename) || file.Size <= 0 || len(file.SHA256) != 64 || strings.ContainsAny(file.Filename, "\x00?#%\\") {
				t.Errorf("%+v was taken (%v)", file, err)
			}
		}
		if _, err := client.Updates(context.Background()); err == nil && !json.Valid([]byte(text)) {
			t.Errorf("%q was read", text)
		}
	})
}
