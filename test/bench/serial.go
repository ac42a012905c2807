package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// line is one line of a serial log, with the moment when its end was seen.
type line struct {
	At   time.Time
	Text string
}

// escapes are what a person does not want in a line.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f]`)

// lookEvery is how often a serial log is looked at, and so how exact a time is.
const lookEvery = 50 * time.Millisecond

// watchSerial calls seen for each line that is added to a serial log from the byte
// after on, until seen answers false or ctx ends. The log need not be there yet.
func watchSerial(ctx context.Context, path string, after int64, seen func(line) bool) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var file *os.File
	defer func() { _ = file.Close() }() // only read, or nil
	rest := ""
	for {
		if file == nil {
			opened, err := openAt(path, after)
			if err != nil {
				return err
			}
			file = opened
		}
		if file != nil {
			fresh, err := io.ReadAll(io.LimitReader(file, 1<<20))
			if err != nil {
				return fmt.Errorf("reading the serial log: %w", err)
			}
			var texts []string
			texts, rest = splitLines(rest + string(fresh))
			for _, text := range texts {
				if !seen(line{time.Now(), text}) {
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("watching the serial log %s: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}

// openAt opens a log at an offset; nil when it is not there.
func openAt(path string, offset int64) (*os.File, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the serial log: %w", err)
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the serial log: %w", err), file.Close())
	}
	return file, nil
}

// logSize is where the next line of a log will be.
func logSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0 // it is made by the next start
	}
	return info.Size()
}

// splitLines gives the complete lines of a text without escape sequences and blank
// lines, and what is left of it.
func splitLines(text string) (lines []string, rest string) {
	end := strings.LastIndexByte(text, '\n')
	if end < 0 {
		return nil, text
	}
	for raw := range strings.Lines(text[:end+1]) {
		if clean := strings.TrimSpace(escapes.ReplaceAllString(raw, "")); clean != "" {
			lines = append(lines, clean)
		}
	}
	return lines, text[end+1:]
}
