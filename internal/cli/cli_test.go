package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func testEnv(t *testing.T, stdin string) (*Env, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	stdout, stderr := &bytes.Buffer{}, &bytes.Buffer{}
	return &Env{
		Getenv: func(string) string { return "" },
		Dir:    t.TempDir(),
		Stdin:  strings.NewReader(stdin),
		Stdout: stdout,
		Stderr: stderr,
		Run:    run.Host,
	}, stdout, stderr
}

// Whoever types --help wants to see the command as it is typed.
func TestRoot_EveryCommand_HasHelpWithExample(t *testing.T) {
	env, _, _ := testEnv(t, "")
	seen := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		seen++
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		if !strings.Contains(c.Example, strings.Split(c.CommandPath(), " ")[0]+" ") {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, line := range strings.Split(c.Example, "\n") {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented by two blanks", c.CommandPath(), line)
			}
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(Root(env))
	if seen < 30 {
		t.Errorf("only %d commands were looked at", seen)
	}
}

// An example that does not work is worse than none: each one parses.
func TestRoot_EveryExample_NamesACommandAndItsFlags(t *testing.T) {
	env, _, _ := testEnv(t, "")
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, line := range strings.Split(c.Example, "\n") {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "holdfast ")
			line = strings.TrimSuffix(line, ")")
			line, _, _ = strings.Cut(line, " > ")
			line, _, _ = strings.Cut(line, " < ")
			line, _, _ = strings.Cut(line, " -- ")
			words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
			found, rest, err := Root(env).Find(words)
			if err != nil || found.HasSubCommands() {
				t.Errorf("%s: example %q: found %v, %v", c.CommandPath(), line, found, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			}
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(Root(env))
}

// Which node a command talks to must never be a surprise.
func TestOptions_FlagsLabAndEnvironment_InThisOrder(t *testing.T) {
	lab := map[string]string{"default": "https://lab:1", "two": "https://two:1"}
	for name, test := range map[string]struct {
		flags client.Options
		lab   string
		env   map[string]string
		want  client.Options
	}{
		"nothing said, a lab is there": {want: client.Options{Endpoint: "https://lab:1", CertFile: "c"}},
		"environment": {env: map[string]string{"HOLDFAST_ENDPOINT": "https://env", "HOLDFAST_KEY": "k"},
			want: client.Options{Endpoint: "https://env", KeyFile: "k"}},
		"lab named": {lab: "two", env: map[string]string{"HOLDFAST_ENDPOINT": "https://env", "HOLDFAST_KEY": "k"},
			want: client.Options{Endpoint: "https://two:1", CertFile: "c"}},
		"flag over lab": {lab: "two", flags: client.Options{CertFile: "mine"},
			want: client.Options{Endpoint: "https://two:1", CertFile: "mine"}},
		"flag alone takes nothing of the lab": {flags: client.Options{Endpoint: "https://flag"},
			want: client.Options{Endpoint: "https://flag"}},
		"flag over environment": {flags: client.Options{Endpoint: "https://flag"},
			env:  map[string]string{"HOLDFAST_ENDPOINT": "https://env", "HOLDFAST_CERT": "c"},
			want: client.Options{Endpoint: "https://flag", CertFile: "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			env, _, _ := testEnv(t, "")
			env.Getenv = func(key string) string { return test.env[key] }
			root := env.Dir
			for lab, endpoint := range lab {
				dir := filepath.Join(root, ".lab", lab)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				text := "# a comment\n\nHOLDFAST_ENDPOINT=" + endpoint + "\nHOLDFAST_CERT=\"c\"\n"
				if err := os.WriteFile(filepath.Join(dir, "env"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			env.Dir = filepath.Join(root, "docs", "how-to") // found from below, too
			got, err := (&connection{env: env, flags: test.flags, lab: test.lab}).options()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A node that was taken over must not be able to type into the admin's terminal.
func TestPrintView_ControlCharacters_AreDropped(t *testing.T) {
	var b bytes.Buffer
	err := printView(&b, view{
		fields: []field{{"Name", "a\x1b[2Jb\u009b1mc"}, {"Empty", ""}},
		tables: []table{{title: "List", head: []string{"X", "Y"}, rows: [][]string{{"1\n2", "z"}}}, {title: "Void"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "Name:   a[2Jb1mc\nEmpty:  -\n\nList:\nX    Y\n1 2  z\n\nVoid:\nnone\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// What `show -f yaml` writes, `edit` reads back as the same.
func TestConvert_JSONToYAMLAndBack_IsTheSame(t *testing.T) {
	for _, text := range []string{
		`{"a":"yes","b":"1.0","c":"0o17","d":"null","e":"~","f":"","g":"x: y # z","h":"two\nlines\n"}`,
		`{"big":18446744073709551615,"float":1.5,"null":null,"bool":true,"list":[],"map":{},"deep":[[1],{"k":[false]}]}`,
		`{"emoji":"😀","quote":"\"'","time":"2026-11-22T01:30:00Z"}`,
	} {
		asYAML, err := jsonToYAML([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		back, err := yamlToJSON(asYAML)
		if err != nil {
			t.Fatalf("%s\n%s", err, asYAML)
		}
		one, err := flatten([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		two, err := flatten(back)
		if err != nil {
			t.Fatal(err)
		}
		less := func(a, b field) bool { return a.name < b.name }
		if diff := cmp.Diff(sorted(one, less), sorted(two, less), cmp.AllowUnexported(field{})); diff != "" {
			t.Errorf("%s\n%s\n%s", text, asYAML, diff)
		}
	}
}

func sorted(fields []field, less func(a, b field) bool) []field {
	for i := range fields {
		for j := i; j > 0 && less(fields[j], fields[j-1]); j-- {
			fields[j], fields[j-1] = fields[j-1], fields[j]
		}
	}
	return fields
}

// Only a clear yes stops a service; anything else, also no answer, leaves it alone.
func TestAsk_Answer_DecidesAlone(t *testing.T) {
	for answer, want := range map[string]string{
		"y\n":   "",
		"YES\n": "",
		"y":     "",
		"\n":    "not confirmed, nothing was done",
		"":      "not confirmed, nothing was done",
		"no\n":  "not confirmed, nothing was done",
		"yup\n": "not confirmed, nothing was done",
	} {
		env, _, stderr := testEnv(t, answer)
		env.StdinTerminal = true
		got := ""
		if err := ask(env, "Remove application %s?", []string{"de\x1bbug"}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", answer, got, want)
		}
		if stderr.String() != "Remove application debug? [y/N] " {
			t.Errorf("asked %q", stderr)
		}
	}
}

// The journal has four ways to write a field; a log with a hole is no log.
func TestPrintLog_EverySpellingOfAField_IsShown(t *testing.T) {
	env, stdout, _ := testEnv(t, "")
	err := printLog(&connection{env: env}, []json.RawMessage{
		json.RawMessage(`{"__REALTIME_TIMESTAMP":"1795309200123456","_SYSTEMD_UNIT":"a.service","MESSAGE":"one\ntwo"}`),
		json.RawMessage(`{"__REALTIME_TIMESTAMP":"x","SYSLOG_IDENTIFIER":["b","c"],"_PID":"1","MESSAGE":[104,105,255]}`),
		json.RawMessage(`{"MESSAGE":null}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "2026-11-22 01:00:00.123 a.service: one\n2026-11-22 01:00:00.123 a.service: two\n b c[1]: hi?\n : \n"
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Error(diff)
	}
}

// Sizes are read at a glance, and never by a factor of a thousand wrong.
func TestBytesText_Sizes_InBinaryUnits(t *testing.T) {
	got := map[uint64]string{}
	for _, n := range []uint64{0, 1023, 1024, 1536, 1 << 30, 20 << 30, 1<<64 - 1} {
		got[n] = bytesText(n)
	}
	want := map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB",
		20 << 30: "20.0 GiB", 1<<64 - 1: "16.0 EiB"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Ctrl-C is no error to explain, and still no success.
func TestRun_Cancelled_EndsWithError(t *testing.T) {
	env, _, stderr := testEnv(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code := Run(ctx, []string{"node", "show", "--endpoint", "https://127.0.0.1:1"}, *env)
	if code != ExitError || strings.Contains(stderr.String(), "try:") {
		t.Errorf("code %d, %s", code, stderr)
	}
}
