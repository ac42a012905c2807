package daemon

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/system/efi"
)

const (
	// imageSigner is the certificate by which this image was signed, with what it starts.
	imageSigner = "/usr/lib/holdfast/secureboot.crt"
	// veritySigner is where systemd looks for signers of images that the kernel does not know.
	veritySigner = "/run/verity.d/holdfast.crt"
	// maxSigner bounds a certificate, in bytes.
	maxSigner = 64 << 10
)

// applicationSigners are the DER certificates that may sign applications: those that the
// firmware trusts. Without Secure Boot the firmware may have none, or somebody else's; the
// image's own then stands for them, for systemd too.
func (h *Host) applicationSigners() ([][]byte, error) {
	modes, err := h.efi.Modes()
	if err != nil {
		return nil, err
	}
	if !modes.SecureBoot {
		own, err := trustOwn(imageSigner, veritySigner)
		if err != nil || own != nil {
			return own, err
		}
	}
	db, err := h.efi.Read("db", efi.ImageSecurity)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates that may sign applications: %w", err)
	}
	return efi.ParseCertificates(db.Data)
}

// trustOwn gives the certificates of a PEM file, and copies it to where systemd looks; nil
// when there is no such file.
func trustOwn(from, to string) ([][]byte, error) {
	text, err := readLimited(from, maxSigner)
	if err != nil || text == nil {
		return nil, err
	}
	var list [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			list = append(list, block.Bytes)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("reading who has signed this image: %s has no certificate", from)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return nil, fmt.Errorf("telling systemd who has signed this image: %w", err)
	}
	if present, err := os.ReadFile(to); err == nil && string(present) == string(text) {
		return list, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("telling systemd who has signed this image: %w", err)
	}
	if err := os.WriteFile(to, text, 0o644); err != nil {
		return nil, fmt.Errorf("telling systemd who has signed this image: %w", err)
	}
	return list, nil
}

// hostExtensions is Extensions.
type hostExtensions struct {
	*Host
	manager *apps.Manager
}

// Refresh is part of Extensions. Whom to trust is told to systemd before it merges.
func (h hostExtensions) Refresh(ctx context.Context) error {
	if _, err := h.applicationSigners(); err != nil {
		h.log.Warn("finding out who may sign applications", "error", err)
	}
	return h.manager.Merge(ctx)
}
