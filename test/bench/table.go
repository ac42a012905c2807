package main

import (
	"fmt"
	"runtime"
	"strings"
	"time"
)

// row is one number with all that belongs to it.
type row struct {
	// What is measured, Value what came out, Target what is promised.
	What, Value, Target string
	// Against is the thing compared with, Ratio the quotient; empty means nothing.
	Against, Ratio string
	// How it was taken, or why not.
	How string
}

// notMeasured is a row without its number.
func notMeasured(what, target, against, why string) row {
	return row{What: what, Value: "not measured", Target: target, Against: against, How: why}
}

// render is the whole page.
func render(at time.Time, conditions string, rows []row) string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\n")
	b.WriteString("Written by `make bench`; do not edit. Ratios count, since both sides come from one run on one computer;\n")
	b.WriteString("absolute times belong to that computer.\n\n")
	fmt.Fprintf(&b, "Taken on %s: %s.\n\n", at.Format("2006-01-02"), conditions)
	b.WriteString("| what | value | target | compared with | ratio | how it was taken |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		cells := []string{r.What, r.Value, r.Target, r.Against, r.Ratio, r.How}
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

func conditions(live liveNumbers) string {
	accel := live.Accel
	if accel == "" {
		accel = "no machine was started"
	}
	return fmt.Sprintf("%d processors, virtual machines by %s", runtime.NumCPU(), accel)
}

// megabytes are powers of ten, as the targets are.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func ratio(a, b float64) string {
	if a <= 0 || b <= 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}
