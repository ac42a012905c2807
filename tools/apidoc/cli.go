package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const cliIntro = `# The commands of holdfast

Each command tells the same with ` + "`--help`" + `. An error is one line ` + "`error: ...`" + ` on stderr, followed where there is one by a
line ` + "`try: ...`" + ` with the way on. The exit code is 0, 1 for an error, 2 for a command line that makes no sense,
and 3 from config diff when the node differs.

`

// cliPage describes a tree of commands; what is hidden, and cobra's own commands for
// each shell, is left out.
func cliPage(root *cobra.Command) []byte {
	var b strings.Builder
	b.WriteString(comment() + cliIntro)
	commands := commandsOf(root)
	rows := make([][]string, 0, len(commands))
	for _, c := range commands {
		rows = append(rows, []string{fmt.Sprintf("[`%s`](#%s)", c.CommandPath(), anchor(c.CommandPath())), escape(c.Short)})
	}
	b.WriteString(markdownTable([]string{"command", "what it does"}, rows, 2))
	for _, c := range commands {
		b.WriteString("\n" + commandSection(c))
	}
	return []byte(b.String())
}

// commandsOf gives the commands in the order of their names, each before its children.
func commandsOf(c *cobra.Command) []*cobra.Command {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	found := []*cobra.Command{c}
	if c.Name() == "completion" {
		return found
	}
	for _, child := range c.Commands() {
		found = append(found, commandsOf(child)...)
	}
	return found
}

func commandSection(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", c.CommandPath())
	help := c.Long
	if help == "" {
		help = sentence(c.Short)
	}
	fmt.Fprintf(&b, "%s\n", plainText(help))
	if c.Runnable() && !c.HasSubCommands() {
		fmt.Fprintf(&b, "\n```\n%s\n```\n", c.UseLine())
	}
	if len(c.Aliases) > 0 {
		fmt.Fprintf(&b, "\nAlso: `%s`\n", strings.Join(c.Aliases, "`, `"))
	}
	b.WriteString(flagTable(c.NonInheritedFlags()))
	if parent := flagOwner(c); parent != nil {
		fmt.Fprintf(&b, "\nFlags of [`%s`](#%s) belong to it too.\n", parent.CommandPath(), anchor(parent.CommandPath()))
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n\n```\n%s\n```\n", unindent(c.Example))
	}
	return b.String()
}

// plainText keeps a help text from being read as Markdown. Indented lines are left: they
// are code in both.
func plainText(text string) string {
	return strings.NewReplacer("<", "&lt;", "*", `\*`).Replace(strings.TrimSpace(text))
}

func unindent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}

// flagOwner is the nearest command above that has flags for those below it.
func flagOwner(c *cobra.Command) *cobra.Command {
	for parent := c.Parent(); parent != nil; parent = parent.Parent() {
		if parent.PersistentFlags().HasAvailableFlags() {
			return parent
		}
	}
	return nil
}

func flagTable(flags *pflag.FlagSet) string {
	var rows [][]string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "`--" + f.Name
		if kind != "" {
			name += " " + strings.ToUpper(kind)
		}
		name += "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		rows = append(rows, []string{name, escape(usage), flagDefault(f)})
	})
	if len(rows) == 0 {
		return ""
	}
	return "\n" + markdownTable([]string{"flag", "meaning", "default"}, rows, 2)
}

// flagDefault leaves out what means "not given".
func flagDefault(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "[]", "0s":
		return ""
	}
	return "`" + strings.Trim(f.DefValue, "[]") + "`"
}
