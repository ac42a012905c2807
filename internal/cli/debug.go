package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

func debugCommand(n *connection) *cobra.Command {
	boot := showCommand(n, "boot", "Show the phases of the node's start and their times", "/1.0/debug/boot", as(bootView))
	boot.Example = "  holdfast node debug boot"
	debugLog := logCommand(n)
	debugLog.Example = "  holdfast node debug log -n 50"
	kernel := showCommand(n, "kernel", "Show the running kernel and its modules", "/1.0/debug/kernel", as(debugKernelView))
	kernel.Example = "  holdfast node debug kernel"
	events := showCommand(n, "event-log", "Show what was measured into the TPM at the start", "/1.0/debug/secureboot/event-log", as(eventLogView))
	events.Example = "  holdfast node debug event-log"
	return group("debug", "Look inside a node; names and shapes may change",
		"  holdfast node debug boot\n  holdfast node debug processes",
		boot, debugLog, processesCommand(n), kernel, events, secureBootUpdateCommand(n))
}

func processesCommand(n *connection) *cobra.Command {
	c := showCommand(n, "processes", "List the processes of the node", "/1.0/debug/processes",
		func(json.RawMessage) (view, error) { return view{}, nil })
	c.Example = "  holdfast node debug processes"
	structured := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if f := c.Flag("format").Value.String(); f == "json" || f == "yaml" {
			return structured(c, args)
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		text, err := node.DebugProcesses(c.Context())
		if err != nil {
			return err
		}
		return write(n.env.Stdout, []byte(cleanLines(text)))
	}
	return c
}

func logCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "log",
		Short: "Read the node's log, oldest entry first",
		Long: "Read the node's log, oldest entry first. Times are in UTC. With -f json every field of every\n" +
			"entry is shown.",
		Example: "  holdfast node log -n 50\n  holdfast node log -u incus.service -S -1h\n  holdfast node log -b -1",
		Args:    args(),
	}
	var q client.LogQuery
	f := c.Flags()
	f.StringVarP(&q.Unit, "unit", "u", "", "only this unit, as incus.service")
	f.StringVarP(&q.Boot, "boot", "b", "", "this boot: 0 is the running one, -1 the one before (default the running one)")
	f.IntVarP(&q.Entries, "entries", "n", 0, "only the newest entries, this many (default all)")
	f.StringVarP(&q.Since, "since", "S", "", "from this time on, as -1h or \"2026-11-22 01:00\"")
	f.StringVarP(&q.Until, "until", "U", "", "up to this time")
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if q.Entries < 0 {
			return usage(c, fmt.Errorf("--entries %d: less than nothing", q.Entries))
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		entries, err := node.DebugLog(c.Context(), q)
		if err != nil {
			if client.IsCode(err, http.StatusBadRequest) {
				return withTry(err, "holdfast node log --help")
			}
			return err
		}
		if out.format == "table" {
			return printLog(n, entries)
		}
		raw, err := json.Marshal(entries)
		if err != nil {
			return fmt.Errorf("encoding the log: %w", err)
		}
		return out.print(raw, as(logView))
	}
	return c
}

// journalEntry are the fields of a journal entry that a line of the log needs.
type journalEntry struct {
	Realtime   journalText `json:"__REALTIME_TIMESTAMP"`
	Identifier journalText `json:"SYSLOG_IDENTIFIER"`
	Unit       journalText `json:"_SYSTEMD_UNIT"`
	PID        journalText `json:"_PID"`
	Message    journalText `json:"MESSAGE"`
}

// journalText is the value of a journal field. The journal writes what is not UTF-8 as
// a list of bytes, a field given twice as a list, and what is too long as null.
type journalText string

// UnmarshalJSON reads any of the four spellings; bytes that are no text become "?".
func (t *journalText) UnmarshalJSON(raw []byte) error {
	var text *string
	if json.Unmarshal(raw, &text) == nil {
		if text != nil {
			*t = journalText(*text)
		}
		return nil
	}
	var numbers []uint16
	if json.Unmarshal(raw, &numbers) == nil {
		data := make([]byte, len(numbers))
		for i, n := range numbers {
			data[i] = byte(n)
		}
		*t = journalText(strings.ToValidUTF8(string(data), "?"))
		return nil
	}
	var several []journalText
	if err := json.Unmarshal(raw, &several); err != nil {
		return fmt.Errorf("neither text nor a list: %.40s", raw)
	}
	for i, one := range several {
		if i > 0 {
			*t += " "
		}
		*t += one
	}
	return nil
}

func (e journalEntry) time() string {
	micros, err := strconv.ParseInt(string(e.Realtime), 10, 64)
	if err != nil {
		return ""
	}
	return time.UnixMicro(micros).UTC().Format("2006-01-02 15:04:05.000")
}

func printLog(n *connection, entries []json.RawMessage) error {
	var b strings.Builder
	for i, raw := range entries {
		var e journalEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return withTry(fmt.Errorf("log entry %d: %w", i+1, err), "holdfast node log -f json")
		}
		who := string(cmp.Or(e.Identifier, e.Unit))
		if e.PID != "" {
			who += "[" + string(e.PID) + "]"
		}
		for _, line := range strings.Split(strings.TrimRight(string(e.Message), "\n"), "\n") {
			fmt.Fprintf(&b, "%s %s: %s\n", e.time(), clean(who), clean(line))
		}
	}
	return write(n.env.Stdout, []byte(b.String()))
}

func logView(entries []journalEntry) view {
	t := table{head: []string{"TIME", "UNIT", "IDENTIFIER", "PID", "MESSAGE"}}
	for _, e := range entries {
		t.rows = append(t.rows, []string{e.time(), string(e.Unit), string(e.Identifier), string(e.PID), string(e.Message)})
	}
	return view{tables: []table{t}}
}
