// Package sign makes the signatures of a release tree with the openssl program: those of
// its index (OpenSSL), and those of the trusted metadata where their key is in a token (Key).
//
// The private key is a file or lies in a token behind PKCS#11, where openssl alone
// has to reach it; nothing of it passes through this program. Signatures are S/MIME
// ("smime -sign -text"), because that is what foreign clients of a tree verify.
//
// A PIN in a token's URI is taken out of it: openssl repeats the URI in its messages,
// and the arguments of a process can be read by others. openssl gets the PIN in its
// environment, which only the same user can read.
package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
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
	// Key is the path of a PEM private key without passphrase, or a "pkcs11:" URI. The
	// token's PIN is best in a file that the URI names ("?pin-source=file:/...");
	// "?pin-value=..." is possible.
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
	result, err := o.runner()(ctx, command)
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
	reach, env, key, err := o.reach()
	if err != nil {
		return run.Command{}, err
	}
	args := append([]string{"smime", "-sign", "-text", "-md", "sha256", "-signer", o.Certificate}, reach...)
	args = append(args, "-inkey", key)
	if o.Chain != "" {
		args = append(args, "-certfile", o.Chain)
	}
	// Where a PIN lies is nobody's business either, so the arguments stay out of errors.
	return run.Command{Name: o.program(), Args: args, Env: env, Stdin: bytes.NewReader(data), Secret: o.inToken()}, nil
}

func (o OpenSSL) runner() run.Runner {
	if o.Run == nil {
		return run.Host
	}
	return o.Run
}

func (o OpenSSL) program() string {
	if o.Program == "" {
		return "openssl"
	}
	return o.Program
}

func (o OpenSSL) inToken() bool { return strings.HasPrefix(o.Key, "pkcs11:") }

// reach is how openssl gets at the key: arguments, variables, and the key's name without a
// PIN in it.
func (o OpenSSL) reach() (args, env []string, key string, err error) {
	if !o.inToken() {
		return nil, nil, o.Key, nil
	}
	key, pin, err := takePIN(o.Key)
	if err != nil {
		return nil, nil, "", err
	}
	if o.Engine {
		args = []string{"-engine", "pkcs11", "-keyform", "engine"}
	} else {
		args = []string{"-provider", "pkcs11", "-provider", "default"}
	}
	if o.Module != "" {
		env = []string{"PKCS11_PROVIDER_MODULE=" + o.Module, "PKCS11_MODULE_PATH=" + o.Module}
	}
	if pin != "" {
		args, env = append(args, "-passin", "env:"+pinVariable), append(env, pinVariable+"="+pin)
	}
	return args, env, key, nil
}

// pinVariable is the variable of the environment that hands a PIN to openssl.
const pinVariable = "HOLDFAST_TOKEN_PIN"

// takePIN parts a "pkcs11:" URI from the value of its attribute pin-value, which is ""
// where there is none.
func takePIN(uri string) (rest, pin string, err error) {
	path, query, _ := strings.Cut(uri, "?")
	var kept []string
	for attribute := range strings.SplitSeq(query, "&") {
		value, found := strings.CutPrefix(attribute, "pin-value=")
		if !found {
			kept = append(kept, attribute)
			continue
		}
		if pin, err = url.PathUnescape(value); err != nil {
			return "", "", errors.New("reading the PIN in the key's URI: a % must be followed by two hexadecimal digits")
		}
		if strings.ContainsRune(pin, 0) {
			return "", "", errors.New("reading the PIN in the key's URI: it holds a zero byte")
		}
	}
	if query = strings.Join(kept, "&"); query != "" {
		path += "?" + query
	}
	return path, pin, nil
}
