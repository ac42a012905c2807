package fetch_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// badRange cuts the first answer in the middle, and answers each range with what a broken
// server would; without a range the file is right.
func badRange(answer func(w http.ResponseWriter, from int)) http.Handler {
	var mu sync.Mutex
	asked := 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked++
		first := asked == 1
		mu.Unlock()
		text := rangeOf(r)
		switch {
		case first:
			cutting(good(theFile), 200_000).ServeHTTP(w, r)
		case text == "":
			good(theFile).ServeHTTP(w, r)
		default:
			from, err := strconv.Atoi(strings.TrimSuffix(text, "-299999"))
			if err != nil {
				panic(err)
			}
			answer(w, from)
		}
	})
}

// partial sends an answer with the given Content-Range and body.
func partial(w http.ResponseWriter, contentRange string, body []byte) {
	if contentRange != "" {
		w.Header().Set("Content-Range", contentRange)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(body)
}

var badRanges = map[string]func(w http.ResponseWriter, from int){
	"ignored": func(w http.ResponseWriter, _ int) { whole(theFile).ServeHTTP(w, nil) },
	"the range before": func(w http.ResponseWriter, from int) {
		partial(w, fmt.Sprintf("bytes %d-%d/300000", from-1, 299_998), theFile[from-1:299_999])
	},
	"from the beginning": func(w http.ResponseWriter, _ int) { partial(w, "bytes 0-299999/300000", theFile) },
	"no Content-Range":   func(w http.ResponseWriter, from int) { partial(w, "", theFile[from:]) },
	"unreadable Content-Range": func(w http.ResponseWriter, from int) {
		partial(w, "bytes 5-", theFile[from:])
	},
	"another length than told": func(w http.ResponseWriter, from int) {
		partial(w, fmt.Sprintf("bytes %d-299999/300000", from), theFile[from:299_000])
	},
	"garbage": func(w http.ResponseWriter, from int) {
		partial(w, fmt.Sprintf("bytes %d-299999/300000", from), make([]byte, 300_000-from))
	},
	"not satisfiable": func(w http.ResponseWriter, _ int) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
	"another version": func(w http.ResponseWriter, from int) {
		w.Header().Set("ETag", `"v2"`)
		partial(w, fmt.Sprintf("bytes %d-299999/300000", from), make([]byte, 300_000-from))
	},
	"half of it": func(w http.ResponseWriter, from int) {
		to := min(from+30_000, 300_000)
		partial(w, fmt.Sprintf("bytes %d-%d/300000", from, to-1), theFile[from:to])
	},
	"size not known": func(w http.ResponseWriter, from int) {
		partial(w, fmt.Sprintf("bytes %d-299999/*", from), theFile[from:])
	},
}

// Fault 10: whatever a server makes of a range, the file is right in the end.
func TestFile_RangeAnsweredBadly_StillGetsTheFile(t *testing.T) {
	for name, answer := range badRanges {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, sent := w.serve("a", badRange(answer))
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				dir, path := onDisk(t)
				if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
					t.Error("the file is another")
				}
				if sent.Load() > 900_000 {
					t.Errorf("%d bytes were sent", sent.Load())
				}
			})
		})
	}
}

// Fault 10 for a reader that cannot give bytes back: right, or an error, never wrong bytes
// with io.EOF.
func TestStream_RangeAnsweredBadly_RightOrAnError(t *testing.T) {
	for name, answer := range badRanges {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, _ := w.serve("a", badRange(answer))
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				r, err := d.Stream(t.Context(), blobOf(theFile))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				data, err := io.ReadAll(r)
				if name == "garbage" {
					checkErr(t, err, fetch.ErrMismatch)
					return
				}
				if err != nil || !bytes.Equal(data, theFile) {
					t.Errorf("%d bytes, %v", len(data), err)
				}
			})
		})
	}
}

// A file that was published anew under the same name, between two requests, is noticed by
// its tag, and the old bytes are not mixed with new ones.
func TestFile_ContentChangesInTheMiddle_IsFetchedAnew(t *testing.T) {
	for _, etag := range []bool{true, false} {
		t.Run(fmt.Sprintf("tag %v", etag), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tag := func(v string) string {
					if etag {
						return v
					}
					return ""
				}
				w := newWorld(t)
				asked := []string{}
				base, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked = append(asked, r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
					if len(asked) == 1 {
						cutting(tagged(flipped(5), tag(`"old"`)), 200_000).ServeHTTP(w, r)
					}
					tagged(theFile, tag(`"new"`)).ServeHTTP(w, r)
				}))
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				dir, path := onDisk(t)
				if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
					t.Error("the file is another")
				}
				synctest.Wait()
				want := []string{" ", "bytes=200000-299999 " + tag(`"old"`), " "}
				if diff := cmp.Diff(want, asked); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// The tag of an earlier process is used again, at the mirror that gave it.
func TestFile_NextProcess_AsksWithTheTagOfTheMirrorThatGaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var asked []string
		note := func(host string, h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, host+" "+r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
				h.ServeHTTP(w, r)
			})
		}
		a, _ := w.serve("a", note("a", cutting(good(theFile), 100_000)))
		b, _ := w.serve("b", note("b", good(theFile)))
		dir, path := onDisk(t)
		limits := fetch.Limits{Attempts: 1}
		for _, mirrors := range [][]string{{a}, {a}, {b}} {
			err := w.downloader(fetch.Options{Mirrors: mirrors, Limits: limits}).File(t.Context(), blobOf(theFile), dir, "usr", nil)
			if mirrors[0] == a {
				checkErr(t, err, io.ErrUnexpectedEOF)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		want := []string{"a  ", `a bytes=100000-299999 "v1"`, "b bytes=200000-299999 "}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Error(diff)
		}
		if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
			t.Error("the file is another")
		}
	})
}

// A server that cuts every connection and knows no ranges must not be asked for the same
// beginning for ever.
func TestFile_CutsAndNoRanges_GivesUpAfterAFewTimesTheSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(4, 4*mib)
		w := newWorld(t)
		grow := int64(0)
		base, sent := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			grow += mib / 16
			cutting(whole(data), grow).ServeHTTP(w, r)
		}))
		d := w.downloader(fetch.Options{Mirrors: []string{base}, Limits: fetch.Limits{Checkpoint: mib}})
		dir, _ := onDisk(t)
		checkErr(t, d.File(t.Context(), blobOf(data), dir, "usr", nil), fetch.ErrLimit)
		if sent.Load() > 5*4*mib+mib {
			t.Errorf("%d bytes were sent", sent.Load())
		}
		if have, err := fetch.Have(dir, "usr", blobOf(data)); err != nil || have < mib {
			t.Errorf("%d bytes are left, %v", have, err)
		}
	})
}

// collect reads pieces whole.
func collect(into map[fetch.Range]string) func(fetch.Range, io.Reader) error {
	return func(r fetch.Range, from io.Reader) error {
		data, err := io.ReadAll(from)
		into[r] = string(data)
		return err
	}
}

// Chunks come as asked for, in one request each, over a line that breaks in them.
func TestRanges_CutInThePieces_GivesEachWholeAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, sent := w.serve("a", cutting(good(theFile), 30_000))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		ranges := []fetch.Range{{Offset: 0, Length: 1}, {Offset: 100_000, Length: 80_000}, {Offset: 299_999, Length: 1}, {Offset: 5, Length: 10}}
		got := map[fetch.Range]string{}
		var last fetch.Progress
		if err := d.Ranges(t.Context(), blobOf(theFile), ranges, func(p fetch.Progress) { last = p }, collect(got)); err != nil {
			t.Fatal(err)
		}
		want := map[fetch.Range]string{}
		for _, r := range ranges {
			want[r] = string(theFile[r.Offset : r.Offset+r.Length])
		}
		if !cmp.Equal(want, got) {
			t.Error("the pieces are others")
		}
		last.Rate = 0 // depends on when the line was cut
		if diff := cmp.Diff(fetch.Progress{Done: 80_012, Total: 80_012, Fetched: 80_012}, last); diff != "" || sent.Load() != 80_012 {
			t.Errorf("%d bytes were sent; progress: %s", sent.Load(), diff)
		}
	})
}

// A caller has to know that pieces cannot be had, to fetch the whole file.
func TestRanges_ServerWithoutRanges_IsErrNoRangesAndCostsNothing(t *testing.T) {
	for name, answer := range badRanges {
		if name == "half of it" || name == "garbage" || name == "size not known" {
			continue // pieces of the right length: their content is the caller's to check
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if rangeOf(r) == "0-0" {
						good(theFile).ServeHTTP(w, r)
						return
					}
					answer(w, 1000)
				}))
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				got := map[fetch.Range]string{}
				ranges := []fetch.Range{{Offset: 0, Length: 1}, {Offset: 1000, Length: 299_000}}
				checkErr(t, d.Ranges(t.Context(), blobOf(theFile), ranges, nil, collect(got)), fetch.ErrNoRanges)
				if diff := cmp.Diff(map[fetch.Range]string{{Offset: 0, Length: 1}: string(theFile[:1]), {Offset: 1000, Length: 299_000}: ""}, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// Fault 12 for chunks: a piece whose content the caller refuses comes from the next mirror,
// and when there is none the caller's own error comes back.
func TestRanges_CallerRefusesAPiece_NextMirrorIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad, _ := w.serve("bad", good(content(11, 300_000)))
		next, _ := w.serve("good", good(theFile))
		torn := errors.New("torn chunk")
		verify := func(r fetch.Range, from io.Reader) error {
			data, err := io.ReadAll(from)
			if err == nil && !bytes.Equal(data, theFile[r.Offset:r.Offset+r.Length]) {
				return fmt.Errorf("%w: %w", fetch.ErrMismatch, torn)
			}
			return err
		}
		ranges := []fetch.Range{{Offset: 10, Length: 100}, {Offset: 200, Length: 100}}
		d := w.downloader(fetch.Options{Mirrors: []string{bad, next}})
		if err := d.Ranges(t.Context(), blobOf(theFile), ranges, nil, verify); err != nil {
			t.Error(err)
		}
		only := w.downloader(fetch.Options{Mirrors: []string{bad}})
		checkErr(t, only.Ranges(t.Context(), blobOf(theFile), ranges, nil, verify), torn)
		other := errors.New("the disk is full")
		checkErr(t, d.Ranges(t.Context(), blobOf(theFile), ranges, nil, func(fetch.Range, io.Reader) error { return other }), other)
	})
}

// A piece that is not in the file is the caller's mistake.
func TestRanges_OutsideTheFile_IsRefused(t *testing.T) {
	w := newWorld(t)
	d := w.downloader(fetch.Options{Mirrors: []string{"http://a"}})
	for _, r := range []fetch.Range{{-1, 1}, {0, 0}, {0, 300_001}, {300_000, 1}, {1, 1<<63 - 1}, {1<<63 - 1, 1}} {
		checkErr(t, d.Ranges(t.Context(), blobOf(theFile), []fetch.Range{r}, nil, nil), fetch.ErrBlob)
	}
}

// What was fetched anew after wrong bytes is as good a part as any.
func TestFile_FetchedAnewAndCut_NextCallUsesTheNewPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		answers := []http.Handler{
			cutting(tagged(flipped(5), `"old"`), 200_000), good(theFile), cutting(good(theFile), 250_000), http.NotFoundHandler(), good(theFile)}
		base, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next := answers[0]
			answers = answers[1:]
			next.ServeHTTP(w, r)
		}))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		dir, path := onDisk(t)
		checkErr(t, d.File(t.Context(), blobOf(theFile), dir, "usr", nil), fetch.ErrNotFound)
		if have, err := fetch.Have(dir, "usr", blobOf(theFile)); err != nil || have != 250_000 {
			t.Errorf("%d bytes are left, %v", have, err)
		}
		if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil || !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
			t.Errorf("the next call: %v", err)
		}
	})
}

// A few failures in many pieces are no reason to give up: each piece is progress.
func TestRanges_EachPieceFailsOnce_AllCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asked := 0
		base, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked%2 == 1 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			good(theFile).ServeHTTP(w, r)
		}))
		var ranges []fetch.Range
		want := map[fetch.Range]string{}
		for i := range int64(20) {
			r := fetch.Range{Offset: 1000 * i, Length: 10}
			ranges = append(ranges, r)
			want[r] = string(theFile[r.Offset : r.Offset+10])
		}
		got := map[fetch.Range]string{}
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		if err := d.Ranges(t.Context(), blobOf(theFile), ranges, nil, collect(got)); err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(want, got) {
			t.Error("the pieces are others")
		}
	})
}

// A caller that refuses a piece unread gets its own error back: no mirror had a part in it.
func TestRanges_CallerRefusesUnread_EndsWithItsError(t *testing.T) {
	w := newWorld(t)
	d := w.downloader(fetch.Options{Mirrors: []string{"http://a"}})
	calls := 0
	err := d.Ranges(t.Context(), blobOf(theFile), []fetch.Range{{Offset: 0, Length: 1}}, nil, func(fetch.Range, io.Reader) error {
		if calls++; calls > 1 {
			return errors.New("called again")
		}
		return fetch.ErrMismatch
	})
	checkErr(t, err, fetch.ErrMismatch)
}
