package os

import "time"

// Audit is the answer of GET /1.0/audit: a part of the audit log.
type Audit struct {
	// Entries are in the order of their numbers; never null.
	Entries []AuditEntry `json:"entries" yaml:"entries"`
	// Damaged is how many lines of the part that was looked at cannot be read; 0 when all
	// is well. :verify says where.
	Damaged int `json:"damaged" yaml:"damaged"`
	// Last is the number of the newest entry of the whole log; 0 when there is none.
	Last uint64 `json:"last" yaml:"last"`
}

// AuditEntry is one request that changed something or was refused.
//
// Hash is the SHA-256, in hex, of Prev, a line feed, and the entry's line as it is kept
// without its last member "hash". As each entry holds the hash of the one before, no
// entry can be changed or taken out without a trace.
type AuditEntry struct {
	// Number counts the entries of the node, from 1.
	Number uint64 `json:"number" yaml:"number"`
	// Time is when the answer was given, in UTC.
	Time time.Time `json:"time" yaml:"time"`
	// Who is the caller: "sha256:" and the fingerprint of its certificate, "local" for
	// the node's own socket, or "application NAME" for one that an application let in.
	Who string `json:"who" yaml:"who"`
	// From is the address of the caller, or what the application says it is; empty on the
	// node's own socket.
	From string `json:"from" yaml:"from"`
	// Method is the HTTP method.
	Method string `json:"method" yaml:"method"`
	// Path is the path of the request, without its query; at most 1024 bytes.
	Path string `json:"path" yaml:"path"`
	// Query are the parameters of the request, with secrets left out; at most 1024 bytes.
	Query string `json:"query,omitempty" yaml:"query,omitempty"`
	// Code is the HTTP status of the answer.
	Code int `json:"code" yaml:"code"`
	// Error is the error that the caller was told; absent on success. At most 1024 bytes.
	Error string `json:"error,omitempty" yaml:"error,omitempty"`
	// DurationMS is how long the request took, in milliseconds.
	DurationMS int64 `json:"duration_ms" yaml:"duration_ms"`
	// Change is the number of the change of the configuration; absent when there was none.
	Change uint64 `json:"change,omitempty" yaml:"change,omitempty"`
	// Skipped is how many refused requests before this one are not in the log, because
	// there were too many at a time; absent when there were none.
	Skipped uint64 `json:"skipped,omitempty" yaml:"skipped,omitempty"`
	// Prev is the hash of the entry before; 64 zeros in front of the first.
	Prev string `json:"prev" yaml:"prev"`
	// Hash is that of this entry, 64 hex digits.
	Hash string `json:"hash" yaml:"hash"`
}

// AuditVerification is the answer of POST /1.0/audit/:verify.
type AuditVerification struct {
	// Good is true when every entry from First to Last is there and unchanged.
	Good bool `json:"good" yaml:"good"`
	// First is the number of the first entry looked at; 0 when there is none.
	First uint64 `json:"first" yaml:"first"`
	// Last is the number of the last good entry; 0 when there is none.
	Last uint64 `json:"last" yaml:"last"`
	// LastHash is the hash of that entry. The journal has it too: a log that was cut off
	// at its end is good by itself, and does not agree with the journal.
	LastHash string `json:"last_hash" yaml:"last_hash"`
	// BrokenAt is the number of the first entry that does not fit; 0 when Good.
	BrokenAt uint64 `json:"broken_at,omitempty" yaml:"broken_at,omitempty"`
	// File is the file with that entry; absent when Good.
	File string `json:"file,omitempty" yaml:"file,omitempty"`
	// Reason says what does not fit; absent when Good.
	Reason string `json:"reason,omitempty" yaml:"reason,omitempty"`
}
