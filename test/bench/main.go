// Command bench measures what the project promises in numbers.
//
// A measurement (list.go) has a name, takes one or more numbers, and hands each back as
// a record. Records are kept in test/bench/results.json, the newest of each number, and
// docs/benchmarks.md is rendered from all of them: a measurement that takes half an hour
// keeps its last record, with its date, while others are taken anew. A number that was
// never taken says so and why; an empty cell is never a good one.
//
// Ratios within one measurement count: both sides are taken in turn, on one computer, in
// one virtual machine. Absolute times depend on the computer and on whether it has KVM,
// so each record has its conditions.
//
// A new family of measurements is one file with a function that gives them, and one line
// in measurements().
//
// Machines: "test" is the base that the VM tests use as well; it is installed when it is
// missing or of another release, and stays, switched off. Everything else is called
// "bench-..." and removed at the end, whatever happened. One machine runs at a time.
// Programs are run by internal/system/run. What can fail is the machines; a measurement
// that failed leaves its last record, and the others are taken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measureAll(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// runLimit bounds a whole run.
const runLimit = 4 * time.Hour

func measureAll(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	out := flags.String("out", "docs/benchmarks.md", "the page to write")
	results := flags.String("results", "test/bench/results.json", "the records that are kept")
	root := flags.String("root", ".", "the project's folder")
	only := flags.String("only", "", "take these measurements alone, as name,name; \"none\" only writes the page")
	list := flags.Bool("list", false, "list the measurements")
	static := flags.String("static", "", "serve this folder and do nothing else: what -only images compares with")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *static != "" {
		return serveStatic(ctx, *static)
	}
	all := measurements()
	if *list {
		fmt.Print(listing(all))
		return nil
	}
	chosen, err := choose(all, *only)
	if err != nil {
		return err
	}
	kept, err := loadRecords(*results)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	b, err := open(ctx, *root, chosen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	var failed []error
	for _, m := range chosen {
		fresh, err := b.take(ctx, m)
		failed = append(failed, err)
		kept = merge(kept, fresh)
		if err := errors.Join(saveRecords(*results, kept), savePage(*out, render(all, kept))); err != nil {
			return errors.Join(append(failed, err)...)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err := savePage(*out, render(all, kept)); err != nil {
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	fmt.Println("written:", *out)
	return nil
}

func savePage(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return replaceFile(path, []byte(text))
}

// replaceFile writes a file in one step.
func replaceFile(path string, content []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
