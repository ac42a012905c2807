package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// keyOwner is who brings the entries in, unless another GUID is named. Firmware measures it
// along with a certificate, so it stays the same for good.
const keyOwner = "6f8b2d4e-50b1-4f0c-9a5e-7c1d0e3b9a62"

// maxPEM bounds a key or certificate, in bytes.
const maxPEM = 64 << 10

// keysOptions are what an archive of keys is made of.
type keysOptions struct {
	pkKey, pkCert, kekKey, kekCert string
	kek, db, revoke                []string
	owner, at                      string
}

func releaseSecureBootCommand(env *Env) *cobra.Command {
	var o keysOptions
	c := &cobra.Command{
		Use:   "secureboot-update FILE",
		Short: "Sign new Secure Boot certificates for the firmware of nodes",
		Long: "Sign updates that add certificates to the firmware's variables, and put them into one\n" +
			"archive. A node writes one variable in each start: KEK, then db, then dbx.\n\n" +
			"The key in PK signs additions to KEK, a key in KEK those to db and dbx. A certificate in\n" +
			"dbx is revoked for good: nothing takes it out again. Keys are PEM files.",
		Example: "  holdfast release secureboot-update SecureBootKeys_202611220104.tar.gz --kek-key kek.key --kek-cert kek.crt --add-db next.crt\n" +
			"  holdfast release secureboot-update keys.tar.gz --kek-key kek.key --kek-cert kek.crt --revoke old.crt",
		Args: args("FILE"),
	}
	f := c.Flags()
	f.StringVar(&o.pkKey, "pk-key", "", "PEM file of the platform key; for --add-kek")
	f.StringVar(&o.pkCert, "pk-cert", "", "PEM file of its certificate, which is in PK")
	f.StringVar(&o.kekKey, "kek-key", "", "PEM file of the key exchange key; for --add-db and --revoke")
	f.StringVar(&o.kekCert, "kek-cert", "", "PEM file of its certificate, which is in KEK")
	f.StringArrayVar(&o.kek, "add-kek", nil, "certificate to add to KEK; may be repeated")
	f.StringArrayVar(&o.db, "add-db", nil, "certificate to add to db; may be repeated")
	f.StringArrayVar(&o.revoke, "revoke", nil, "certificate to add to dbx; may be repeated")
	f.StringVar(&o.owner, "owner", keyOwner, "GUID of whoever brings the certificates in; keep to one")
	f.StringVar(&o.at, "time", "", "when it is signed, as 2026-11-22T10:20:30Z (default now)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(o.kek)+len(o.db)+len(o.revoke) == 0 {
			return usage(c, errors.New("there is nothing to add: want --add-kek, --add-db or --revoke"))
		}
		updates, at, err := o.sign(c)
		if err != nil {
			return err
		}
		if err := writeKeys(args[0], updates, at); err != nil {
			return err
		}
		for _, u := range updates {
			if _, err := fmt.Fprintf(env.Stdout, "%s  %s\n", u.File, subjectOf(u.Certificate)); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(env.Stdout, "%d updates are in %s\n", len(updates), args[0])
		return err
	}
	return c
}

// sign makes the updates.
func (o keysOptions) sign(c *cobra.Command) ([]secureboot.Auth, time.Time, error) {
	at := time.Now()
	if o.at != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, o.at); err != nil {
			return nil, at, usage(c, fmt.Errorf("--time %q: want a time as 2026-11-22T10:20:30Z", o.at))
		}
	}
	owner, err := parseGUID(o.owner)
	if err != nil {
		return nil, at, usage(c, fmt.Errorf("--owner: %w", err))
	}
	var updates []secureboot.Auth
	for _, part := range []struct {
		variable         secureboot.Name
		key, cert, flags string
		certificates     []string
	}{
		{variable: secureboot.KEK, key: o.pkKey, cert: o.pkCert, flags: "--pk-key and --pk-cert", certificates: o.kek},
		{variable: secureboot.DB, key: o.kekKey, cert: o.kekCert, flags: "--kek-key and --kek-cert", certificates: o.db},
		{variable: secureboot.DBX, key: o.kekKey, cert: o.kekCert, flags: "--kek-key and --kek-cert", certificates: o.revoke},
	} {
		if len(part.certificates) == 0 {
			continue
		}
		if part.key == "" || part.cert == "" {
			return nil, at, usage(c, fmt.Errorf("adding to %s needs %s", part.variable, part.flags))
		}
		by, err := readSigner(part.key, part.cert)
		if err != nil {
			return nil, at, err
		}
		for _, file := range part.certificates {
			certificate, err := readCertificate(file)
			if err != nil {
				return nil, at, err
			}
			update, err := secureboot.Sign(by, part.variable, owner, certificate.Raw, at)
			if err == nil {
				err = update.SignedBy([][]byte{by.Certificate.Raw})
			}
			if err != nil {
				return nil, at, err
			}
			updates = append(updates, update)
		}
	}
	return updates, at, nil
}

// readSigner reads a key with its certificate.
func readSigner(keyFile, certFile string) (secureboot.Signer, error) {
	certificate, err := readCertificate(certFile)
	if err != nil {
		return secureboot.Signer{}, err
	}
	block, err := readPEM(keyFile)
	if err != nil {
		return secureboot.Signer{}, err
	}
	var parsed any
	if parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	if err != nil {
		// The error of the parser may speak of the content.
		return secureboot.Signer{}, withTry(fmt.Errorf("reading %s: it is no private key without a passphrase", keyFile), "openssl pkey -in "+keyFile+" -out plain.key")
	}
	key, isRSA := parsed.(*rsa.PrivateKey)
	if !isRSA {
		return secureboot.Signer{}, fmt.Errorf("reading %s: firmware takes signatures of RSA keys only", keyFile)
	}
	public, isRSA := certificate.PublicKey.(*rsa.PublicKey)
	if !isRSA || !public.Equal(key.Public()) {
		return secureboot.Signer{}, fmt.Errorf("the key in %s is not that of the certificate in %s", keyFile, certFile)
	}
	return secureboot.Signer{Key: crypto.Signer(key), Certificate: certificate}, nil
}

func readCertificate(file string) (*x509.Certificate, error) {
	block, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate in %s: %w", file, err)
	}
	return certificate, nil
}

func readPEM(file string) (*pem.Block, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	if len(text) > maxPEM {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", file, maxPEM)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("reading %s: it is not in PEM form", file)
	}
	return block, nil
}

var guidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// parseGUID gives a GUID as firmware stores it: its first three numbers the low byte first.
func parseGUID(text string) (guid [16]byte, err error) {
	if !guidForm.MatchString(text) {
		return guid, fmt.Errorf("%q is no GUID as %s", text, keyOwner)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil {
		return guid, err
	}
	copy(guid[:], raw)
	binary.LittleEndian.PutUint32(guid[0:], binary.BigEndian.Uint32(raw[0:]))
	binary.LittleEndian.PutUint16(guid[4:], binary.BigEndian.Uint16(raw[4:]))
	binary.LittleEndian.PutUint16(guid[6:], binary.BigEndian.Uint16(raw[6:]))
	return guid, nil
}

// writeKeys writes the archive; the same updates give the same bytes. A name that ends in
// .gz is packed.
func writeKeys(file string, updates []secureboot.Auth, at time.Time) error {
	var archive bytes.Buffer
	var packed io.WriteCloser = nopWriteCloser{&archive}
	if strings.HasSuffix(file, ".gz") {
		packed = gzip.NewWriter(&archive)
	}
	w := tar.NewWriter(packed)
	for _, u := range updates {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: u.File, Mode: 0o644, Size: int64(len(u.Raw)), ModTime: at.UTC().Truncate(time.Second), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return fmt.Errorf("packing %s: %w", u.File, err)
		}
		if _, err := w.Write(u.Raw); err != nil {
			return fmt.Errorf("packing %s: %w", u.File, err)
		}
	}
	if err := errors.Join(w.Close(), packed.Close()); err != nil {
		return fmt.Errorf("packing the updates: %w", err)
	}
	// What a node would refuse is not handed out.
	if _, err := secureboot.ReadArchive(bytes.NewReader(archive.Bytes())); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	_, err = temporary.Write(archive.Bytes())
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(temporary.Name()))
	}
	return nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

func subjectOf(der []byte) string {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	return certificate.Subject.String()
}
