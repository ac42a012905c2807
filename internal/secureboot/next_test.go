package secureboot_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// healthy is a node whose releases the release key signs.
func healthy() secureboot.State {
	return secureboot.State{
		Enabled: true, Now: now,
		Variables: map[string][]byte{"PK": content("PK"), "KEK": content("KEK"), "db": content("release"), "dbx": nil},
		Images:    []secureboot.Image{signedBy("release"), {Name: "EFI/BOOT/BOOTX64.EFI", SHA256: [32]byte{9}, Signatures: [][][]byte{{der("release")}}}},
	}
}

// short is a decision without the reasons and with the file in the place of the update.
type short struct {
	Action  secureboot.Action
	File    string
	After   []byte
	MayFail bool
	Notes   int
}

func reduce(d secureboot.Decision) short {
	s := short{Action: d.Action, After: d.After, MayFail: d.MayFail, Notes: len(d.Notes)}
	if d.Update != nil {
		s.File = d.Update.File
	}
	return s
}

func file(variable, certificate string) string {
	return variable + "_" + secureboot.Fingerprint(der(certificate)) + ".auth"
}

// A whole archive takes one start for each variable; the state of every start is what the
// firmware stored at the one before.
func TestNext_WholeArchive_WritesOneVariablePerStart(t *testing.T) {
	archive := secureboot.Archive{update(t, "PK", secureboot.KEK, "next"), update(t, "KEK", secureboot.DB, "next"), update(t, "KEK", secureboot.DBX, "stranger")}
	state := healthy()
	var got []short
	for range 4 {
		d := secureboot.Next(state, archive)
		got = append(got, reduce(d))
		if d.Action != secureboot.Write {
			break
		}
		state.Variables[string(d.Update.Variable)] = d.After
		state.Written = []secureboot.Name{d.Update.Variable}
		if again := secureboot.Next(state, archive); again.Action == secureboot.Write {
			t.Errorf("%s is written in the start of %s", again.Update.File, d.Update.File)
		}
		state.Written = nil
	}
	want := []short{
		{Action: secureboot.Write, File: file("KEK", "next"), After: content("KEK", "next"), MayFail: true},
		{Action: secureboot.Write, File: file("db", "next"), After: content("release", "next")},
		{Action: secureboot.Write, File: file("dbx", "stranger"), After: content("stranger")},
		{Action: secureboot.Done},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNext_State_Decides(t *testing.T) {
	kek, db, revoke := update(t, "PK", secureboot.KEK, "next"), update(t, "KEK", secureboot.DB, "next"), update(t, "KEK", secureboot.DBX, "stranger")
	for name, c := range map[string]struct {
		archive secureboot.Archive
		change  func(s *secureboot.State)
		want    short
	}{
		"Secure Boot off":                {secureboot.Archive{db}, func(s *secureboot.State) { s.Enabled = false }, short{Action: secureboot.Refuse}},
		"a variable that cannot be read": {secureboot.Archive{db}, func(s *secureboot.State) { s.Variables["dbx"] = []byte("x") }, short{Action: secureboot.Refuse}},
		"already there, by another owner": {secureboot.Archive{db}, func(s *secureboot.State) {
			s.Variables["db"] = secureboot.Database{{Kind: secureboot.X509, Owner: [16]byte{7}, Data: der("next")}}.Encode()
		}, short{Action: secureboot.Done}},
		"db changed since the start": {secureboot.Archive{db}, func(s *secureboot.State) { s.Written = []secureboot.Name{secureboot.DB} }, short{Action: secureboot.RestartFirst}},
		"KEK with a platform key of the owner's": {secureboot.Archive{kek, db}, func(s *secureboot.State) { s.Variables["PK"] = content("stranger") },
			short{Action: secureboot.Write, File: db.File, After: content("release", "next"), Notes: 1}},
		"KEK that the firmware refused": {secureboot.Archive{kek, db}, func(s *secureboot.State) { s.Failed = map[string]string{kek.File: "refused"} },
			short{Action: secureboot.Write, File: db.File, After: content("release", "next"), Notes: 1}},
		"db by a key that is not in KEK":     {secureboot.Archive{update(t, "stranger", secureboot.DB, "next")}, func(*secureboot.State) {}, short{Action: secureboot.Refuse}},
		"db by the platform key":             {secureboot.Archive{update(t, "PK", secureboot.DB, "next")}, func(*secureboot.State) {}, short{Action: secureboot.Write, File: db.File, After: content("release", "next")}},
		"KEK by KEK":                         {secureboot.Archive{update(t, "KEK", secureboot.KEK, "next")}, func(*secureboot.State) {}, short{Action: secureboot.Done, Notes: 1}},
		"a certificate that ran out":         {secureboot.Archive{db}, func(s *secureboot.State) { s.Now = now.AddDate(5, 0, 0) }, short{Action: secureboot.Write, File: db.File, After: content("release", "next"), Notes: 1}},
		"dbx, nothing to compare with":       {secureboot.Archive{revoke}, func(s *secureboot.State) { s.Images = nil }, short{Action: secureboot.Refuse}},
		"dbx, a program that cannot be read": {secureboot.Archive{revoke}, func(s *secureboot.State) { s.Unread = map[string]string{"EFI/x.efi": "damaged"} }, short{Action: secureboot.Refuse}},
		"dbx, the other slot needs it":       {secureboot.Archive{revoke}, func(s *secureboot.State) { s.Images = append(s.Images, signedBy("stranger")) }, short{Action: secureboot.Refuse}},
		"dbx, one of two signatures":         {secureboot.Archive{revoke}, func(s *secureboot.State) { s.Images = append(s.Images, signedBy("release", "stranger")) }, short{Action: secureboot.Refuse}},
		"dbx, the issuer of a signer":        {secureboot.Archive{update(t, "KEK", secureboot.DBX, "release")}, func(s *secureboot.State) { s.Images = []secureboot.Image{signedBy("leaf")} }, short{Action: secureboot.Refuse}},
		"dbx, a certificate that comes along": {secureboot.Archive{revoke}, func(s *secureboot.State) {
			s.Images[0].Signatures[0] = append(s.Images[0].Signatures[0], der("stranger"))
		}, short{Action: secureboot.Refuse}},
		"dbx, an image that is not signed": {secureboot.Archive{revoke}, func(s *secureboot.State) { s.Images = []secureboot.Image{{Name: "x"}} }, short{Action: secureboot.Write, File: revoke.File, After: content("stranger")}},
		"dbx that is there already is no harm": {secureboot.Archive{revoke}, func(s *secureboot.State) {
			s.Variables["dbx"] = content("stranger")
			s.Images = []secureboot.Image{signedBy("stranger")}
		}, short{Action: secureboot.Done}},
	} {
		t.Run(name, func(t *testing.T) {
			state := healthy()
			c.change(&state)
			d := secureboot.Next(state, c.archive)
			if diff := cmp.Diff(c.want, reduce(d)); diff != "" {
				t.Errorf("%s\n%s %v", diff, d.Why, d.Notes)
			}
			if d.Why == "" {
				t.Error("no reason")
			}
		})
	}
}

// A release by the next key is taken once that key is in db, and not for longer than it is
// valid. What the firmware would not start is not installed.
func TestCheckRelease_Signer_MustBeInDBNotInDBXAndValid(t *testing.T) {
	db := func(names ...string) (d secureboot.Database) {
		for _, n := range names {
			d = append(d, entry(n))
		}
		return d
	}
	hashed := secureboot.Database{{Kind: secureboot.SHA256, Data: []byte("\x01\x02\x03" + strings.Repeat("\x00", 29))}}
	for name, c := range map[string]struct {
		image   secureboot.Image
		db, dbx secureboot.Database
		years   int
		refused bool
	}{
		"the present key":                    {signedBy("release"), db("release"), nil, 0, false},
		"the next key in db":                 {signedBy("next"), db("release", "next"), nil, 0, false},
		"by an issuer in db":                 {signedBy("leaf"), db("release"), nil, 0, false},
		"two signatures, the second in db":   {signedBy("stranger", "next"), db("next"), nil, 0, false},
		"the next key not in db":             {signedBy("next"), db("release"), nil, 0, true},
		"in db and in dbx":                   {signedBy("next"), db("next"), db("next"), 0, true},
		"the issuer in dbx":                  {signedBy("leaf"), db("leaf"), db("release"), 0, true},
		"its hash in dbx":                    {signedBy("next"), db("next"), hashed, 0, true},
		"its second signer in dbx":           {signedBy("next", "stranger"), db("next"), db("stranger"), 0, true},
		"not signed":                         {signedBy(), db("next"), nil, 0, true},
		"not signed, its hash in db":         {signedBy(), hashed, nil, 0, true},
		"after the certificate's last day":   {signedBy("next"), db("next"), nil, 2, true},
		"before the certificate's first":     {signedBy("next"), db("next"), nil, -2, true},
		"a database of certificates' hashes": {signedBy("next"), db("next"), secureboot.Database{tbs("next")}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := secureboot.CheckRelease(c.image, c.db, c.dbx, now.AddDate(c.years, 0, 0)); (err != nil) != c.refused {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What a machine's databases say counts; no dbx revokes nothing, and one that cannot be read
// lets nothing in.
func TestCheckWith_DatabasesOfAMachine_AreThoseThatCount(t *testing.T) {
	failed := errors.New("the variable cannot be read")
	for name, c := range map[string]struct {
		variables map[string][]byte
		failing   string
		refused   bool
	}{
		"in db, no dbx":           {map[string][]byte{"db": content("release")}, "", false},
		"in both":                 {map[string][]byte{"db": content("release"), "dbx": content("release")}, "", true},
		"no db":                   {nil, "", true},
		"dbx that cannot be read": {map[string][]byte{"db": content("release")}, "dbx", true},
		"dbx of another form":     {map[string][]byte{"db": content("release"), "dbx": []byte("x")}, "", true},
	} {
		value := func(variable string) ([]byte, error) {
			data, known := c.variables[variable]
			switch {
			case variable == c.failing:
				return nil, failed
			case !known:
				return nil, fs.ErrNotExist
			}
			return data, nil
		}
		err := secureboot.CheckWith(signedBy("release"), value, now)
		if (err != nil) != c.refused || c.failing != "" && !errors.Is(err, failed) {
			t.Errorf("%s: got %v, want it refused: %t", name, err, c.refused)
		}
	}
}
