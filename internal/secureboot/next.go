package secureboot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// State is what the node knows of itself before an update of keys.
type State struct {
	// Enabled is true when the firmware checks what it starts.
	Enabled bool
	// Variables are the whole contents of PK, KEK, db and dbx now, by name.
	Variables map[string][]byte
	// Written are the variables that were written since this start, by whomever: one
	// written by this node, or one whose content is not what was measured.
	Written []Name
	// Failed are files that the firmware refused before, with the reason. Only KEK may
	// be among them; a failed db or dbx is tried again.
	Failed map[string]string
	// Images are all boot loaders and UKIs on the ESP, and those of both slots.
	Images []Image
	// Unread are programs on the ESP that could not be read, with the reason.
	Unread map[string]string
	// Now is the time; certificates that have run out are noted.
	Now time.Time
}

// Action is what is to be done with an archive now.
type Action string

const (
	// Done means that the archive has nothing more to write.
	Done Action = "done"
	// Write means that Update is to be written, with Steps.
	Write Action = "write"
	// RestartFirst means that the next one can be written after a restart.
	RestartFirst Action = "restart"
	// Refuse means that the archive cannot be applied; Why says what to do.
	Refuse Action = "refuse"
)

// Decision is what Next finds.
type Decision struct {
	Action Action
	// Update is what is written; nil but for Write.
	Update *Auth
	// After is the whole content of the variable after that.
	After []byte
	// MayFail is true for KEK: a machine with a platform key of its owner's own refuses it,
	// and works on.
	MayFail bool
	// Why is the reason, a sentence.
	Why string
	// Notes are what was passed over and why, each a sentence.
	Notes []string
}

// Next decides what of an archive is done now. It is called again after each restart, with
// the state of then, until it is Done.
func Next(state State, archive Archive) Decision {
	if !state.Enabled {
		return Decision{Action: Refuse, Why: "Secure Boot is off: its keys are not changed. Switch it on in the firmware's setup first"}
	}
	var notes []string
	databases := map[Name]Database{}
	for _, name := range append([]Name{PK}, order...) {
		parsed, err := ParseDatabase(state.Variables[string(name)])
		if err != nil {
			return Decision{Action: Refuse, Why: fmt.Sprintf("the variable %s cannot be read: %v", name, err)}
		}
		databases[name] = parsed
	}
	for _, auth := range archive {
		if databases[auth.Variable].Has(X509, auth.Certificate) {
			continue
		}
		note, refuse := consider(state, databases, auth)
		if refuse != "" {
			return Decision{Action: Refuse, Why: refuse, Notes: notes}
		}
		if note != "" {
			notes = append(notes, note)
			continue
		}
		if len(state.Written) > 0 {
			return Decision{Action: RestartFirst, Notes: notes, Why: fmt.Sprintf("%s was written since this start, and only one variable is written per start: restart to go on with %s",
				joinNames(state.Written), auth.File)}
		}
		return Decision{
			Action: Write, Update: &auth, After: slices.Concat(state.Variables[string(auth.Variable)], auth.payload()),
			MayFail: auth.Variable == KEK, Notes: append(notes, expiry(auth, state.Now)...),
			Why: fmt.Sprintf("%s does not have the certificate %s yet", auth.Variable, auth.Entry.describe()),
		}
	}
	return Decision{Action: Done, Why: "all certificates of the archive are in their variables", Notes: notes}
}

// consider says whether an update can be written: a note when it is passed over, a reason
// when nothing of the archive may be.
func consider(state State, databases map[Name]Database, auth Auth) (note, refuse string) {
	if reason, failed := state.Failed[auth.File]; failed && auth.Variable == KEK {
		return fmt.Sprintf("%s was refused by the firmware before (%s); this machine has a platform key of its own", auth.File, reason), ""
	}
	signers := databases[PK].Certificates()
	if auth.Variable != KEK {
		signers = append(databases[KEK].Certificates(), signers...)
	}
	if err := auth.SignedBy(signers); err != nil {
		if auth.Variable == KEK && errors.Is(err, ErrNotSigned) {
			return fmt.Sprintf("%s is passed over: %v. This machine has a platform key of its own", auth.File, err), ""
		}
		return "", err.Error()
	}
	if auth.Variable == DBX {
		return "", revoked(state, auth)
	}
	return "", ""
}

// revoked is the reason why a dbx may not be written; empty when it may.
func revoked(state State, auth Auth) string {
	for _, name := range slices.Sorted(maps.Keys(state.Unread)) {
		return fmt.Sprintf("%s is not written, because %s cannot be read (%s) and might need what it revokes: remove or repair that file", auth.File, name, state.Unread[name])
	}
	if len(state.Images) == 0 {
		return fmt.Sprintf("%s is not written, because no boot loader and no UKI of this node was found that could be compared with it", auth.File)
	}
	added := Database{auth.Entry}
	for _, image := range state.Images {
		if _, hit := added.Revokes(image); hit {
			return fmt.Sprintf("%s would keep %s from starting: update this node until both slots and the boot loader are signed by another key, then apply it again", auth.File, image.Name)
		}
	}
	return ""
}

func expiry(auth Auth, now time.Time) []string {
	c, err := x509.ParseCertificate(auth.Certificate)
	if err != nil || auth.Variable == DBX || !now.After(c.NotAfter) {
		return nil
	}
	return []string{fmt.Sprintf("the certificate of %s ran out on %s", auth.File, c.NotAfter.UTC().Format(time.DateOnly))}
}

func joinNames(names []Name) string {
	var text []string
	for _, n := range names {
		text = append(text, string(n))
	}
	return strings.Join(text, ", ")
}
