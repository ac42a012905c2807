package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

var formats = []string{"table", "json", "yaml", "csv"}

// view is an answer as people read it: first fields, then tables.
type view struct {
	fields []field
	tables []table
}

type field struct{ name, value string }

type table struct {
	// title stands above the table; a view with several tables needs it.
	title string
	head  []string
	rows  [][]string
}

// output prints answers in the format of the flag -f.
type output struct {
	env    *Env
	format string
}

// addFormat gives c the flag -f.
func addFormat(env *Env, c *cobra.Command) *output { return addFormats(env, c, formats...) }

// addFormats is addFormat with the formats that c knows; the first is the default.
func addFormats(env *Env, c *cobra.Command, formats ...string) *output {
	o := &output{env: env}
	last := len(formats) - 1
	c.Flags().StringVarP(&o.format, "format", "f", formats[0], strings.Join(formats[:last], ", ")+" or "+formats[last])
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return formats, cobra.ShellCompDirectiveNoFileComp
	}
	if err := c.RegisterFlagCompletionFunc("format", complete); err != nil {
		panic(err) // the flag was added a line above
	}
	check := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		for _, f := range formats {
			if o.format == f {
				if check != nil {
					return check(c, args)
				}
				return nil
			}
		}
		return usage(c, fmt.Errorf("format %q: want %s", o.format, strings.Join(formats, ", ")))
	}
	return o
}

// print writes one answer. The view is asked for only where it is shown.
func (o *output) print(raw json.RawMessage, toView func(json.RawMessage) (view, error)) error {
	switch o.format {
	case "json":
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return fmt.Errorf("the node's answer: %w", err)
		}
		b.WriteByte('\n')
		return write(o.env.Stdout, b.Bytes())
	case "yaml":
		text, err := jsonToYAML(raw)
		if err != nil {
			return fmt.Errorf("the node's answer: %w", err)
		}
		return write(o.env.Stdout, text)
	}
	v, err := toView(raw)
	if err != nil {
		return err
	}
	if o.format == "csv" {
		return o.printCSV(raw, v)
	}
	return printView(o.env.Stdout, v)
}

// printCSV writes a list as its table, and anything else as one line for each value.
func (o *output) printCSV(raw json.RawMessage, v view) error {
	w := csv.NewWriter(o.env.Stdout)
	if len(v.fields) == 0 && len(v.tables) == 1 {
		head := make([]string, len(v.tables[0].head))
		for i, h := range v.tables[0].head {
			head[i] = strings.ReplaceAll(strings.ToLower(h), " ", "_")
		}
		if err := w.Write(head); err != nil {
			return err
		}
		return w.WriteAll(v.tables[0].rows)
	}
	fields, err := flatten(raw)
	if err != nil {
		return err
	}
	if err := w.Write([]string{"path", "value"}); err != nil {
		return err
	}
	for _, f := range fields {
		if err := w.Write([]string{f.name, f.value}); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

func printView(out io.Writer, v view) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, f := range v.fields {
		fmt.Fprintf(w, "%s:\t%s\n", f.name, cell(f.value))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range v.tables {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if t.title != "" {
			fmt.Fprintf(&b, "%s:\n", t.title)
		}
		if len(t.rows) == 0 && t.title != "" {
			b.WriteString("none\n")
			continue
		}
		fmt.Fprintln(w, strings.Join(t.head, "\t"))
		for _, row := range t.rows {
			cells := make([]string, len(row))
			for i, c := range row {
				cells[i] = cell(c)
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return write(out, trimLines(b.Bytes()))
}

// trimLines drops the blanks that alignment leaves at the end of lines.
func trimLines(text []byte) []byte {
	lines := bytes.Split(text, []byte("\n"))
	for i, line := range lines {
		lines[i] = bytes.TrimRight(line, " ")
	}
	return bytes.Join(lines, []byte("\n"))
}

// cell is one value of a table; nothing is shown as "-".
func cell(text string) string {
	if text = clean(text); text == "" {
		return "-"
	}
	return text
}

func write(w io.Writer, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// as makes a view of a typed answer.
func as[T any](f func(T) view) func(json.RawMessage) (view, error) {
	return func(raw json.RawMessage) (view, error) {
		value, err := decoded[T](raw)
		if err != nil {
			return view{}, err
		}
		return f(value), nil
	}
}

// decoded reads a part of a node's answer.
func decoded[T any](raw json.RawMessage) (T, error) {
	var value T
	if err := json.Unmarshal(raw, &value); err != nil {
		return value, fmt.Errorf("the node's answer: %w", err)
	}
	return value, nil
}

// asPaths shows an answer whose shape is not ours as one line for each value.
func asPaths(raw json.RawMessage) (view, error) {
	fields, err := flatten(raw)
	return view{fields: fields}, err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// bytesText is a size for people: binary units, one decimal.
func bytesText(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < 5 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
