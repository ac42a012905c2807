// Package stock reads what Incus' own client says: which commands there are for the
// system below, and how one ended. It is pure; the VM test brings the text and gets the
// page of the reference.
package stock

import (
	"fmt"
	"regexp"
	"strings"
)

// maxDepth is how many words a command may have; more is a loop.
const maxDepth = 8

// Row is a command with what came of it.
type Row struct{ Command, Result string }

// Commands gives all commands below one, as "system network edit", in the order of the
// help. Help is asked for the text of "--help" behind some words.
func Commands(help func(words []string) (string, error)) ([]string, error) {
	return below(nil, help)
}

func below(words []string, help func([]string) (string, error)) ([]string, error) {
	if len(words) > maxDepth {
		return nil, fmt.Errorf("reading the help of %s: a command of more than %d words", strings.Join(words, " "), maxDepth)
	}
	text, err := help(words)
	if err != nil {
		return nil, fmt.Errorf("reading the help of %q: %w", strings.Join(words, " "), err)
	}
	names := subcommands(text)
	if len(names) == 0 {
		return []string{strings.Join(words, " ")}, nil
	}
	var all []string
	for _, name := range names {
		more, err := below(append(words[:len(words):len(words)], name), help)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// subcommands are the first words of the lines below "Available Commands:".
func subcommands(help string) []string {
	var names []string
	_, list, _ := strings.Cut("\n"+help, "\nAvailable Commands:\n")
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			break
		}
		names = append(names, fields[0])
	}
	return names
}

var notYet = regexp.MustCompile(`^[A-Z]+ \S+ is not there yet: (.*)$`)

// Result says in words how a command ended, by what it wrote to standard error when it
// failed.
func Result(failed bool, stderr string) string {
	if !failed {
		return "works"
	}
	message := ""
	for line := range strings.Lines(stderr) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "Error: "); ok {
			message = text
		}
	}
	if match := notYet.FindStringSubmatch(message); match != nil {
		return "not yet: " + match[1]
	}
	return "refused: " + message
}

// Page is the page of the reference.
func Page(rows []Row) string {
	var text strings.Builder
	text.WriteString("# `incus admin os`\n\n" +
		"Every command of Incus' own client for the system below, as Debian ships it, tried on a node. \"Works\" is the client's own\n" +
		"verdict, and what the node shows afterwards; anything else is what the node answers. `edit` was given what `show` gives.\n\n" +
		"This page is written by `go test ./test/vm -run TestStockClient_EveryCommand -update`.\n\n" +
		"| command | result |\n|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(&text, "| `%s` | %s |\n", row.Command, strings.ReplaceAll(row.Result, "|", `\|`))
	}
	return text.String()
}
