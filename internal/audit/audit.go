// Package audit remembers who changed what on the node, such that a change of the
// record shows.
//
// An entry is kept for each request that is not a read (GET, HEAD) and for each that was
// refused (401, 403). It has no body and no secret. Entries are numbered from 1, and
// each has a hash over the one before and itself: a chain. The log is a directory of
// files of JSON, one entry in a line; a file is named after its first entry. When a file
// is full the next begins, the chain goes on across files, and the oldest files go.
//
// Invariants:
//
//   - When Add has returned, the entry is on the disk: written in one piece at the end of
//     the file, and synced. When Add fails, it is not there, and its number is free.
//   - A power cut in the middle of Add loses that entry at most. What is left of its line
//     is cut off when the log is opened, and the log of the node says so; every other
//     damage stays as it is, for Verify to find.
//   - Each entry goes to the log of the node (and so to the journal, and from there to
//     another machine) with its number and hash.
//
// What the chain is worth: who changes, removes or inserts an entry breaks it. Root on
// the node can write a whole new chain, or cut off its end; then it does not agree with
// the hashes in the journal. Refusals are limited in number per minute, so that a caller
// from outside cannot push the entries of others out; the next entry tells how many are
// not there.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

const (
	// maxField is the longest path, query or error in an entry, in bytes.
	maxField = 1024
	// maxName is the longest name or address of a caller, in bytes.
	maxName = 160
	// maxLine is the longest line that is read, in bytes. JSON takes up to six bytes for
	// one.
	maxLine = 32 << 10
	// maxNumber is the largest number that every reader of JSON takes as it is.
	maxNumber = 1 << 53
	// hashTail is how long the last member of a line is, with the brace behind it.
	hashTail = len(`,"hash":""}`) + 2*sha256.Size
)

// noHash stands in front of the first entry.
var noHash = strings.Repeat("0", 2*sha256.Size)

// errLine is a line that is no entry.
var errLine = errors.New("the line is not an entry")

// kept tells whether a request belongs into the log.
func kept(method string, code int) bool {
	return refused(code) || method != http.MethodGet && method != http.MethodHead
}

func refused(code int) bool { return code == http.StatusUnauthorized || code == http.StatusForbidden }

// encode gives the line of an entry, with its hash and a line feed.
func encode(e *osapi.AuditEntry) ([]byte, error) {
	e.Hash = ""
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encoding audit entry %d: %w", e.Number, err)
	}
	body := append(bytes.TrimSuffix(text, []byte(`,"hash":""}`)), '}')
	e.Hash = hash(e.Prev, body)
	return fmt.Appendf(body[:len(body)-1], `,"hash":"%s"}`+"\n", e.Hash), nil
}

// hash is that of an entry: body is its line without the member "hash".
func hash(prev string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(prev + "\n"))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// decode reads a line without its line feed. It does not check the hash: see intact.
func decode(line []byte) (osapi.AuditEntry, error) {
	var e osapi.AuditEntry
	if len(line) < hashTail || len(line) > maxLine {
		return e, errLine
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, fmt.Errorf("%w: %w", errLine, err)
	}
	if e.Number == 0 || e.Number > maxNumber || string(line[len(line)-hashTail:]) != `,"hash":"`+e.Hash+`"}` {
		return e, fmt.Errorf("%w: it has no number, or no hash at its end", errLine)
	}
	return e, nil
}

// intact tells whether a line is as it was written.
func intact(line []byte, e osapi.AuditEntry) bool {
	body := append(bytes.Clone(line[:len(line)-hashTail]), '}')
	return hash(e.Prev, body) == e.Hash
}

func cut(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.ToValidUTF8(text, "?")
}
