package slotfeed_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/slotfeed"
)

const hello = "hello, slot\n"

func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}

// start serves contents by name, in the order given.
func start(t *testing.T, files []slotfeed.File, contents map[string]string) *slotfeed.Feed {
	t.Helper()
	feed, err := slotfeed.Start(files, func(_ context.Context, name string) (io.ReadCloser, error) {
		content, ok := contents[name]
		if !ok {
			return nil, errors.New("no base")
		}
		return io.NopCloser(strings.NewReader(content)), nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := feed.Close(); err != nil {
			t.Error(err)
		}
	})
	return feed
}

// answer is what a client sees; cut is true when the connection ended before the content.
type answer struct {
	Status int
	Body   string
	Cut    bool
}

func ask(t *testing.T, method, url string, change func(*http.Request)) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(request)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return answer{Cut: true}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{Status: response.StatusCode, Body: string(body), Cut: err != nil}
}

func get(t *testing.T, url string) answer {
	t.Helper()
	return ask(t, http.MethodGet, url, nil)
}

// systemd-sysupdate reads the list, then one file after the other.
func TestFeed_ListThenFiles_AreServedAsPromised(t *testing.T) {
	files := []slotfeed.File{{Name: "a.raw", Size: 12, SHA256: strings.ToUpper(sum(hello))}, {Name: "b.efi", Size: 7, SHA256: sum("another")}}
	feed := start(t, files, map[string]string{"a.raw": hello, "b.efi": "another"})
	got := []answer{get(t, feed.URL()+"SHA256SUMS"), get(t, feed.URL()+"a.raw"), get(t, feed.URL()+"b.efi")}
	want := []answer{
		{Status: 200, Body: sum(hello) + " *a.raw\n" + sum("another") + " *b.efi\n"},
		{Status: 200, Body: "hello, slot\n"}, {Status: 200, Body: "another"},
	}
	if diff := cmp.Diff(want, got); diff != "" || feed.Err() != nil {
		t.Error(diff, feed.Err())
	}
}

// Other programs of the node, and web pages open on it, get nothing.
func TestFeed_WhoeverDoesNotKnowTheURL_GetsNothing(t *testing.T) {
	feed := start(t, []slotfeed.File{{Name: "a.raw", Size: 12, SHA256: sum(hello)}}, map[string]string{"a.raw": hello})
	root := strings.TrimSuffix(feed.URL(), feed.Token()+"/")
	for name, got := range map[string]answer{
		"no token":      get(t, root+"a.raw"),
		"wrong token":   get(t, root+strings.Repeat("0", 64)+"/a.raw"),
		"unknown file":  get(t, feed.URL()+"c.raw"),
		"a way up":      get(t, feed.URL()+"../a.raw"),
		"the folder":    get(t, feed.URL()),
		"another host":  ask(t, http.MethodGet, feed.URL()+"a.raw", func(r *http.Request) { r.Host = "evil.example" }),
		"another token": get(t, root+feed.Token()+"0/a.raw"),
	} {
		if diff := cmp.Diff(answer{Status: 404, Body: "404 page not found\n"}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := ask(t, http.MethodPut, feed.URL()+"a.raw", nil); got.Status != 405 {
		t.Errorf("PUT: got %+v", got)
	}
}

// What is not the promised file must never arrive whole, whatever is wrong with it, and
// the owner is told what it was.
func TestFeed_WrongSource_IsCutAndNamed(t *testing.T) {
	for name, c := range map[string]struct {
		content, want string
		kind          error
	}{
		"too short":     {"hello", "the content is not the promised one: it ends after 5 of 12 bytes", slotfeed.ErrWrongContent},
		"too long":      {hello + "x", "the content is not the promised one: it goes on after 12 bytes", slotfeed.ErrWrongContent},
		"wrong sum":     {"hello, SLOT\n", "the content is not the promised one: its sum is " + sum("hello, SLOT\n") + ", not " + sum(hello), slotfeed.ErrWrongContent},
		"packed":        {"\x1f\x8bo, slot123\n", "the content is not the promised one: it begins like a packed file, which systemd-pull would unpack", slotfeed.ErrWrongContent},
		"cannot opened": {"", "no base", nil},
	} {
		t.Run(name, func(t *testing.T) {
			contents := map[string]string{}
			if c.content != "" {
				contents["a.raw"] = c.content
			}
			feed := start(t, []slotfeed.File{{Name: "a.raw", Size: 12, SHA256: sum(hello)}}, contents)
			got := get(t, feed.URL()+"a.raw")
			if !got.Cut || got.Body != "" {
				t.Errorf("got %+v", got)
			}
			err := feed.Err()
			if err == nil || err.Error() != "offering a.raw to systemd-sysupdate: "+c.want || !errors.Is(err, c.kind) && c.kind != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A wrong sum shows only at the end of a large file; its last bytes are not handed out.
func TestFeed_WrongSumOfALargeFile_KeepsItsEndBack(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 200_000) // 3.2 MB
	feed := start(t, []slotfeed.File{{Name: "a.raw", Size: 3_200_000, SHA256: sum(hello)}}, map[string]string{"a.raw": content})
	got := get(t, feed.URL()+"a.raw")
	if !got.Cut || len(got.Body) > 3<<20 {
		t.Errorf("cut %v after %d bytes", got.Cut, len(got.Body))
	}
}

// A source that checks its own sum says so at its end, and is believed: the end is held
// back for it too.
func TestFeed_SourceThatChecksItself_IsBelieved(t *testing.T) {
	wrong := errors.New("wrong sum")
	for name, c := range map[string]struct {
		end  error
		want answer
	}{"right": {io.EOF, answer{Status: 200, Body: hello}}, "wrong": {wrong, answer{Cut: true}}} {
		feed, err := slotfeed.Start([]slotfeed.File{{Name: "a.raw", Size: 12, SHA256: sum("not asked for"), Checked: true}},
			func(context.Context, string) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(strings.NewReader(hello), iotest.ErrReader(c.end))), nil
			}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, get(t, feed.URL()+"a.raw")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := feed.Err(); errors.Is(got, wrong) != (c.end == wrong) {
			t.Errorf("%s: got %v", name, got)
		}
		if err := feed.Close(); err != nil {
			t.Error(err)
		}
	}
}

// gate is a source that gives its first bytes and then waits to be closed.
type gate struct {
	first  *strings.Reader
	closed chan struct{}
	read   chan struct{}
}

func (g *gate) Read(p []byte) (int, error) {
	if g.first.Len() > 0 {
		return g.first.Read(p)
	}
	select {
	case g.read <- struct{}{}:
	default:
	}
	<-g.closed
	return 0, errors.New("closed")
}

func (g *gate) Close() error { close(g.closed); return nil }

// Making two files at once would need the memory of both: the second asker is refused,
// and served once the first has gone away.
func TestFeed_SecondAskerWhileOneIsServed_IsRefused(t *testing.T) {
	g := &gate{first: strings.NewReader("hello"), closed: make(chan struct{}), read: make(chan struct{}, 1)}
	sources := make(chan io.ReadCloser, 2)
	sources <- g
	sources <- io.NopCloser(strings.NewReader(hello))
	feed, err := slotfeed.Start([]slotfeed.File{{Name: "a.raw", Size: 12, SHA256: sum(hello)}},
		func(context.Context, string) (io.ReadCloser, error) { return <-sources, nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, feed.URL()+"a.raw", nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		if err == nil {
			_, err = io.ReadAll(response.Body)
			_ = response.Body.Close()
		}
		gone <- err
	}()
	<-g.read
	if got := get(t, feed.URL()+"a.raw"); got.Status != 409 {
		t.Errorf("got %+v", got)
	}
	leave()
	if err := <-gone; err == nil {
		t.Error("the first asker got a whole file")
	}
	<-g.closed // the source of an asker that is gone is closed, though it was being read
	for {
		got := get(t, feed.URL()+"a.raw")
		if got.Status == 409 { // the first one is still being cleared away
			runtime.Gosched()
			continue
		}
		if diff := cmp.Diff(answer{Status: 200, Body: hello}, got); diff != "" {
			t.Error(diff)
		}
		break
	}
	if err := feed.Err(); err != nil {
		t.Errorf("an asker that left is no fault of the source: %v", err)
	}
}

// A source that makes files one after the other cannot go back; a new run begins with
// the list.
func TestFeed_EarlierFileAgain_NeedsTheListFirst(t *testing.T) {
	feed := start(t, []slotfeed.File{{Name: "a.raw", Size: 12, SHA256: sum(hello)}, {Name: "b.efi", Size: 12, SHA256: sum(hello)}},
		map[string]string{"a.raw": hello, "b.efi": hello})
	var got []int
	for _, name := range []string{"a.raw", "a.raw", "b.efi", "a.raw", "SHA256SUMS", "a.raw"} {
		got = append(got, get(t, feed.URL()+name).Status)
	}
	if diff := cmp.Diff([]int{200, 200, 200, 409, 200, 200}, got); diff != "" {
		t.Error(diff)
	}
}

// An update that is called off must not leave a port open or a goroutine reading.
func TestClose_WhileAFileIsServed_CutsIt(t *testing.T) {
	g := &gate{first: strings.NewReader("hello"), closed: make(chan struct{}), read: make(chan struct{}, 1)}
	feed, err := slotfeed.Start([]slotfeed.File{{Name: "a.raw", Size: 12, SHA256: sum(hello)}},
		func(context.Context, string) (io.ReadCloser, error) { return g, nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan answer, 1)
	go func() { got <- get(t, feed.URL()+"a.raw") }()
	<-g.read
	if err := feed.Close(); err != nil {
		t.Error(err)
	}
	<-g.closed
	if a := <-got; !a.Cut {
		t.Errorf("got %+v", a)
	}
}

// The whole of a release is gigabytes; the node has little memory.
func TestFeed_LargeFile_NeedsABufferOnly(t *testing.T) {
	const size = 256 << 20
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(zeros{}, size)); err != nil {
		t.Fatal(err)
	}
	var last [2]int64
	feed, err := slotfeed.Start([]slotfeed.File{{Name: "a.raw", Size: size, SHA256: hex.EncodeToString(hash.Sum(nil))}},
		func(context.Context, string) (io.ReadCloser, error) {
			return io.NopCloser(io.LimitReader(zeros{}, size)), nil
		},
		func(done, total int64) { last = [2]int64{done, total} })
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	response, err := http.Get(feed.URL() + "a.raw")
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, response.Body)
	if n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	_ = response.Body.Close()
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("%d bytes were allocated to serve %d", used, size)
	}
	if err := feed.Close(); err != nil {
		t.Error(err)
	}
	if last != [2]int64{size, size} {
		t.Errorf("the last progress is %v", last)
	}
}

// zeros gives zero bytes for ever.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What sysupdate would refuse or misread is refused before anything is touched.
func TestStart_BadFiles_AreRefused(t *testing.T) {
	good := slotfeed.File{Name: "a.raw", Size: 12, SHA256: sum(hello)}
	for name, c := range map[string]struct {
		files []slotfeed.File
		want  string
	}{
		"none":       {nil, "0 files, want 1 to 64"},
		"a folder":   {[]slotfeed.File{{Name: "x/a", Size: 12, SHA256: good.SHA256}}, `"x/a" is not a plain file name`},
		"a new line": {[]slotfeed.File{{Name: "x\na", Size: 12, SHA256: good.SHA256}}, `"x\na" is not a plain file name`},
		"twice":      {[]slotfeed.File{good, good}, "a.raw is there twice"},
		"the list":   {[]slotfeed.File{{Name: "SHA256SUMS", Size: 12, SHA256: good.SHA256}}, "SHA256SUMS is there twice"},
		"short sum":  {[]slotfeed.File{{Name: "a", Size: 12, SHA256: "00"}}, `a has the sum "00", which is not hexadecimal SHA-256`},
		"tiny":       {[]slotfeed.File{{Name: "a", Size: 5, SHA256: good.SHA256}}, "a has 5 bytes, want at least 6"},
	} {
		_, err := slotfeed.Start(c.files, nil, nil)
		if err == nil || err.Error() != "offering files to systemd-sysupdate: "+c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// slowToClose ends well, but takes its time to.
type slowToClose struct{ io.Reader }

func (slowToClose) Close() error {
	<-time.NewTimer(50 * time.Millisecond).C
	return nil
}

// A reader has all of a file a moment before its source is closed, and asks for the next.
func TestFeed_NextFileWhileTheSourceCloses_IsServed(t *testing.T) {
	first := strings.Repeat("a", 1<<20)
	files := []slotfeed.File{{Name: "a.raw", Size: int64(len(first)), SHA256: sum(first)}, {Name: "b.efi", Size: 7, SHA256: sum("another")}}
	feed, err := slotfeed.Start(files, func(_ context.Context, name string) (io.ReadCloser, error) {
		if name == "a.raw" {
			return slowToClose{strings.NewReader(first)}, nil
		}
		return io.NopCloser(strings.NewReader("another")), nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(feed.URL() + "a.raw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(response.Body, make([]byte, len(first))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(answer{Status: 200, Body: "another"}, get(t, feed.URL()+"b.efi")); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(response.Body.Close(), feed.Close()); err != nil {
		t.Error(err)
	}
}
