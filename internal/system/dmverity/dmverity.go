// Package dmverity changes what a dm-verity mapping does about a block that is wrong.
//
// Whatever it does, no program ever gets to see such a block. By default it cannot be read;
// a mapping may restart the machine instead. Parties: systemd-veritysetup has made the
// mapping; dmsetup gives it the same table with one word more, and the kernel takes that up
// while the mapping is in use. What can fail: a table of a form that is not known, which is
// refused; the mapping then is as it was.
package dmverity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// restart is the word of the kernel's table (Documentation/admin-guide/device-mapper/verity.rst).
const restart = "restart_on_corruption"

// fixedFields are start, length, "verity" and the ten parameters before the optional ones.
const fixedFields = 13

// RestartOnCorruption makes a mapping restart the machine when a block is wrong. One that does
// is left as it is.
func RestartOnCorruption(ctx context.Context, runner run.Runner, name string) error {
	answer, err := runner(ctx, run.Command{Name: "dmsetup", Args: []string{"table", name}})
	if err != nil {
		return fmt.Errorf("reading the mapping %s: %w", name, err)
	}
	table, changed, err := withRestart(string(answer.Stdout))
	if err != nil {
		return fmt.Errorf("reading the mapping %s: %w", name, err)
	}
	if !changed {
		return nil
	}
	for _, args := range [][]string{{"reload", "--readonly", name, "--table", table}, {"resume", name}} {
		if _, err := runner(ctx, run.Command{Name: "dmsetup", Args: args}); err != nil {
			return fmt.Errorf("letting the mapping %s restart the machine at a wrong block: %w", name, err)
		}
	}
	return nil
}

// withRestart gives a table with the word, and whether it was missing.
func withRestart(table string) (with string, changed bool, err error) {
	fields := strings.Fields(table)
	if len(fields) < fixedFields || fields[2] != "verity" || strings.Contains(strings.TrimSpace(table), "\n") {
		return "", false, errors.New("it is no table of dm-verity")
	}
	optional := fields[fixedFields:]
	if len(optional) > 0 {
		count, err := strconv.Atoi(optional[0])
		if err != nil || count != len(optional)-1 {
			return "", false, errors.New("it is a table of dm-verity whose options are not understood")
		}
		optional = optional[1:]
	}
	if slices.Contains(optional, restart) {
		return "", false, nil
	}
	optional = append(slices.Clone(optional), restart)
	return strings.Join(slices.Concat(fields[:fixedFields], []string{strconv.Itoa(len(optional))}, optional), " "), true, nil
}
