// Package secureboot decides about the keys of Secure Boot: which update of KEK, db or dbx
// is written next, whether a release that another key signed may be installed, and in what
// order all of it happens so that no power cut locks the node out.
//
// Who takes part: the firmware keeps PK, KEK, db and dbx and checks the signature of each
// update; the TPM opens the disk only for values of its registers that it was bound to; the
// boot loader and the UKIs on the ESP are what must still start. This package looks at
// values only. It writes nothing, and the packages around it carry out its steps.
//
// What always holds:
//   - One variable is written per start. What the next start measures is predicted from
//     the log of this one (package pcr), so two changes in one start would be one too many.
//   - A variable is written, and a boot loader replaced, only when every start that can
//     come of it has a binding of its own on the disk already. See Steps.
//   - dbx never takes in what a boot loader or a UKI of this node needs.
//   - An update that the firmware would refuse is refused here first, because the check is
//     the same: the signature is over the variable, its attributes, a time and the content.
//
// What can fail: firmware may refuse what is right (a platform key of the owner's own, no
// room, read-only), may measure in odd ways (then pcr gives no prediction, and nothing is
// written), or may store another content than was predicted (then the step that reads back
// finds out, and binds the disk to that before the restart).
package secureboot

import (
	"crypto/sha256"
	"encoding/hex"
)

// Name is a variable that an update is for.
type Name string

// The variables that take updates, in the order in which they are written.
const (
	KEK Name = "KEK"
	DB  Name = "db"
	DBX Name = "dbx"
)

// order is that of writing: KEK lets in db, and what replaces a revoked key must be in db
// before dbx.
var order = []Name{KEK, DB, DBX}

// GUIDs in the order of bytes in which the firmware stores them.
var (
	global        = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

func (n Name) vendor() [16]byte {
	if n == KEK || n == PK {
		return global
	}
	return imageSecurity
}

// attributes are those of an update that is added to a variable: non-volatile, seen by
// firmware and system, authenticated by time, append. They are part of what is signed.
const attributes uint32 = 0x01 | 0x02 | 0x04 | 0x20 | appendWrite

// appendWrite is the bit of an update that adds.
const appendWrite uint32 = 0x40

// Fingerprint is the SHA-256 of a DER certificate in lower-case hexadecimal, as in the
// names of update files and in the API.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
