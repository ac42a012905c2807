package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// record is one number that was taken.
type record struct {
	// ID is that of its metric.
	ID string `json:"id"`
	// Taken is when, in UTC.
	Taken time.Time `json:"taken"`
	// Conditions are the computer and the release, as
	// "2 processors, load 0.20 before, tcg, release 202611220400".
	Conditions string `json:"conditions"`
	// Value is the number, Other that of what it is compared with, in the metric's
	// unit; 0 for Other means nothing.
	Value float64 `json:"value"`
	Other float64 `json:"other,omitempty"`
	// How it was taken, and the parts that it is made of.
	How string `json:"how"`
}

// resultsVersion is the number of the form of results.json.
const resultsVersion = 1

type resultsFile struct {
	Version int      `json:"version"`
	Records []record `json:"records"`
}

// loadRecords reads the records of earlier runs; none when there is no file.
func loadRecords(path string) ([]record, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the records of earlier runs: %w", err)
	}
	var file resultsFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if file.Version != resultsVersion {
		return nil, fmt.Errorf("reading %s: version %d, known is %d", path, file.Version, resultsVersion)
	}
	return file.Records, nil
}

// saveRecords writes all records in one step.
func saveRecords(path string, records []record) error {
	raw, err := json.MarshalIndent(resultsFile{resultsVersion, records}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the records: %w", err)
	}
	return replaceFile(path, append(raw, '\n'))
}

// merge puts fresh records in the place of older ones of the same number, ordered by
// ID. A record that nothing asks for any more stays: what was measured was measured.
func merge(kept, fresh []record) []record {
	newest := map[string]record{}
	for _, r := range slices.Concat(kept, fresh) {
		if have, ok := newest[r.ID]; !ok || !r.Taken.Before(have.Taken) {
			newest[r.ID] = r
		}
	}
	out := make([]record, 0, len(newest))
	for _, r := range newest {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b record) int { return strings.Compare(a.ID, b.ID) })
	return out
}
