// Command bench measures what the project promises in numbers and writes them as a
// table, each with its target, what it is compared with, and how it was taken.
//
// Ratios within one run count; absolute times depend on the computer and on whether it
// has KVM. A number that was not taken says so and why: an empty cell is never a good
// one. Sizes come from the release tree, times of the phases from what the lab noted,
// memory from a running node of the test variant, whose /usr is that of the release.
//
// The labs are those of the VM tests ("test" and "test-exec"): what they have made
// already is used again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// runLimit bounds a whole run.
const runLimit = time.Hour

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	out := flags.String("out", "docs/benchmarks.md", "the file to write")
	root := flags.String("root", ".", "the project's folder")
	sizesOnly := flags.Bool("no-vm", false, "start no machine: only what is known without")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	rows, err := sizeRows(*root)
	if err != nil {
		return fmt.Errorf("%w\ntry:   make build", err)
	}
	var live liveNumbers
	if *sizesOnly {
		live.Why = "the run was without machines (-no-vm)"
	} else if live, err = measure(ctx, *root); err != nil {
		return err
	}
	times, err := readTimes()
	if err != nil {
		return err
	}
	rows = append(rows, timeRows(times, live)...)
	rows = append(rows, liveRows(live)...)
	text := render(time.Now().UTC(), conditions(live), rows)
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", *out, err)
	}
	if err := os.WriteFile(*out, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", *out, err)
	}
	fmt.Println("written:", *out)
	return nil
}
