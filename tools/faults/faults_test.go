package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const top = "../.."

// row is a line of the table.
type row struct {
	number string
	tests  []string // "internal/tuf.TestX"
}

var (
	rowForm  = regexp.MustCompile(`^\| ([0-9]+) \| [^|]+ \| ([^|]+) \|$`)
	testForm = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`")
)

// table reads the rows of the reference. A line of a table that is no row is an error, so
// that none is passed over.
func table(text string) ([]row, error) {
	var rows []row
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| no. ") {
			continue
		}
		match := rowForm.FindStringSubmatch(line)
		if match == nil {
			return nil, fmt.Errorf("the line %q is no row", line)
		}
		r := row{number: match[1]}
		for _, test := range testForm.FindAllStringSubmatch(match[2], -1) {
			r.tests = append(r.tests, test[1]+"."+test[2])
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// numbers are those that the table has: the faults of updates.
func numbers() []string {
	var all []string
	for n := 1; n <= 35; n++ {
		if n <= 25 || n >= 33 {
			all = append(all, fmt.Sprint(n))
		}
	}
	return all
}

// A table that promises a test which somebody has renamed or removed promises nothing.
func TestReference_EachFault_NamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "docs/reference/faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := table(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.number)
		if len(r.tests) == 0 {
			t.Errorf("fault %s names no test", r.number)
		}
		for _, test := range r.tests {
			if err := exists(test); err != nil {
				t.Errorf("fault %s: %v", r.number, err)
			}
		}
	}
	if diff := cmp.Diff(numbers(), got); diff != "" {
		t.Error(diff)
	}
}

// exists looks for the function in the test files of a folder.
func exists(test string) error {
	dir, name, _ := strings.Cut(test, ".")
	files, err := filepath.Glob(filepath.Join(top, dir, "*_test.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T) {") {
			return nil
		}
	}
	return fmt.Errorf("%s has no test %s", dir, name)
}

// Every test that says in its name or comment that it is about one of these faults stands in
// the table: whoever looks there finds it.
func TestReference_TestsThatNameAFault_StandInIt(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "docs/reference/faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`(?m)^func (TestFault([0-9]+)[A-Za-z0-9_]*)\(t \*testing\.T\)`)
	files, err := filepath.Glob(filepath.Join(top, "internal/*/*_test.go"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range named.FindAllStringSubmatch(string(code), -1) {
			if slices.Contains(numbers(), match[2]) && !strings.Contains(string(text), "."+match[1]+"`") {
				t.Errorf("%s of %s is not in the table", match[1], file)
			}
		}
	}
}

func TestTable_LineThatIsNoRow_IsAnError(t *testing.T) {
	if rows, err := table("| no. | fault | shown by |\n| --- | --- | --- |\n"); err == nil {
		t.Errorf("got %v", rows)
	}
	rows, err := table("| no. | fault | shown by |\n|---|---|---|\n| 1 | a | `internal/x.TestA`, `test/host.TestB_C` |\n")
	if diff := cmp.Diff("[{1 [internal/x.TestA test/host.TestB_C]}]", fmt.Sprint(rows)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
