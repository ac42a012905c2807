package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The pages whose examples are run, as a person who follows the page would.
var pages = []string{"change-the-network", "undo-a-change", "keep-the-configuration-in-git", "see-who-changed-what"}

// newAddress is where the node of the pages is after its address was changed.
const newAddress = "https://192.0.2.20:8443"

// A page that shows what no longer works, or what is no longer answered, is worse than none.
func TestHowTo_EveryExample_AnswersAsThePageSays(t *testing.T) {
	dir := t.TempDir()
	var scripts []string
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", "how-to", page+".md"))
		if err != nil {
			t.Fatal(err)
		}
		script, err := pageScript(string(text))
		if err != nil {
			t.Fatalf("%s: %v", page, err)
		}
		file := filepath.Join(dir, page+".txtar")
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, file)
	}
	testscript.Run(t, testscript.Params{Files: scripts, Setup: startNode})
}

// example is a command of a page with what it prints.
type example struct{ command, output string }

// pageExamples are the commands of a page, in order: the lines after "$ " in blocks of the
// kind "console". A command that ends with a backslash goes on in the next line.
func pageExamples(page string) ([]example, error) {
	var all []example
	inside, open := false, false
	for number, line := range strings.Split(page, "\n") {
		command, isCommand := strings.CutPrefix(line, "$ ")
		last := len(all) - 1
		switch {
		case strings.HasPrefix(line, "```"):
			inside, open = line == "```console", false
		case !inside:
		case isCommand:
			all = append(all, example{command: command})
			open = strings.HasSuffix(command, `\`)
		case last < 0:
			return nil, fmt.Errorf("line %d: output without a command", number+1)
		case open:
			all[last].command += "\n" + line
			open = strings.HasSuffix(line, `\`)
		default:
			all[last].output += line + "\n"
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no examples")
	}
	return all, nil
}

// pageScript is a page as a script: its commands run in one shell, and each must end well
// and print what the page says. The first `cat FILE` of a file that no command made says
// what is in it.
func pageScript(page string) (string, error) {
	examples, err := pageExamples(page)
	if err != nil {
		return "", err
	}
	var script, shell, files strings.Builder
	script.WriteString("[!exec:sh] skip 'sh is missing'\n")
	if strings.Contains(page, "$ git ") {
		script.WriteString("[!exec:git] skip 'git is missing'\n")
	}
	script.WriteString("exec sh page.sh\n")
	given := map[string]bool{}
	for i, e := range examples {
		command := strings.ReplaceAll(e.command, newAddress, "$HOLDFAST_ENDPOINT")
		fmt.Fprintf(&shell, "if ! { %s\n} > $WORK/out%d 2>&1; then cat $WORK/out%d; echo 'example %d does not end well'; exit 1; fi\n", command, i+1, i+1, i+1)
		fmt.Fprintf(&script, "cmp out%d want%d\n", i+1, i+1)
		fmt.Fprintf(&files, "-- want%d --\n%s", i+1, e.output)
		if name, isCat := strings.CutPrefix(e.command, "cat "); isCat && !given[name] {
			given[name] = true
			fmt.Fprintf(&files, "-- %s --\n%s", name, e.output)
		}
	}
	return script.String() + "-- page.sh --\n" + shell.String() + files.String(), nil
}
