package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bundle"
)

var made = time.Date(2026, 11, 22, 12, 0, 0, 500, time.UTC)

// unpack gives the members of a bundle by name.
func unpack(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(data)
	}
}

func write(t *testing.T, secrets []string, members ...bundle.Member) map[string]string {
	t.Helper()
	var out bytes.Buffer
	if err := bundle.Write(&out, members, secrets, made); err != nil {
		t.Fatal(err)
	}
	return unpack(t, out.Bytes())
}

func from(name string, r io.Reader) bundle.Member {
	return bundle.Member{Name: name, Open: func() (io.Reader, error) { return r, nil }}
}

// Whoever gets the bundle sees what is in it and what is missing.
func TestWrite_Members_AreInTheArchiveWithAManifest(t *testing.T) {
	long := text("long.txt", []byte("0123456789 hunt"))
	long.Limit = 14
	got := write(t, []string{"hunter2-hunter2"},
		text("network/state.json", []byte(`{"key":"hunter2-hunter2","same":"hunter2-hunter2"}`)),
		long,
		from("broken.log", io.MultiReader(strings.NewReader("so far hunter2-"), iotest.ErrReader(errors.New("no more of hunter2-hunter2")))),
		bundle.Member{Name: "gone.log", Open: func() (io.Reader, error) { return nil, errors.New("not there") }},
		text("empty", nil),
	)
	want := map[string]string{
		"network/state.json": `{"key":"***","same":"***"}`,
		"long.txt":           "0123456789 ***",
		"broken.log":         "so far ***",
		"gone.log":           "",
		"empty":              "",
		"manifest.json": `{
  "format": 1,
  "made": "2026-11-22T12:00:00Z",
  "members": [
    {
      "name": "network/state.json",
      "size": 26,
      "removed": 2
    },
    {
      "name": "long.txt",
      "size": 14,
      "removed": 1,
      "cut": true
    },
    {
      "name": "broken.log",
      "size": 10,
      "removed": 1,
      "error": "no more of ***"
    },
    {
      "name": "gone.log",
      "size": 0,
      "error": "not there"
    },
    {
      "name": "empty",
      "size": 0
    }
  ]
}
`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A bundle is unpacked by somebody else: no name may lead out of its folder.
func TestWrite_Names_StayInTheFolder(t *testing.T) {
	for _, name := range []string{"", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\nb", `a\b`, "manifest.json", "ä", strings.Repeat("x", 201)} {
		if err := bundle.Write(io.Discard, []bundle.Member{text(name, nil)}, nil, made); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	if err := bundle.Write(io.Discard, []bundle.Member{text("a", nil), text("a", nil)}, nil, made); err == nil {
		t.Error("two members of one name are taken")
	}
	if err := bundle.Write(io.Discard, make([]bundle.Member, 1001), nil, made); err == nil {
		t.Error("1001 members are taken")
	}
}

// encodings are written here without the package's own list.
func encodings(secret, before, after string) map[string]string {
	quoted, err := json.Marshal(secret)
	if err != nil {
		panic(err)
	}
	twice, err := json.Marshal(string(quoted))
	if err != nil {
		panic(err)
	}
	whole := base64.StdEncoding.EncodeToString([]byte(before + secret + after))
	first, last := (len(before)*8+5)/6, (len(before)+len(secret))*8/6
	return map[string]string{
		"plain":     secret,
		"base64":    base64.StdEncoding.EncodeToString([]byte(secret)),
		"raw":       base64.RawStdEncoding.EncodeToString([]byte(secret)),
		"base64url": base64.URLEncoding.EncodeToString([]byte(secret)),
		"inside":    whole[first:last],
		"hex":       hex.EncodeToString([]byte(secret)),
		"HEX":       strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"json":      string(quoted)[1 : len(quoted)-1],
		"log":       string(twice)[3 : len(twice)-3],
		"ascii":     strconv.QuoteToASCII(secret)[1 : len(strconv.QuoteToASCII(secret))-1],
		"quoted":    strconv.Quote(secret)[1 : len(strconv.Quote(secret))-1],
		"query":     url.QueryEscape(secret),
		"path":      url.PathEscape(secret),
	}
}

// pieces gives a text in pieces of every size from one byte on.
type pieces struct {
	text   string
	random *rand.Rand
}

func (p *pieces) Read(into []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := min(1+p.random.IntN(40), len(p.text), len(into))
	copy(into, p.text[:n])
	p.text = p.text[n:]
	return n, nil
}

// The one promise of a bundle: no secret is in it, in no form, wherever the pieces end.
func TestWrite_RandomTexts_HaveNoSecretInAnyForm(t *testing.T) {
	alphabets := []string{
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "ab", `a"\/<>&=+ %`, "cbdefghijklnrtuv-", "aäöü€𝄞", "*#~?^|_x",
	}
	for seed := range uint64(120) {
		random := rand.New(rand.NewPCG(seed, 1))
		letters := []rune(alphabets[random.IntN(len(alphabets))])
		word := func(n int) string {
			var text strings.Builder
			for range n {
				text.WriteRune(letters[random.IntN(len(letters))])
			}
			return text.String()
		}
		var secrets []string
		for range 1 + random.IntN(4) {
			secrets = append(secrets, word(9+random.IntN(40)))
		}
		var text strings.Builder
		forms := map[string]string{}
		for range 60 {
			secret, before, after := secrets[random.IntN(len(secrets))], word(random.IntN(4)), word(random.IntN(4))
			for kind, form := range encodings(secret, before, after) {
				forms[kind+" of "+secret+" after "+before] = form
				switch random.IntN(6) {
				case 0:
					text.WriteString(before + form + after)
				case 1: // forms that overlap themselves
					text.WriteString(form[:random.IntN(len(form)+1)] + form)
				}
			}
			text.WriteString(base64.StdEncoding.EncodeToString([]byte(before+secret+after)) + word(random.IntN(9)))
		}
		out := write(t, secrets, from("x/"+strconv.Itoa(int(seed)), &pieces{text.String(), random}))
		for name, content := range out {
			for kind, form := range forms {
				if strings.Contains(content, form) {
					t.Fatalf("seed %d: %s has %s: %q", seed, name, kind, form)
				}
			}
		}
	}
}

// A key of several lines is split by whoever writes logs.
func TestWrite_LinesOfAKey_AreRemovedOneByOne(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ0x\nshort\nqqJ5Yy1iZ3JvdW5kLW9mLXRo\n-----END PRIVATE KEY-----\n"
	got := write(t, []string{key}, text("log", []byte("1: MC4CAQAwBQYDK2VwBCIEIJ0x\n2: qqJ5Yy1iZ3JvdW5kLW9mLXRo\n3: short\nwhole: "+key)))
	if diff := cmp.Diff("1: ***\n2: ***\n3: short\nwhole: ***", got["log"]); diff != "" {
		t.Error(diff)
	}
}

// What stands in the place of a secret must not itself be a part of one: then the text
// around it would make the secret whole again.
func TestText_SecretWithTheMark_GetsAnotherMark(t *testing.T) {
	for _, c := range []struct{ secret, text, want string }{
		{"***", "a***b", "a###b"},
		{"a*b", "aa*bb", "a###b"},
		{"*#~?^|_", "x*#~?^|_x", "x\x00\x00\x00x"},
		{"abcabcab", "abcabcabcabcab", "***"},
		{"aaaaaaaaa", strings.Repeat("a", 20), "***"},
	} {
		s, err := bundle.NewScrubber([]string{c.secret, ""})
		if err != nil {
			t.Fatal(err)
		}
		got, removed := s.Text(c.text)
		if diff := cmp.Diff(c.want, got); diff != "" || removed != 1 {
			t.Errorf("%q: removed %d, %s", c.secret, removed, diff)
		}
	}
	var all []byte
	for b := range 256 {
		all = append(all, byte(b))
	}
	if _, err := bundle.NewScrubber([]string{string(all)}); !errors.Is(err, bundle.ErrNoMark) {
		t.Errorf("got %v, want %v", err, bundle.ErrNoMark)
	}
	if _, err := bundle.NewScrubber([]string{strings.Repeat("x", 1<<20)}); err == nil {
		t.Error("a secret of 1 MiB is taken")
	}
}

// Text without a secret is kept byte for byte.
func TestText_NoSecret_IsKept(t *testing.T) {
	s, err := bundle.NewScrubber([]string{"hunter2-hunter2", "vG7#qLz2!wPx9Kd"})
	if err != nil {
		t.Fatal(err)
	}
	const text = "hunter2-hunter hunter2-hunter vG7#qLz2 \x00\xff end hunter2-"
	if got, removed := s.Text(text); got != text || removed != 0 {
		t.Errorf("got %q, %d", got, removed)
	}
}

// Any text may meet any secret.
func FuzzScrubber(f *testing.F) {
	f.Add("hunter2", "a hunter2 b", "c")
	f.Add("aa", "aaaa", "\xff")
	f.Fuzz(func(t *testing.T, one, text, two string) {
		s, err := bundle.NewScrubber([]string{one, two})
		if err != nil {
			t.Skip(err)
		}
		got, _ := s.Text(text)
		for _, secret := range []string{one, two} {
			for _, form := range bundle.Forms(secret) {
				if strings.Contains(got, form) {
					t.Errorf("%q is in %q", form, got)
				}
			}
		}
		if again, removed := s.Text(got); again != got || removed != 0 {
			t.Errorf("%q is changed again to %q", got, again)
		}
	})
}

func BenchmarkScrubber(b *testing.B) {
	var secrets []string
	for i := range 30 {
		secrets = append(secrets, fmt.Sprintf("%d-cccbcdce-cfcgchci-cjckclcn-crctcucv-bcbbbdbe-bfbgbhbi", i))
	}
	s, err := bundle.NewScrubber(secrets)
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat(`{"MESSAGE":"a line of the journal as it usually is","PRIORITY":"6"}`+"\n", 1000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		s.Text(text)
	}
}

// text is a member out of bytes.
func text(name string, data []byte) bundle.Member {
	return bundle.Member{Name: name, Open: func() (io.Reader, error) { return bytes.NewReader(data), nil }}
}
