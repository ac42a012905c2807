package lab

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// checkMedium refuses a medium of the caller's together with what only one made here has.
func (u *up) checkMedium() error {
	h := u.o.Hardware
	if u.o.Medium != "" && (u.o.Seed != nil || u.o.SealSeed || h.SeedStick != "" || h.Live || h.NoMedium) {
		return errors.New("starting from a medium that was given: it is used as it is, so leave out what would change it or do without it")
	}
	return nil
}

// clientCert gives the PEM of the certificate that the lab shows to the node: the caller's, or
// the lab's own.
func (u *up) clientCert() ([]byte, error) {
	if u.o.ClientCert == nil && u.o.ClientKey == nil {
		return clientCert(u.d)
	}
	if _, err := tls.X509KeyPair(u.o.ClientCert, u.o.ClientKey); err != nil {
		return nil, fmt.Errorf("reading the client certificate that was given: %w", err)
	}
	if err := writeFile(u.d.file("client.key"), u.o.ClientKey); err != nil {
		return nil, err
	}
	return u.o.ClientCert, writeFile(u.d.file("client.crt"), u.o.ClientCert)
}
