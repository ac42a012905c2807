package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// render is the whole page: a row for each number that can be taken.
func render(all []measurement, records []record) string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\n")
	b.WriteString("Written by `make bench` from test/bench/results.json; do not edit. Ratios count, since both sides come from\n")
	b.WriteString("one computer in one run; absolute times belong to that computer. `go run ./test/bench -list` names the\n")
	b.WriteString("measurements, `-only NAME` takes one.\n\n")
	b.WriteString("| what | value | target | compared with | ratio | taken | how it was taken |\n|---|---|---|---|---|---|---|\n")
	for _, m := range all {
		for _, row := range m.Rows {
			for i, cell := range cells(m, row, records) {
				if i > 0 {
					b.WriteString(" ")
				}
				b.WriteString("| " + strings.ReplaceAll(cell, "|", `\|`))
			}
			b.WriteString(" |\n")
		}
	}
	return b.String()
}

// cells are the columns of one row.
func cells(m measurement, row metric, records []record) []string {
	i := slices.IndexFunc(records, func(r record) bool { return r.ID == row.ID })
	if i < 0 {
		why := "it was not run yet: `go run ./test/bench -only " + m.Name + "`"
		if m.Apart != "" {
			why += "; it is not part of `make bench`: " + m.Apart
		}
		return []string{row.What, "not measured", targetText(row), row.Against, "", "", why}
	}
	r := records[i]
	against := row.Against
	if r.Other > 0 {
		against = strings.TrimPrefix(against+", "+amount(row.Unit, r.Other), ", ")
	}
	target, how := targetText(row), r.Conditions+": "+r.How
	if missed(row, r) {
		target += ", **missed**"
		if row.Missed == "" {
			how += " Missed; why is not known yet."
		} else {
			how += " Missed: " + row.Missed
		}
	}
	return []string{row.What, amount(row.Unit, r.Value), target, against, ratio(r.Value, r.Other), r.Taken.Format("2006-01-02"), how}
}

// missed tells whether a record does not keep what is promised. A ratio without its
// other side keeps nothing.
func missed(row metric, r record) bool {
	if !row.Times {
		return r.Value > row.Limit
	}
	return r.Value > row.Limit*r.Other
}

func targetText(row metric) string {
	switch {
	case row.Times:
		return fmt.Sprintf("%g times", row.Limit)
	case row.Unit == inPieces:
		return fmt.Sprintf("%g", row.Limit)
	case row.Unit == inBytes:
		return fmt.Sprintf("%g MB", row.Limit/1e6)
	case row.Unit == inMilliseconds:
		return fmt.Sprintf("%g ms", row.Limit*1000)
	case row.Limit >= 120 && math.Mod(row.Limit, 60) == 0:
		return fmt.Sprintf("%g min", row.Limit/60)
	}
	return fmt.Sprintf("%g s", row.Limit)
}

func amount(u unit, n float64) string {
	switch {
	case u == inPieces:
		return fmt.Sprintf("%g", n)
	case u == inBytes:
		return megabytes(n)
	case u == inMilliseconds:
		return fmt.Sprintf("%.1f ms", n*1000)
	case n >= 600:
		return fmt.Sprintf("%.1f min", n/60)
	}
	return fmt.Sprintf("%.1f s", n)
}

// megabytes are powers of ten, as the targets are.
func megabytes[N int64 | float64](n N) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func ratio(a, b float64) string {
	if a <= 0 || b <= 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}

// median is the middle of some numbers, the mean of the two middle ones of an even
// count, and 0 of none.
func median(numbers []float64) float64 {
	if len(numbers) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(numbers))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// each writes some times of one thing, as "12.0, 13.5 s".
func each(seconds []float64) string {
	var texts []string
	for _, s := range seconds {
		texts = append(texts, fmt.Sprintf("%.1f", s))
	}
	return strings.Join(texts, ", ") + " s"
}
