package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/audit"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func options() audit.Options {
	return audit.Options{Now: func() time.Time { return noon }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func open(t *testing.T, dir string, o audit.Options) *audit.Log {
	t.Helper()
	files, err := audit.OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return openOn(t, files, o)
}

func openOn(t *testing.T, files audit.Files, o audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(files, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func put(path string) audit.Record {
	return audit.Record{Who: "local", Method: "PUT", Path: path, Code: 200, Duration: 1500 * time.Microsecond}
}

func add(t *testing.T, l *audit.Log, r audit.Record) osapi.AuditEntry {
	t.Helper()
	e, err := l.Add(r)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func verify(t *testing.T, l *audit.Log, first, last uint64) osapi.AuditVerification {
	t.Helper()
	v, err := l.Verify(t.Context(), first, last)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func read(t *testing.T, l *audit.Log, since uint64, limit int) osapi.Audit {
	t.Helper()
	a, err := l.Read(t.Context(), since, limit)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// names gives the files of a log.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

const (
	zeros    = "0000000000000000000000000000000000000000000000000000000000000000"
	firstLog = "audit-00000000000000000001.jsonl"
)

// An auditor checks the chain with sha256sum: the form of a line is a promise.
func TestAdd_OneEntry_IsALineThatCanBeCheckedByHand(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, options())
	got := add(t, l, audit.Record{
		Who: "sha256:ab", From: "10.0.0.1", Method: "POST", Path: "/1.0/system/:reboot",
		Query: url.Values{"force": {"1"}, "join_token": {"hunter2"}}, Code: 409, Err: errors.New("an update is running"),
		Duration: 1500 * time.Microsecond, Change: 7,
	})
	text, err := os.ReadFile(filepath.Join(dir, firstLog))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"number":1,"time":"2026-03-01T12:00:00Z","who":"sha256:ab","from":"10.0.0.1","method":"POST","path":"/1.0/system/:reboot",` +
		`"query":"force=1\u0026join_token=%28kept+secret%29","code":409,"error":"an update is running","duration_ms":1,"change":7,"prev":"` + zeros + `"`
	sum := sha256.Sum256([]byte(zeros + "\n" + body + "}"))
	want := body + `,"hash":"` + hex.EncodeToString(sum[:]) + "\"}\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	var kept osapi.AuditEntry
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kept, got); diff != "" {
		t.Errorf("what Add gives is not what is kept: %s", diff)
	}
	info, err := os.Stat(filepath.Join(dir, firstLog))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAdd_EachRequest_IsKeptOrNot(t *testing.T) {
	l := open(t, t.TempDir(), options())
	for _, c := range []struct {
		method string
		code   int
		kept   bool
	}{
		{"GET", 200, false}, {"GET", 404, false}, {"GET", 500, false}, {"HEAD", 200, false},
		{"GET", 401, true}, {"GET", 403, true}, {"HEAD", 403, true},
		{"PUT", 200, true}, {"POST", 500, true}, {"DELETE", 404, true}, {"PATCH", 501, true},
	} {
		e := add(t, l, audit.Record{Method: c.method, Code: c.code})
		if (e.Number > 0) != c.kept {
			t.Errorf("%s %d: entry %d, want it kept: %t", c.method, c.code, e.Number, c.kept)
		}
	}
}

// What a caller sends must not fill the disk, nor break the form of the log.
func TestAdd_HostileRequest_IsOneShortLine(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, options())
	long := strings.Repeat("\x00\xff\n\"", 10000)
	add(t, l, audit.Record{Who: long, From: long, Method: long, Path: long, Query: url.Values{long: {long}}, Code: 403, Err: errors.New(long)})
	add(t, l, put("/1.0"))
	text, err := os.ReadFile(filepath.Join(dir, firstLog))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines != 2 || len(text) > 32<<10 {
		t.Errorf("%d lines, %d bytes", lines, len(text))
	}
	if v := verify(t, l, 0, 0); !v.Good || v.Last != 2 {
		t.Errorf("%+v", v)
	}
	if a := read(t, l, 0, 0); len(a.Entries) != 2 || a.Damaged != 0 {
		t.Errorf("read %d entries, %d damaged", len(a.Entries), a.Damaged)
	}
}

// Somebody who knocks a thousand times must not push out what administrators did.
func TestAdd_ManyRefusals_AreCountedNotKept(t *testing.T) {
	o := options()
	now := noon
	o.Now, o.Refusals = func() time.Time { return now }, 3
	l := openOn(t, newMemory(), o)
	for range 1000 {
		add(t, l, audit.Record{Who: "nobody", Method: "GET", Path: "/1.0", Code: 403})
	}
	add(t, l, put("/1.0/system/update"))
	now = now.Add(time.Minute)
	add(t, l, audit.Record{Who: "nobody", Method: "GET", Path: "/1.0", Code: 403})
	var got []string
	for _, e := range read(t, l, 0, 0).Entries {
		got = append(got, fmt.Sprintf("%d %s %d", e.Number, e.Method, e.Skipped))
	}
	if diff := cmp.Diff([]string{"1 GET 0", "2 GET 0", "3 GET 0", "4 PUT 997", "5 GET 0"}, got); diff != "" {
		t.Error(diff)
	}
}

// Full files make room; the chain goes on across them and over restarts.
func TestRotation_SmallFiles_KeepTheLastAndTheChain(t *testing.T) {
	dir := t.TempDir()
	o := options()
	o.MaxFile, o.Keep = 800, 3
	for i := range 20 {
		l := open(t, dir, o)
		if e := add(t, l, put("/1.0/a")); e.Number != uint64(i+1) {
			t.Fatalf("entry %d, want %d", e.Number, i+1)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, o)
	// An entry takes 276 bytes or so: two fit.
	want := []string{"audit-00000000000000000015.jsonl", "audit-00000000000000000017.jsonl", "audit-00000000000000000019.jsonl", "notes.txt"}
	if diff := cmp.Diff(want, names(t, dir)); diff != "" {
		t.Error(diff)
	}
	v := verify(t, l, 0, 0)
	all := read(t, l, 0, 0)
	if !v.Good || v.First != 15 || v.Last != 20 || v.LastHash != all.Entries[5].Hash {
		t.Errorf("%+v", v)
	}
	var numbers []uint64
	for _, e := range read(t, l, 15, 3).Entries {
		numbers = append(numbers, e.Number)
	}
	if diff := cmp.Diff([]uint64{16, 17, 18}, numbers); diff != "" {
		t.Error(diff)
	}
	if v := verify(t, l, 16, 18); !v.Good || v.First != 16 || v.Last != 18 {
		t.Errorf("a part: %+v", v)
	}
}

// The power goes away at any byte of a write: the log opens, has all that was
// acknowledged, and goes on.
func TestOpen_PowerCutAtEveryByteOfAWrite_LosesThatEntryAtMost(t *testing.T) {
	source := newMemory()
	o := options()
	o.MaxFile = 900
	l := openOn(t, source, o)
	var sizes []int
	for range 4 {
		add(t, l, put("/1.0/a"))
		total := 0
		for _, text := range source.files {
			total += len(text)
		}
		sizes = append(sizes, total)
	}
	if n := len(source.files); n != 2 {
		t.Fatalf("%d files, want the fourth entry in a second one", n)
	}
	for entry := 1; entry < 4; entry++ {
		for size := sizes[entry-1]; size <= sizes[entry]; size++ {
			for _, hole := range []bool{false, true} {
				want := uint64(entry)
				if size == sizes[entry] {
					want++
					hole = false
				}
				l := openOn(t, source.cutCopy(size, hole), o)
				if l.Last() != want {
					t.Fatalf("entry %d cut at byte %d (hole: %t): %d entries are left, want %d", entry+1, size-sizes[entry-1], hole, l.Last(), want)
				}
				add(t, l, put("/1.0/after"))
				if v := verify(t, l, 0, 0); !v.Good || v.First != 1 || v.Last != want+1 {
					t.Fatalf("entry %d cut at byte %d (hole: %t): %+v", entry+1, size-sizes[entry-1], hole, v)
				}
				if a := read(t, l, 0, 0); a.Damaged != 0 || len(a.Entries) != int(want)+1 {
					t.Fatalf("entry %d cut at byte %d (hole: %t): %d lines are damaged", entry+1, size-sizes[entry-1], hole, a.Damaged)
				}
			}
		}
	}
}

// Whoever changes the record is found out, and where.
func TestVerify_EachTampering_IsFoundAtItsPlace(t *testing.T) {
	lines := func(text []byte) [][]byte { return bytes.SplitAfter(text, []byte("\n")) }
	replace := func(old, new string) func([]byte) []byte {
		return func(text []byte) []byte { return bytes.Replace(text, []byte(old), []byte(new), 1) }
	}
	cases := map[string]struct {
		tamper func([]byte) []byte
		want   osapi.AuditVerification
	}{
		"nothing":       {func(text []byte) []byte { return text }, osapi.AuditVerification{Good: true, First: 1, Last: 5}},
		"a path":        {replace("/1.0/3", "/1.0/9"), osapi.AuditVerification{First: 1, Last: 2, BrokenAt: 3, Reason: "its hash is not that of its contents"}},
		"a field more":  {replace(`"path":"/1.0/3"`, `"path":"/1.0/3","path":"/1.0/3"`), osapi.AuditVerification{First: 1, Last: 2, BrokenAt: 3, Reason: "its hash is not that of its contents"}},
		"removed":       {func(text []byte) []byte { return bytes.Join(slices.Delete(lines(text), 2, 3), nil) }, osapi.AuditVerification{First: 1, Last: 2, BrokenAt: 3, Reason: "entry 4 is in its place"}},
		"swapped":       {func(text []byte) []byte { l := lines(text); l[2], l[3] = l[3], l[2]; return bytes.Join(l, nil) }, osapi.AuditVerification{First: 1, Last: 2, BrokenAt: 3, Reason: "entry 4 is in its place"}},
		"written again": {forge, osapi.AuditVerification{First: 1, Last: 3, BrokenAt: 4, Reason: "it does not follow the entry before: that one was changed, or this one"}},
		"the first":     {replace(zeros, "1"+zeros[1:]), osapi.AuditVerification{BrokenAt: 1, Reason: "it does not follow the entry before: that one was changed, or this one"}},
		"overwritten":   {replace(`{"number":2`, `garbagexxxx`), osapi.AuditVerification{First: 1, Last: 1, BrokenAt: 2, Reason: "the line is not an entry: invalid character 'g' looking for beginning of value"}},
		"cut short":     {func(text []byte) []byte { return bytes.Join(lines(text)[:3], nil) }, osapi.AuditVerification{First: 1, Last: 3, BrokenAt: 4, Reason: "the log ends before it"}},
		"emptied":       {func([]byte) []byte { return nil }, osapi.AuditVerification{BrokenAt: 1, Reason: "the log ends before it"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, options())
			hashes := []string{""}
			for i := range 5 {
				hashes = append(hashes, add(t, l, put(fmt.Sprintf("/1.0/%d", i+1))).Hash)
			}
			path := filepath.Join(dir, firstLog)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.tamper(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if !c.want.Good {
				c.want.File = firstLog
			}
			got := verify(t, l, 0, 0)
			c.want.LastHash = hashes[got.Last]
			if name == "written again" {
				c.want.LastHash = got.LastHash
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("its file is gone", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, options())
		add(t, l, put("/1.0/1"))
		if err := os.Remove(filepath.Join(dir, firstLog)); err != nil {
			t.Fatal(err)
		}
		want := osapi.AuditVerification{BrokenAt: 1, File: firstLog, Reason: "its file is gone"}
		if diff := cmp.Diff(want, verify(t, l, 0, 0)); diff != "" {
			t.Error(diff)
		}
	})
}

// forge changes the third entry and gives it a hash that fits.
func forge(text []byte) []byte {
	lines := strings.SplitAfter(string(text), "\n")
	body := strings.Replace(lines[2][:strings.Index(lines[2], `,"hash"`)], "/1.0/3", "/1.0/9", 1)
	var e osapi.AuditEntry
	if err := json.Unmarshal([]byte(lines[2]), &e); err != nil {
		panic(err)
	}
	lines[2] = fmt.Sprintf("%s,\"hash\":\"%x\"}\n", body, sha256.Sum256([]byte(e.Prev+"\n"+body+"}")))
	return []byte(strings.Join(lines, ""))
}

// Damage in the middle does not keep the rest from being read, nor the log from going on.
func TestOpen_DamageInTheMiddle_StaysForVerify(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, options())
	for range 4 {
		add(t, l, put("/1.0/a"))
	}
	path := filepath.Join(dir, firstLog)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte(`{"number":2`))
	huge := append(bytes.Repeat([]byte("x"), 100<<10), '\n')
	if err := os.WriteFile(path, slices.Concat(text[:at], huge, text[at:]), 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, options())
	if e := add(t, again, put("/1.0/b")); e.Number != 5 {
		t.Errorf("entry %d", e.Number)
	}
	if a := read(t, again, 0, 0); len(a.Entries) != 5 || a.Damaged != 1 || a.Last != 5 {
		t.Errorf("%d entries, %d damaged, last %d", len(a.Entries), a.Damaged, a.Last)
	}
	want := osapi.AuditVerification{First: 1, Last: 1, BrokenAt: 2, File: firstLog, Reason: "the line is not an entry"}
	got := verify(t, again, 0, 0)
	got.LastHash = ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if v := verify(t, again, 4, 0); !v.Good || v.First != 4 || v.Last != 5 {
		t.Errorf("behind the damage: %+v", v)
	}
}

func TestRead_EachLimit_IsKept(t *testing.T) {
	l := openOn(t, newMemory(), options())
	if diff := cmp.Diff(osapi.Audit{Entries: []osapi.AuditEntry{}}, read(t, l, 0, 10)); diff != "" {
		t.Errorf("an empty log: %s", diff)
	}
	if diff := cmp.Diff(osapi.AuditVerification{Good: true}, verify(t, l, 0, 0)); diff != "" {
		t.Errorf("an empty log: %s", diff)
	}
	for range 1005 {
		add(t, l, put("/1.0/a"))
	}
	for limit, want := range map[int]int{-1: 100, 0: 100, 1: 1, 1000: 1000, 1 << 30: 1000} {
		if n := len(read(t, l, 0, limit).Entries); n != want {
			t.Errorf("limit %d: %d entries, want %d", limit, n, want)
		}
	}
	for since, want := range map[uint64]int{1004: 1, 1005: 0, 1 << 63: 0, ^uint64(0): 0} {
		if n := len(read(t, l, since, 10).Entries); n != want {
			t.Errorf("since %d: %d entries, want %d", since, n, want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Read(gone, 0, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone: %v", err)
	}
	if _, err := l.Verify(gone, 0, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone: %v", err)
	}
}

// Each entry is in the journal with its hash, so that a log cut off at its end shows.
func TestAdd_EachEntry_IsInTheLogOfTheNode(t *testing.T) {
	var text bytes.Buffer
	o := options()
	o.Log = slog.New(slog.NewJSONHandler(&text, nil))
	e := add(t, open(t, t.TempDir(), o), put("/1.0/a"))
	var got struct {
		Number uint64
		Hash   string
		Path   string
	}
	if err := json.Unmarshal(text.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Number != 1 || got.Hash != e.Hash || got.Path != "/1.0/a" {
		t.Errorf("got %s", &text)
	}
}

// 64 callers at the same time, under the race detector.
func TestLog_ManyCallers_MakeOneChain(t *testing.T) {
	o := options()
	o.MaxFile, o.Keep = 4<<10, 1000
	l := open(t, t.TempDir(), o)
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			for range 4 {
				if _, err := l.Add(put(fmt.Sprint("/1.0/", i))); err != nil {
					t.Error(err)
				}
				if v, err := l.Verify(context.Background(), 0, 0); err != nil || !v.Good {
					t.Errorf("%+v, %v", v, err)
				}
				if a, err := l.Read(context.Background(), 0, 10); err != nil || len(a.Entries) == 0 {
					t.Errorf("%d entries, %v", len(a.Entries), err)
				}
			}
		})
	}
	callers.Wait()
	if v := verify(t, l, 0, 0); !v.Good || v.First != 1 || v.Last != 256 {
		t.Errorf("%+v", v)
	}
}
