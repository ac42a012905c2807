package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

type windowBody struct {
	StartHour int `json:"start_hour"`
}

type configBody struct {
	Channel string         `json:"channel"`
	Windows []windowBody   `json:"windows"`
	Extra   map[string]any `json:"extra"`
}

type putBody struct {
	Config *configBody     `json:"config"`
	State  json.RawMessage `json:"state"`
}

// table is a small API: a thing that can be read and changed.
func table(channel *string) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/1.0", Doc: "root", Handler: func(r *httpapi.Request) (any, error) {
			return r.URLs("/1.0/things", "a", "b"), nil
		}},
		{Method: "GET", Path: "/1.0/things/{name}", Doc: "one", Handler: func(r *httpapi.Request) (any, error) {
			if r.Var("name") == "gone" {
				return nil, httpapi.NotFound("thing %q is not there", "gone")
			}
			return map[string]string{"name": r.Var("name")}, nil
		}},
		{Method: "POST", Path: "/1.0/things/{name}/:restart", Doc: "restart", Handler: func(*httpapi.Request) (any, error) { return nil, nil }},
		{Method: "POST", Path: "/1.0/things/{name}/:backup", Doc: "backup", Later: "backups come later"},
		{Method: "POST", Path: "/1.0/things/{name}/:break", Doc: "break", Handler: func(*httpapi.Request) (any, error) { panic("broken") }},
		{Method: "POST", Path: "/1.0/things/{name}/:fail", Doc: "fail", Handler: func(*httpapi.Request) (any, error) { return nil, errors.New("disk is gone") }},
		{Method: "GET", Path: "/1.0/things/{name}/download", Doc: "raw", Handler: func(*httpapi.Request) (any, error) {
			return httpapi.Raw{ContentType: "application/gzip", Body: []byte("bytes")}, nil
		}},
		{Method: "GET", Path: "/1.0/config", Doc: "config", Handler: func(*httpapi.Request) (any, error) { return configBody{Channel: *channel}, nil }},
		{Method: "PUT", Path: "/1.0/config", Doc: "config", Request: putBody{}, Handler: func(r *httpapi.Request) (any, error) {
			*channel = httpapi.Body[putBody](r).Config.Channel
			return nil, nil
		}},
		{Method: "POST", Path: "/1.0/check", Doc: "check", Request: configBody{}, EmptyBody: true, Handler: func(r *httpapi.Request) (any, error) {
			return httpapi.Body[configBody](r).Channel, nil
		}},
		{Method: "POST", Path: "/internal/:write", Access: httpapi.SocketOnly, Doc: "internal", Handler: func(*httpapi.Request) (any, error) { return nil, nil }},
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func server(t *testing.T, channel *string) *httpapi.Server {
	t.Helper()
	s, err := httpapi.New(context.Background(), table(channel), quiet())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type answer struct {
	Code     int
	Type     string
	Error    string
	Metadata string
}

func ask(t *testing.T, s http.Handler, method, path, body string, headers ...string) (answer, http.Header) {
	t.Helper()
	request := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, request)
	var response osapi.Response
	if err := json.Unmarshal(recorder.Body.Bytes(), &response); err != nil {
		t.Fatalf("%s %s: %v in %q", method, path, err, recorder.Body)
	}
	if response.ErrorCode != 0 && response.ErrorCode != recorder.Code {
		t.Errorf("%s %s: HTTP code %d, error code %d", method, path, recorder.Code, response.ErrorCode)
	}
	return answer{recorder.Code, response.Type, response.Error, string(response.Metadata)}, recorder.Header()
}

// Each refusal tells the caller what was wrong, and where.
func TestServe_EachRequest_HasItsAnswer(t *testing.T) {
	deep := `{"extra":{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}}`
	cases := map[string]struct {
		method, path, body string
		want               answer
	}{
		"list":       {"GET", "/1.0", "", answer{200, "sync", "", `["/1.0/things/a","/1.0/things/b"]`}},
		"one":        {"GET", "/1.0/things/incus", "", answer{200, "sync", "", `{"name":"incus"}`}},
		"escaped":    {"GET", "/1.0/things/a%2Fb", "", answer{200, "sync", "", `{"name":"a/b"}`}},
		"no content": {"POST", "/1.0/things/a/:restart", "", answer{200, "sync", "", `{}`}},
		"empty body": {"POST", "/1.0/check", "", answer{200, "sync", "", `""`}},

		"not there":      {"GET", "/1.0/things/gone", "", answer{404, "error", `thing "gone" is not there`, "null"}},
		"unknown path":   {"GET", "/1.0/nothing", "", answer{404, "error", "no such path: /1.0/nothing", "null"}},
		"unknown action": {"POST", "/1.0/nothing", "", answer{501, "error", "no such path: POST /1.0/nothing", "null"}},
		"action as name": {"GET", "/1.0/things/:restart", "", answer{404, "error", "no such path: /1.0/things/:restart", "null"}},
		"wrong method":   {"DELETE", "/1.0/things/a", "", answer{501, "error", "/1.0/things/a does not support DELETE", "null"}},
		"later":          {"POST", "/1.0/things/a/:backup", "", answer{501, "error", "POST /1.0/things/{name}/:backup is not there yet: backups come later", "null"}},
		"failure":        {"POST", "/1.0/things/a/:fail", "", answer{500, "error", "disk is gone", "null"}},
		"panic":          {"POST", "/1.0/things/a/:break", "", answer{500, "error", "the node made a mistake in POST /1.0/things/a/:break: see /1.0/debug/log", "null"}},

		"missing body":  {"PUT", "/1.0/config", " \n", answer{400, "error", "the body is empty: PUT /1.0/config needs a JSON object", "null"}},
		"not JSON":      {"PUT", "/1.0/config", "{\n  \"config\": {,}\n}", answer{400, "error", "the body is not JSON: invalid character ',' looking for beginning of object key string (line 2, column 14)", "null"}},
		"cut short":     {"PUT", "/1.0/config", `{"config":`, answer{400, "error", "the body is not JSON: unexpected end of JSON input (line 1, column 10)", "null"}},
		"behind it":     {"PUT", "/1.0/config", `{} {}`, answer{400, "error", "the body is not JSON: invalid character '{' after top-level value (line 1, column 4)", "null"}},
		"unknown field": {"PUT", "/1.0/config", `{"config":{"chanel":"x"}}`, answer{400, "error", `unknown field "config.chanel" (line 1, column 19): did you mean "channel"?`, "null"}},
		"far field":     {"PUT", "/1.0/config", `{"config":{"zzz":1}}`, answer{400, "error", `unknown field "config.zzz" (line 1, column 16): known here: channel, extra, windows`, "null"}},
		"in a list":     {"POST", "/1.0/check", `{"windows":[{},{"start_our":1}]}`, answer{400, "error", `unknown field "windows[1].start_our" (line 1, column 27): did you mean "start_hour"?`, "null"}},
		"other case":    {"POST", "/1.0/check", `{"Channel":"x"}`, answer{400, "error", `unknown field "Channel" (line 1, column 10): did you mean "channel"?`, "null"}},
		"twice":         {"POST", "/1.0/check", `{"channel":"a","channel":"b"}`, answer{400, "error", `field "channel" is there twice (line 1, column 24)`, "null"}},
		"wrong type":    {"POST", "/1.0/check", `{"channel":3}`, answer{400, "error", "channel: a JSON number does not fit, a string is wanted (line 1, column 12)", "null"}},
		"not an object": {"POST", "/1.0/check", `[]`, answer{400, "error", "the body: a JSON array does not fit, an object is wanted (line 1, column 1)", "null"}},
		"too deep":      {"POST", "/1.0/check", deep, answer{400, "error", "extra.a" + strings.Repeat("[0]", 30) + " is nested more than 32 levels deep (line 1, column 45)", "null"}},
		"too large":     {"POST", "/1.0/check", `"` + strings.Repeat("x", 1<<20) + `"`, answer{413, "error", "the body is larger than 1048576 bytes", "null"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			channel := "stable"
			got, headers := ask(t, server(t, &channel), c.method, c.path, c.body)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if headers.Get("Content-Type") != "application/json" || headers.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", headers)
			}
			if channel != "stable" {
				t.Errorf("a refused request changed the channel to %q", channel)
			}
		})
	}
}

// A client that sends back what it has read, with the state of another release in it,
// must not be refused.
func TestPut_StateOfAnotherRelease_IsIgnored(t *testing.T) {
	channel := "stable"
	got, _ := ask(t, server(t, &channel), "PUT", "/1.0/config", `{"config":{"channel":"testing"},"state":{"whatever":{"x":1}}}`)
	if got.Code != 200 || channel != "testing" {
		t.Errorf("got %+v, channel %q", got, channel)
	}
}

// Two administrators who edit the same thing: the second is told, not overwritten.
func TestPut_ChangedSinceRead_IsRefused(t *testing.T) {
	channel := "stable"
	s := server(t, &channel)
	_, headers := ask(t, s, "GET", "/1.0/config", "")
	tag := headers.Get("ETag")
	// sha256sum of {"channel":"stable","windows":null,"extra":null}
	if tag != `"c175f7fc853b14064747c0c93e1fdb51d9db739345ea5b63c8c249eaeabdbf4e"` {
		t.Fatalf("got ETag %q", tag)
	}
	body := `{"config":{"channel":"testing"}}`
	if got, _ := ask(t, s, "PUT", "/1.0/config", body, "If-Match", tag); got.Code != 200 {
		t.Fatalf("first: %+v", got)
	}
	got, _ := ask(t, s, "PUT", "/1.0/config", `{"config":{"channel":"other"}}`, "If-Match", tag)
	want := answer{412, "error", "/1.0/config has changed since it was read: read it again, then send the change", "null"}
	if diff := cmp.Diff(want, got); diff != "" || channel != "testing" {
		t.Errorf("channel %q, %s", channel, diff)
	}
}

// What comes over the network through an application must not reach internal routes, and
// gets paths that work there.
func TestServe_ThroughAnApplication_HasPrefixAndNoInternalRoutes(t *testing.T) {
	channel := ""
	s := server(t, &channel)
	cases := []struct {
		method, path, header string
		want                 answer
	}{
		{"GET", "/1.0", "/os", answer{200, "sync", "", `["/os/1.0/things/a","/os/1.0/things/b"]`}},
		{"POST", "/internal/:write", "/os", answer{403, "error", "/internal/:write can only be called on the node's own socket", "null"}},
		{"POST", "/internal/:write", "", answer{403, "error", "/internal/:write can only be called on the node's own socket", "null"}},
		{"GET", "/internal/nothing", "/os", answer{403, "error", "/internal/nothing can only be called on the node's own socket", "null"}},
		{"GET", "/1.0", "http://evil/", answer{400, "error", `header X-IncusOS-Proxy: "http://evil" is not a path`, "null"}},
	}
	for _, c := range cases {
		got, _ := ask(t, s, c.method, c.path, "", httpapi.ProxyHeader, c.header)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s with %q: %s", c.method, c.path, c.header, diff)
		}
	}
	if got, _ := ask(t, s, "POST", "/internal/:write", ""); got.Code != 200 {
		t.Errorf("on the socket: %+v", got)
	}
}

func TestServe_RawAnswer_IsNotInTheEnvelope(t *testing.T) {
	channel := ""
	recorder := httptest.NewRecorder()
	server(t, &channel).ServeHTTP(recorder, httptest.NewRequest("GET", "/1.0/things/a/download", nil))
	if recorder.Header().Get("Content-Type") != "application/gzip" || recorder.Body.String() != "bytes" {
		t.Errorf("got %v %q", recorder.Header(), recorder.Body)
	}
}

// Work behind an answer must begin only when the answer is out.
func TestServe_After_RunsBehindTheAnswer(t *testing.T) {
	recorder := httptest.NewRecorder()
	done := make(chan int, 1)
	s, err := httpapi.New(context.Background(), []httpapi.Route{{Method: "POST", Path: "/x", Doc: "x",
		Handler: func(*httpapi.Request) (any, error) {
			return httpapi.After{Do: func(context.Context) { done <- recorder.Body.Len() }}, nil
		}}}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	s.ServeHTTP(recorder, httptest.NewRequest("POST", "/x", nil))
	if sent := <-done; sent == 0 || recorder.Code != 200 {
		t.Errorf("the work began with %d bytes sent, code %d", sent, recorder.Code)
	}
}

func TestNew_TableWithAMistake_IsRefused(t *testing.T) {
	ok := func(*httpapi.Request) (any, error) { return nil, nil }
	for name, routes := range map[string][]httpapi.Route{
		"twice":      {{Method: "GET", Path: "/a", Doc: "a", Handler: ok}, {Method: "GET", Path: "/a", Doc: "a", Handler: ok}},
		"no doc":     {{Method: "GET", Path: "/a", Handler: ok}},
		"no handler": {{Method: "GET", Path: "/a", Doc: "a"}},
		"method":     {{Method: "PATCH", Path: "/a", Doc: "a", Handler: ok}},
		"path":       {{Method: "GET", Path: "a", Doc: "a", Handler: ok}},
	} {
		if _, err := httpapi.New(context.Background(), routes, quiet()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// No body may bring the node down, and what is let through is what Go decodes.
func FuzzServe_AnyBody_AnswersInTheEnvelope(f *testing.F) {
	for _, seed := range []string{`{"config":{"channel":"a"}}`, `{"config":{"windows":[{"start_hour":1}]}}`, `[[[`, `{"a":{"a":`, "\xff", `{"config":null}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		channel := ""
		s := server(t, &channel)
		if got, _ := ask(t, s, "POST", "/1.0/check", body); got.Code != 200 && got.Code != 400 {
			t.Errorf("got %+v", got)
		}
	})
}

// What is observed changes all the time; what a PUT replaces does not.
func TestTagged_ETagIsThatOfTheConfiguration(t *testing.T) {
	reads, kept := 0, "one"
	s, err := httpapi.New(context.Background(), []httpapi.Route{
		{Method: "GET", Path: "/1.0/thing", Doc: "thing", Handler: func(*httpapi.Request) (any, error) {
			reads++
			return httpapi.Tagged{Answer: map[string]any{"config": kept, "state": reads}, Tag: kept}, nil
		}},
		{Method: "PUT", Path: "/1.0/thing", Doc: "thing", Request: configBody{}, OwnMatch: true, Handler: func(r *httpapi.Request) (any, error) {
			if err := r.Match(); err != nil {
				return nil, err
			}
			kept = httpapi.Body[configBody](r).Channel
			return nil, nil
		}},
	}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, match, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/1.0/thing", strings.NewReader(body))
		if match != "" {
			r.Header.Set("If-Match", match)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	first, second := do("GET", "", ""), do("GET", "", "")
	tag := first.Header().Get("ETag")
	if tag == "" || tag != second.Header().Get("ETag") {
		t.Errorf("tags %q and %q", tag, second.Header().Get("ETag"))
	}
	codes := []int{do("PUT", tag, `{"channel":"two"}`).Code, do("PUT", tag, `{"channel":"three"}`).Code}
	if diff := cmp.Diff([]int{200, 412}, codes); diff != "" || kept != "two" {
		t.Errorf("kept %q\n%s", kept, diff)
	}
}

func TestObserve_IsToldWhoCameFromWhereAndWithWhatOutcome(t *testing.T) {
	channel := "stable"
	s := server(t, &channel)
	type told struct {
		Route, Caller, From string
		Code                int
	}
	var got []told
	s.Observe = func(seen httpapi.Seen) {
		path := ""
		if seen.Route != nil {
			path = seen.Route.Path
		}
		got = append(got, told{path, seen.Caller, seen.From, seen.Code})
	}
	local := httptest.NewRequest("GET", "/1.0/things/a", nil)
	proxied := httptest.NewRequest("POST", "/internal/:write", nil)
	proxied.Header.Set(httpapi.ProxyHeader, "/os")
	proxied.Header.Set("X-Forwarded-For", "spoofed, 192.0.2.7")
	known := httpapi.WithCaller(httptest.NewRequest("PUT", "/1.0/config", strings.NewReader("{")), "ab12")
	for _, r := range []*http.Request{local, proxied, known, httptest.NewRequest("GET", "/nothing", nil)} {
		s.ServeHTTP(httptest.NewRecorder(), r)
	}
	want := []told{
		{"/1.0/things/{name}", "local", "", 200},
		{"", "application", "192.0.2.7", 403},
		{"/1.0/config", "ab12", "", 400},
		{"", "local", "", 404},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAsync_IsAnEnvelopeThatNamesTheOperation(t *testing.T) {
	s, err := httpapi.New(context.Background(), []httpapi.Route{
		{Method: "POST", Path: "/1.0/work", Doc: "work", Handler: func(*httpapi.Request) (any, error) {
			return httpapi.Async{Path: "/1.0/operations/x", Answer: map[string]string{"id": "x"}}, nil
		}},
		{Method: "GET", Path: "/1.0/stream", Doc: "stream", Handler: func(*httpapi.Request) (any, error) {
			return httpapi.Stream(func(w http.ResponseWriter, _ *http.Request) error {
				w.WriteHeader(http.StatusTeapot)
				return nil
			}), nil
		}},
	}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/1.0/work", nil))
	want := `{"type":"async","status":"Operation created","status_code":100,"operation":"/1.0/operations/x","error_code":0,"error":"","metadata":{"id":"x"}}`
	if w.Code != 202 || strings.TrimSpace(w.Body.String()) != want || w.Header().Get("Location") != "/1.0/operations/x" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/1.0/stream", nil))
	if w.Code != http.StatusTeapot {
		t.Errorf("code %d", w.Code)
	}
}

// The envelope that is written around metadata is the one of the type, byte for byte.
func TestEnvelope_OfAFinishedRequest_IsThatOfItsType(t *testing.T) {
	channel := "stable"
	w := httptest.NewRecorder()
	server(t, &channel).ServeHTTP(w, httptest.NewRequest("GET", "/1.0/things/a", nil))
	want, err := json.Marshal(osapi.Response{Type: "sync", Status: "Success", StatusCode: 200, Metadata: json.RawMessage(`{"name":"a"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want)+"\n", w.Body.String()); diff != "" {
		t.Error(diff)
	}
}

// A caller that goes away does not end the change that it asked for; its number may come
// when the request is over, and must not meet the observer.
func TestMade_AfterTheAnswer_DoesNotMeetTheObserver(t *testing.T) {
	answered, said := make(chan struct{}), make(chan struct{})
	s, err := httpapi.New(context.Background(), []httpapi.Route{
		{Method: "POST", Path: "/1.0/work", Doc: "work", Handler: func(r *httpapi.Request) (any, error) {
			r.Made(1)
			go func() {
				<-answered
				r.Made(2)
				close(said)
			}()
			return nil, nil
		}},
	}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	changes := make(chan int, 1)
	s.Observe = func(seen httpapi.Seen) {
		close(answered)
		changes <- seen.Change
		<-said
	}
	s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/1.0/work", nil))
	if got := <-changes; got != 1 {
		t.Errorf("change %d", got)
	}
}
