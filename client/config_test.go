package client

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
)

// A plan and a trial are asked for with a word behind the question mark; a node that does
// not know the word would simply make the change.
func TestPlan_NodeThatKnowsNoPlans_IsNotSentTheChange(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Client) error{
		"plan": func(ctx context.Context, c *Client) error {
			_, err := c.PlanSection(ctx, SectionNetwork, api.NetworkConfig{}, "")
			return err
		},
		"trial": func(ctx context.Context, c *Client) error {
			return c.SetSection(ctx, SectionNetwork, api.NetworkConfig{}, ChangeOptions{ConfirmWithin: time.Minute})
		},
		"rollback on trial": func(ctx context.Context, c *Client) error {
			_, err := c.Rollback(ctx, 1, time.Minute)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, seen := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/system/config") {
					w.WriteHeader(http.StatusNotFound)
					fmt.Fprint(w, `{"type":"error","error_code":404,"error":"not found"}`)
					return
				}
				answer("{}")(w, r)
			})
			if err := call(t.Context(), c); !errors.Is(err, ErrNoPlans) {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff([]asked{{Method: "GET", Path: "/os/1.0/system/config"}}, *seen); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a change would do comes back as the node says it, and nothing but the question is
// sent.
func TestPlan_DryRun_IsAskedWithTheETag(t *testing.T) {
	const plan = `{"changes":true,"steps":[{"action":"restart-unit","object":"a.service"}],"restarts":["a.service"],"may_disconnect":true}`
	c, seen := serve(t, answer(plan))
	got, err := c.PlanConfig(t.Context(), api.Configuration{}, `"x"`)
	if err != nil {
		t.Fatal(err)
	}
	want := api.Plan{Changes: true, Steps: []api.PlanStep{{Action: "restart-unit", Object: "a.service"}},
		Restarts: []string{"a.service"}, MayDisconnect: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]asked{
		{Method: "GET", Path: "/os/1.0/system/config"},
		{Method: "PUT", Path: "/os/1.0/system/config", Query: "dry-run=1", Body: `{"config":{}}`, IfMatch: `"x"`},
	}, *seen); diff != "" {
		t.Error(diff)
	}
	if got, err = c.PlanRollback(t.Context(), 3); err != nil || !cmp.Equal(want, got) {
		t.Errorf("rollback: %v, %v", got, err)
	}
	if last := (*seen)[len(*seen)-1]; last.Query != "dry-run=1" || last.Path != "/os/1.0/system/history/3/:rollback" {
		t.Errorf("asked %+v", last)
	}
}

// An answer without steps is none to trust: perhaps the change has been made.
func TestPlan_AnswerWithoutSteps_IsAnError(t *testing.T) {
	c, _ := serve(t, answer(`{}`))
	_, err := c.PlanSection(t.Context(), SectionKernel, api.KernelConfig{}, "")
	want := "the answer for /1.0/system/kernel is not a plan: see with GET /1.0/system/history whether the node has made the change"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestChange_TimeToConfirm_IsSentAsADuration(t *testing.T) {
	c, seen := serve(t, answer(`{}`))
	err := c.SetSection(t.Context(), SectionKernel, map[string]any{}, ChangeOptions{ConfirmWithin: 90 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asked{Method: "PUT", Path: "/os/1.0/system/kernel", Query: "confirmation_timeout=1m30s", Body: `{"config":{}}`},
		(*seen)[len(*seen)-1]); diff != "" {
		t.Error(diff)
	}
	if err := c.SetSection(t.Context(), SectionKernel, nil, ChangeOptions{ConfirmWithin: -1}); err == nil {
		t.Error("less than nothing is sent")
	}
}

// Whoever calls AddApplication wants it to run afterwards, whichever way the node answers.
func TestSend_AsyncAnswer_IsWaitedFor(t *testing.T) {
	for name, test := range map[string]struct {
		last string
		want string
	}{
		"success": {`{"id":"op-1","status_code":200,"status":"Success"}`, ""},
		"failure": {`{"id":"op-1","description":"Installing x","status_code":400,"status":"Failure","err":"no space"}`,
			"operation op-1 (Installing x) ended with Failure: no space"},
		"cancelled": {`{"id":"op-1","description":"Installing x","status_code":401,"status":"Cancelled"}`,
			"operation op-1 (Installing x) ended with Cancelled: no reason given"},
	} {
		t.Run(name, func(t *testing.T) {
			c, seen := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.WriteHeader(http.StatusAccepted)
					fmt.Fprint(w, `{"type":"async","operation":"/os/1.0/operations/op-1","metadata":{}}`)
					return
				}
				answer(test.last)(w, r)
			})
			got := ""
			if err := c.AddApplication(t.Context(), "x"); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(asked{Method: "GET", Path: "/os/1.0/operations/op-1/wait", Query: "timeout=30"}, (*seen)[1]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A wait that the node cuts short is begun again, until the caller has enough.
func TestWaitOperation_NotAtItsEnd_AsksAgain(t *testing.T) {
	states := []string{`{"status_code":103}`, `{"id":"x","status_code":401}`}
	c, seen := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(states[0])(w, r)
		states = states[1:]
	})
	got, err := c.WaitOperation(t.Context(), "x")
	if err != nil || len(*seen) != 2 {
		t.Fatalf("%v after %d requests", err, len(*seen))
	}
	if diff := cmp.Diff(api.Operation{ID: "x", StatusCode: 401}, got); diff != "" {
		t.Error(diff)
	}
}

// The list of Incus is sorted by status; people want the order of time.
func TestOperations_ByStatus_AreInTheOrderOfTime(t *testing.T) {
	c, _ := serve(t, answer(`{"running":[{"id":"b","created_at":"2026-11-22T01:00:02Z"}],
		"success":[{"id":"c","created_at":"2026-11-22T01:00:03Z"},{"id":"a","created_at":"2026-11-22T01:00:01Z"}]}`))
	list, err := c.Operations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := ""
	for _, o := range list {
		ids += o.ID
	}
	if ids != "abc" {
		t.Errorf("got %s", ids)
	}
}

// What is no envelope is copied as it is; a refusal is still one, and nothing is endless.
func TestDownload_TextAndRefusal_AreToldApart(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
		err     string
	}{
		"text": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "up 1\n") }, "up 1\n", ""},
		"refusal": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(http.StatusNotImplemented)
			fmt.Fprint(w, `{"type":"error","error_code":501,"error":"not there yet"}`)
		}, "", "/1.0/metrics: not there yet (501)"},
		"plain refusal": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Forbidden", http.StatusForbidden) },
			"", "/1.0/metrics: Forbidden (403)"},
		"envelope": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			answer(`{}`)(w, r)
		}, "", "the answer for /1.0/metrics is not a download"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
					return
				}
			}
		}, "", "the answer for /1.0/metrics is longer than 67108864 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, test.handler)
			text, err := c.Metrics(t.Context())
			got := ""
			if err != nil {
				text, got = "", err.Error()
			}
			if diff := cmp.Diff([]string{test.want, test.err}, []string{text, got}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A bundle that breaks off is no bundle.
func TestSupportBundle_BrokenOff_IsAnError(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/gzip")
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	})
	var b bytes.Buffer
	err := c.SupportBundle(t.Context(), &b)
	var lost *ConnectError
	if !errors.As(err, &lost) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// serveHTTP2 is serve for a server that speaks HTTP/2 first, as Incus does.
func serveHTTP2(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "server.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Endpoint: server.URL, ServerCertFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Events come through a server that prefers HTTP/2, in their order, and the end of the
// stream is told from its breaking.
func TestEvents_ThroughAServerOfHTTP2_ComeInOrder(t *testing.T) {
	for name, test := range map[string]struct {
		code   websocket.StatusCode
		reason string
		end    string
	}{
		"ended":   {websocket.StatusNormalClosure, "", "EOF"},
		"stopped": {websocket.StatusGoingAway, "the node is stopping", "reading events: the node is stopping"},
	} {
		t.Run(name, func(t *testing.T) {
			query, protocol := "", ""
			c := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
				query, protocol = r.URL.RequestURI(), r.Proto
				conn, err := websocket.Accept(w, r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, text := range []string{`{"type":"logging","metadata":{"message":"one"}}`, `{"type":"lifecycle","metadata":{}}`} {
					if err := conn.Write(r.Context(), websocket.MessageText, []byte(text)); err != nil {
						t.Error(err)
					}
				}
				if err := conn.Close(test.code, test.reason); err != nil {
					t.Error(err)
				}
			})
			stream, err := c.Events(t.Context(), api.EventTypeLogging, api.EventTypeLifecycle)
			if err != nil {
				t.Fatal(err)
			}
			types := []string{}
			for err == nil {
				var event api.Event
				if event, err = stream.Next(t.Context()); err == nil {
					types = append(types, event.Type)
				}
			}
			if diff := cmp.Diff([]string{"logging", "lifecycle"}, types); diff != "" {
				t.Error(diff)
			}
			var lost *ConnectError
			if errors.As(err, &lost) {
				err = lost.Err
			}
			if err.Error() != test.end {
				t.Errorf("ended with %v, want %s", err, test.end)
			}
			if protocol != "HTTP/1.1" || query != "/os/1.0/events?type=logging%2Clifecycle" {
				t.Errorf("asked %s over %s", query, protocol)
			}
		})
	}
}

// A refusal of the stream is the node's own sentence, as with any other request.
func TestEvents_Refused_IsATypedError(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"type":"error","error_code":503,"error":"too many listeners"}`)
	})
	_, err := c.Events(t.Context())
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != 503 || refused.Message != "too many listeners" {
		t.Errorf("got %v", err)
	}
}

// Whoever has heard enough is let go, although nothing comes from the node.
func TestNext_ContextEnds_ReturnsItsError(t *testing.T) {
	c := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_, _, _ = conn.Read(r.Context()) // until the listener has gone
	})
	stream, err := c.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := stream.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_ = stream.Close() // closed by the context already
}
