// Package journal reads what the machine writes about itself: the journal, through
// journalctl, and the list of processes, through ps.
//
// What comes from a request is checked before it becomes an argument, and stands behind
// an equals sign, so that it can never be read as an option.
package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// MaxEntries is the most entries that one Read gives, and the default.
const MaxEntries = 10000

// ErrQuery is the error for a query that is wrong in itself.
var ErrQuery = errors.New("wrong query")

var (
	unitForm = regexp.MustCompile(`^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,250}$`)
	bootForm = regexp.MustCompile(`^([+-]?[0-9]{1,6}|[0-9a-f]{32}([+-][0-9]{1,6})?)$`)
	timeForm = regexp.MustCompile(`^[A-Za-z0-9@+-][A-Za-z0-9 :.,+@/_-]{0,63}$`)
)

// Query chooses entries. The zero value is the last MaxEntries of the running boot.
type Query struct {
	// Unit is a unit, as "incus.service"; default all.
	Unit string
	// Boot is a number relative to the running boot, as "-1", or a boot ID of 32
	// hexadecimal digits; default the running boot.
	Boot string
	// Entries is how many of the newest; default and maximum MaxEntries.
	Entries int
	// Since and Until are times of systemd.time(7), as "2026-11-22 01:02:03" or "-1h";
	// default without limit.
	Since string
	Until string
}

// Args gives the arguments of journalctl, or an error that wraps ErrQuery and names what
// is wrong.
func (q Query) Args() ([]string, error) {
	args := []string{"--output=json", "--no-pager", "--quiet"}
	if q.Entries < 0 {
		return nil, fmt.Errorf("%w: entries %d is negative", ErrQuery, q.Entries)
	}
	entries := q.Entries
	if entries == 0 || entries > MaxEntries {
		entries = MaxEntries
	}
	args = append(args, "--lines="+strconv.Itoa(entries))
	boot := q.Boot
	if boot == "" {
		boot = "0"
	}
	for _, part := range []struct {
		name, value, option string
		form                *regexp.Regexp
		example             string
	}{
		{"unit", q.Unit, "--unit=", unitForm, "incus.service"},
		{"boot", boot, "--boot=", bootForm, "-1"},
		{"since", q.Since, "--since=", timeForm, "2026-11-22 01:02:03"},
		{"until", q.Until, "--until=", timeForm, "-10min"},
	} {
		if part.value == "" {
			continue
		}
		if !part.form.MatchString(part.value) {
			return nil, fmt.Errorf("%w: %s %q is not of the form %q", ErrQuery, part.name, part.value, part.example)
		}
		args = append(args, part.option+part.value)
	}
	return args, nil
}

// Reader runs journalctl and ps.
type Reader struct {
	// Run starts programs; on a machine run.Host.
	Run run.Runner
}

// Read gives entries of the journal, oldest first, each a JSON object as journalctl
// writes it; never nil.
func (r Reader) Read(ctx context.Context, q Query) ([]json.RawMessage, error) {
	args, err := q.Args()
	if err != nil {
		return nil, err
	}
	result, err := r.Run(ctx, run.Command{Name: "journalctl", Args: args})
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	return parse(result.Stdout)
}

func parse(text []byte) ([]json.RawMessage, error) {
	entries := []json.RawMessage{}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' || !json.Valid(line) {
			return nil, fmt.Errorf("reading the journal: entry %d is not a JSON object", len(entries)+1)
		}
		entries = append(entries, json.RawMessage(line))
	}
	return entries, nil
}

// Processes gives the tree of all processes as text.
func (r Reader) Processes(ctx context.Context) (string, error) {
	result, err := r.Run(ctx, run.Command{Name: "ps", Args: []string{"fauxww"}})
	if err != nil {
		return "", fmt.Errorf("listing the processes: %w", err)
	}
	return string(result.Stdout), nil
}
