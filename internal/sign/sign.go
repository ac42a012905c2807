// Package sign makes the signatures of a release tree with the openssl program.
//
// The private key is a file or lies in a token behind PKCS#11, where openssl alone
// has to reach it; nothing of it passes through this program. Signatures are S/MIME
// ("smime -sign -text"), because that is what foreign clients of a tree verify.
package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Signer puts data into an S/MIME signature: multipart/signed, the data as
// text/plain, the signer's certificate and its chain inside.
type Signer interface {
	SignSMIME(ctx context.Context, data []byte) ([]byte, error)
}

// OpenSSL is a Signer.
type OpenSSL struct {
	// Run starts openssl; default run.Host.
	Run run.Runner
	// Program is the openssl program; default "openssl".
	Program string
	// Key is the path of a PEM private key without passphrase, or a "pkcs11:" URI.
	// A PIN belongs into a file that the URI names ("?pin-source=file:/..."), because
	// the arguments of a process can be read by others.
	Key string
	// Certificate is the path of the signer's PEM certificate.
	Certificate string
	// Chain is the path of PEM certificates between the signer and the update CA,
	// that one included; default none.
	Chain string
	// Engine uses openssl's old engine interface for a "pkcs11:" URI, where the
	// provider is not installed; default false.
	Engine bool
	// Module is the path of the token's PKCS#11 library; default that of openssl's configuration.
	Module string
}

// SignSMIME signs data. data must be text; it is signed with lines ending in CRLF.
func (o OpenSSL) SignSMIME(ctx context.Context, data []byte) ([]byte, error) {
	command, err := o.command(data)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	runner := o.Run
	if runner == nil {
		runner = run.Host
	}
	result, err := runner(ctx, command)
	if err != nil {
		return nil, fmt.Errorf("signing with %s: %w", o.Certificate, err)
	}
	if !bytes.Contains(result.Stdout, []byte("multipart/signed")) {
		return nil, fmt.Errorf("signing with %s: openssl wrote %d bytes that are no S/MIME signature", o.Certificate, len(result.Stdout))
	}
	return result.Stdout, nil
}

func (o OpenSSL) command(data []byte) (run.Command, error) {
	if o.Key == "" || o.Certificate == "" {
		return run.Command{}, errors.New("a key and its certificate are needed")
	}
	program := o.Program
	if program == "" {
		program = "openssl"
	}
	token := strings.HasPrefix(o.Key, "pkcs11:")
	args := []string{"smime", "-sign", "-text", "-md", "sha256", "-signer", o.Certificate}
	var env []string
	switch {
	case token && o.Engine:
		args = append(args, "-engine", "pkcs11", "-keyform", "engine")
	case token:
		args = append(args, "-provider", "pkcs11", "-provider", "default")
	}
	if token && o.Module != "" {
		env = []string{"PKCS11_PROVIDER_MODULE=" + o.Module, "PKCS11_MODULE_PATH=" + o.Module}
	}
	args = append(args, "-inkey", o.Key)
	if o.Chain != "" {
		args = append(args, "-certfile", o.Chain)
	}
	// A URI may carry a PIN, so its arguments stay out of errors.
	return run.Command{Name: program, Args: args, Env: env, Stdin: bytes.NewReader(data), Secret: token}, nil
}
