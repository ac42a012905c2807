package lab

import "bytes"

// holdsPK tells whether firmware variables (the image of OVMF's variable store)
// hold the platform key. A variable is a header that begins 0x55aa, with a state
// byte that is 0x3f while it is valid, 60 bytes long, then its name in UTF-16.
func holdsPK(vars []byte) bool {
	const header, valid = 60, 0x3f
	name := []byte{'P', 0, 'K', 0, 0, 0}
	for at := 0; ; {
		found := bytes.Index(vars[at:], name)
		if found < 0 {
			return false
		}
		at += found
		if at >= header && vars[at-header] == 0xaa && vars[at-header+1] == 0x55 && vars[at-header+2] == valid {
			return true
		}
		at += len(name)
	}
}
