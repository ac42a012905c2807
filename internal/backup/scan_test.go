package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/backup"
)

// small are limits that a test can pass.
var small = backup.Limits{Packed: 1 << 20, Unpacked: 1 << 20, Entries: 50, Manifest: 64 << 10, Ratio: 100, RatioFrom: 64 << 10}

func rules() backup.Rules { return backup.Rules{Limits: small, Folder: "/var/lib/incus"} }

// packed makes an archive as a stranger would.
func packed(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	archive := tar.NewWriter(zipped)
	for _, h := range headers {
		content := []byte(h.Uname) // stands for the content
		h.Uname = ""
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		} else {
			content = nil
		}
		if err := archive.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uname: content}
}

func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }

func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// rule is the rule by which an archive is refused; empty when it is taken.
func rule(t *testing.T, err error) string {
	t.Helper()
	var problem *backup.Problem
	if err != nil && !errors.As(err, &problem) {
		t.Fatalf("no problem of the archive: %v", err)
	}
	if problem == nil {
		return ""
	}
	return problem.Rule
}

func many(n int) []tar.Header {
	var all []tar.Header
	for i := range n {
		all = append(all, file(fmt.Sprintf("f%d", i), "x"))
	}
	return all
}

// A backup comes from outside, and is unpacked by root. Whatever could write outside of its
// folder, fill the disk or the memory, or make something that is no data, is refused.
func TestScan_HostileArchives_AreRefusedByRule(t *testing.T) {
	zeros := strings.Repeat("\x00", 900<<10)
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"good":                        {[]tar.Header{dir("./"), dir("a/"), file("./a/b", "1"), link("a/c", "../d"), link("e", "/var/lib/incus/a"), link("f", "/var/lib/incus")}, ""},
		"parts out of order":          {[]tar.Header{file("a/b", "1"), dir("a")}, ""},
		"absolute name":               {[]tar.Header{file("/etc/passwd", "1")}, "name"},
		"climbing name":               {[]tar.Header{file("a/../../etc/passwd", "1")}, "name"},
		"only dots":                   {[]tar.Header{file("..", "1")}, "name"},
		"line break in a name":        {[]tar.Header{file("a\nb", "1")}, "name"},
		"no text":                     {[]tar.Header{file("a\xffb", "1")}, "name"},
		"too deep":                    {[]tar.Header{file(strings.Repeat("a/", 120)+"b", "1")}, "name"},
		"part too long":               {[]tar.Header{file(strings.Repeat("a", 256), "1")}, "name"},
		"twice":                       {[]tar.Header{file("a", "1"), file("./a", "2")}, "unique"},
		"folder twice":                {[]tar.Header{dir("a"), dir("a/")}, "unique"},
		"file below a link":           {[]tar.Header{link("a", "b"), file("a/c", "1")}, "name"},
		"link over a folder of files": {[]tar.Header{file("a/c", "1"), link("a", "b")}, "name"},
		"file below a file":           {[]tar.Header{file("a", "1"), file("a/c", "1")}, "name"},
		"hard link":                   {[]tar.Header{file("a", "1"), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}}, "type"},
		"block device":                {[]tar.Header{{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}}, "type"},
		"character device":            {[]tar.Header{{Typeflag: tar.TypeChar, Name: "mem", Devmajor: 1}}, "type"},
		"pipe":                        {[]tar.Header{{Typeflag: tar.TypeFifo, Name: "p"}}, "type"},
		"link to another folder":      {[]tar.Header{link("a", "/etc/shadow")}, "link"},
		"link to a neighbour":         {[]tar.Header{link("a", "/var/lib/incus-os/zpool.local.key")}, "link"},
		"link that climbs out":        {[]tar.Header{link("a/b", "../../x")}, "link"},
		"link with dots inside":       {[]tar.Header{link("a", "b/../../x")}, "link"},
		"absolute link with dots":     {[]tar.Header{link("a", "/var/lib/incus/../incus-os")}, "link"},
		"link to nothing":             {[]tar.Header{link("a", "")}, "link"},
		"too many":                    {many(51), "limit"},
		"too many folders":            {[]tar.Header{file(strings.Repeat("a/", 99)+"b", "1"), file(strings.Repeat("b/", 99)+"b", "1"), file(strings.Repeat("c/", 99)+"b", "1")}, "limit"},
		"too large":                   {[]tar.Header{file("a", zeros), file("b", zeros)}, "limit"},
		"bomb":                        {[]tar.Header{file("a", zeros)}, "limit"},
	} {
		_, err := backup.Scan(context.Background(), bytes.NewReader(packed(t, c.headers...)), rules(), nil)
		if got := rule(t, err); got != c.want {
			t.Errorf("%s: rule %q, want %q (%v)", name, got, c.want, err)
		}
	}
}

// A million members take no memory: the reading ends at the limit.
func TestScan_MillionMembers_EndsAtTheLimit(t *testing.T) {
	r, w := io.Pipe()
	written := 0
	go func() {
		zipped, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		archive := tar.NewWriter(zipped)
		for written = range 1_000_000 {
			h := file(fmt.Sprintf("f%d", written), "")
			if archive.WriteHeader(&h) != nil {
				break
			}
		}
		w.CloseWithError(errors.Join(archive.Close(), zipped.Close()))
	}()
	limits := backup.ApplicationLimits
	limits.Entries = 1000
	_, err := backup.Scan(context.Background(), r, backup.Rules{Limits: limits}, nil)
	r.Close()
	if got := rule(t, err); got != "limit" || written > 500_000 {
		t.Errorf("rule %q after %d members: %v", got, written, err)
	}
}

// What came damaged over the network, or is no archive at all, is told as such.
func TestScan_DamagedArchives_SayWhatTheyAre(t *testing.T) {
	good := packed(t, file("a", strings.Repeat("hello ", 1000)))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	var sealed bytes.Buffer
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w, err := backup.Encrypt(&sealed, identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(good); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"empty": {nil, "archive"}, "cut": {good[:len(good)-9], "archive"}, "flipped": {flipped, "archive"},
		"plain tar": {bytes.Repeat([]byte("x"), 2048), "archive"}, "encrypted": {sealed.Bytes(), "encrypted"},
		"good": {good, ""},
	} {
		_, err := backup.Scan(context.Background(), bytes.NewReader(c.text), rules(), nil)
		if got := rule(t, err); got != c.want {
			t.Errorf("%s: rule %q, want %q (%v)", name, got, c.want, err)
		}
	}
	tight := rules()
	tight.Limits.Packed = int64(len(good)) - 1
	_, err = backup.Scan(context.Background(), bytes.NewReader(good), tight, nil)
	if got := rule(t, err); got != "limit" {
		t.Errorf("one byte too long: rule %q (%v)", got, err)
	}
}

// longHeader is an archive whose first member has two megabytes of extended header, which no
// writer makes.
func longHeader(t *testing.T) []byte {
	t.Helper()
	head := make([]byte, 512)
	copy(head, "a")
	copy(head[100:], "0000644\x000000000\x000000000\x00")
	copy(head[124:], fmt.Sprintf("%011o\x00%011o\x00        x", 2<<20, 0))
	copy(head[257:], "ustar\x0000")
	total := 0
	for _, b := range head {
		total += int(b)
	}
	copy(head[148:], fmt.Sprintf("%06o\x00 ", total))
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	if _, err := zipped.Write(append(head, make([]byte, 2<<20)...)); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A header that no reader takes is the fault of who sends it, not of the node.
func TestScan_LongHeader_IsRefused(t *testing.T) {
	_, err := backup.Scan(context.Background(), bytes.NewReader(longHeader(t)), backup.Rules{Limits: backup.ApplicationLimits}, nil)
	if got := rule(t, err); got != backup.RuleLimit {
		t.Errorf("rule %q (%v)", got, err)
	}
}

// made packs a folder as a node does, with its manifest.
func made(t *testing.T, from string, data backup.Data) ([]byte, osapi.BackupManifest) {
	t.Helper()
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	m := osapi.BackupManifest{Format: 1, Kind: "application", Application: "incus", Release: "202611220104", MachineID: "aa", CreatedAt: time.Unix(1795309440, 0).UTC()}
	m.Members, m.LeftOut, err = backup.PackTree(context.Background(), spool, backup.Tree{Dir: from, Data: data}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := backup.Finish(&archive, m, spool); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes(), m
}

// tree gives the files of a folder as "mode name -> content".
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, file)
		line := info.Mode().String() + " " + name
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			line += " -> " + string(text)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

func put(t *testing.T, file, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

// An archive that somebody has changed, or taken a member out of, is not what its manifest
// says; packed anew in another order it is.
func TestScan_ManifestAndMembersDiffer_IsRefused(t *testing.T) {
	from := t.TempDir()
	put(t, filepath.Join(from, "a"), "1", 0o600)
	put(t, filepath.Join(from, "b"), "2", 0o600)
	archive, _ := made(t, from, backup.Data{Folder: "/var/lib/incus"})
	manifest := member(t, archive, "holdfast-backup.json")
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"another order": {[]tar.Header{file("./b", "2"), file("./a", "1"), file(backup.ManifestName, manifest)}, ""},
		"changed":       {[]tar.Header{file(backup.ManifestName, manifest), file("a", "1"), file("b", "3")}, "sum"},
		"one is gone":   {[]tar.Header{file(backup.ManifestName, manifest), file("a", "1")}, "sum"},
		"one is new":    {[]tar.Header{file(backup.ManifestName, manifest), file("a", "1"), file("b", "2"), file("c", "")}, "sum"},
		"a link now":    {[]tar.Header{file(backup.ManifestName, manifest), file("a", "1"), link("b", "2")}, "sum"},
		"two manifests": {[]tar.Header{file(backup.ManifestName, manifest), file("./"+backup.ManifestName, manifest)}, "unique"},
		"no manifest":   {[]tar.Header{file("a", "1")}, ""},
		"no JSON":       {[]tar.Header{file(backup.ManifestName, "{")}, "format"},
	} {
		_, err := backup.Scan(context.Background(), bytes.NewReader(packed(t, c.headers...)), rules(), nil)
		if got := rule(t, err); got != c.want {
			t.Errorf("%s: rule %q, want %q (%v)", name, got, c.want, err)
		}
	}
}

// member reads one member with plain tar and gzip, as other tools do.
func member(t *testing.T, archive []byte, name string) string {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if header.Name == name {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
}

// An archive for another purpose, or of a release to come, must not be taken for what it is
// not.
func TestCheckManifest_WrongKinds_AreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		manifest          *osapi.BackupManifest
		kind, application string
		want              string
	}{
		"system":              {&osapi.BackupManifest{Format: 1, Kind: "system"}, "system", "", ""},
		"application":         {&osapi.BackupManifest{Format: 1, Kind: "application", Application: "incus"}, "application", "incus", ""},
		"other edition":       {&osapi.BackupManifest{Format: 1, Kind: "application", Application: "incus"}, "application", "incus-lts-7.0", ""},
		"IncusOS application": {nil, "application", "incus", ""},
		"IncusOS system":      {nil, "system", "", "format"},
		"other application":   {&osapi.BackupManifest{Format: 1, Kind: "application", Application: "openfga"}, "application", "incus", "format"},
		"other kind":          {&osapi.BackupManifest{Format: 1, Kind: "application", Application: "incus"}, "system", "", "format"},
		"newer":               {&osapi.BackupManifest{Format: 2, Kind: "system"}, "system", "", "newer"},
		"no format":           {&osapi.BackupManifest{Kind: "system"}, "system", "", "format"},
	} {
		if got := rule(t, backup.CheckManifest(c.manifest, c.kind, c.application)); got != c.want {
			t.Errorf("%s: rule %q, want %q", name, got, c.want)
		}
	}
}

// Whatever bytes come, Scan ends with an answer, and what it takes stays in its folder.
func FuzzScan_AnyBytes_GiveAnAnswer(f *testing.F) {
	f.Add(packed(f, file("a", "1"), dir("b"), link("c", "a")))
	f.Add(packed(f, file(backup.ManifestName, `{"format":1,"members":[]}`)))
	f.Add([]byte("age-encryption.org/v1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := backup.Scan(context.Background(), bytes.NewReader(text), rules(), func(m backup.Member, content io.Reader) error {
			if !filepath.IsLocal(m.Name) {
				t.Errorf("member %q", m.Name)
			}
			_, err := io.Copy(io.Discard, content)
			return err
		})
		var problem *backup.Problem
		if err != nil && !errors.As(err, &problem) {
			t.Errorf("not a problem of the archive: %v", err)
		}
	})
}

func TestEncrypt_RecipientAndPassphrase_OnlyTheirsOpenIt(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := backup.ParseRecipient(identity.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := backup.Encrypt(&sealed, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "secret"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !backup.IsEncrypted(sealed.Bytes()) || strings.Contains(sealed.String(), "secret") {
		t.Error("not encrypted")
	}
	open, err := backup.Decrypt(bytes.NewReader(sealed.Bytes()), identity)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(open); err != nil || string(text) != "secret" {
		t.Errorf("%q, %v", text, err)
	}
	other, err := backup.PassphraseIdentity("not this one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Decrypt(bytes.NewReader(sealed.Bytes()), other); err == nil {
		t.Error("another key opens it")
	}
	for _, text := range []string{"", "ssh-ed25519 AAAA", "age1", "AGE-SECRET-KEY-1"} {
		if _, err := backup.ParseRecipient(text); err == nil {
			t.Errorf("%q is taken for a recipient", text)
		}
	}
}
