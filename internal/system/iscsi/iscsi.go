// Package iscsi is the adapter of open-iscsi: it logs in to targets and out of them with
// iscsiadm, and reads the present logins from sysfs.
//
// A record of a target is written by name and address, without asking the storage server
// for its list: what is logged in to is exactly what was asked for, also through a
// translated address. Records are "manual", so that nothing logs in by itself at the next
// start. iscsid must run.
//
// What can fail: the storage server does not answer or does not let the node in. iscsiadm
// then tries for about two minutes, or as long as the context lets it.
package iscsi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Exit codes of iscsiadm, from its manual.
const (
	sessionExists = 15
	noObjects     = 21
)

const (
	nameFile    = "etc/iscsi/initiatorname.iscsi"
	sessions    = "sys/class/iscsi_session"
	connections = "sys/class/iscsi_connection"
	// maxAttribute is the size of a page, the most that sysfs gives.
	maxAttribute = 4096
)

// Host is the machine that logs in.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs: iscsiadm.
	Run run.Runner
}

// Session is one login.
type Session struct {
	// Target is the name of the target.
	Target string
	// Address and Port are the portal as it was asked for, not one that the storage server
	// has redirected to.
	Address string
	Port    int
	// State is the kernel's word, as "LOGGED_IN" or "FAILED".
	State string
}

// NameFile is the text of the file with the node's name; empty when there is none.
func (h Host) NameFile() (string, error) {
	text, err := h.read(nameFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the iSCSI initiator's name: %w", err)
	}
	return text, nil
}

// Sessions are the present logins, sorted by target and address.
func (h Host) Sessions() ([]Session, error) {
	all, err := h.sessions()
	if err != nil {
		return nil, fmt.Errorf("reading the iSCSI sessions: %w", err)
	}
	return all, nil
}

func (h Host) sessions() ([]Session, error) {
	// Without the kernel's modules there is no such folder, and no session.
	entries, err := os.ReadDir(filepath.Join(h.Root, sessions))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Session
	for _, entry := range entries {
		session, err := h.session(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just gone
		}
		if err != nil {
			return nil, err
		}
		all = append(all, session)
	}
	slices.SortFunc(all, func(a, b Session) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Address, b.Address), a.Port-b.Port)
	})
	return all, nil
}

// session reads "session4" and its first connection, "connection4:0".
func (h Host) session(name string) (Session, error) {
	connection := filepath.Join(connections, "connection"+strings.TrimPrefix(name, "session")+":0")
	var session Session
	var port string
	for _, part := range []struct {
		path string
		into *string
	}{
		{filepath.Join(sessions, name, "targetname"), &session.Target}, {filepath.Join(sessions, name, "state"), &session.State},
		{filepath.Join(connection, "persistent_address"), &session.Address}, {filepath.Join(connection, "persistent_port"), &port},
	} {
		text, err := h.read(part.path)
		if err != nil {
			return Session{}, err
		}
		*part.into = strings.TrimSpace(text)
	}
	var err error
	if session.Port, err = strconv.Atoi(port); err != nil {
		return Session{}, fmt.Errorf("%s has the port %q", name, port)
	}
	return session, nil
}

// Login logs in to a target. One that is logged in to already is no error.
func (h Host) Login(ctx context.Context, target, address string, port int) error {
	node := node(target, address, port)
	for _, args := range [][]string{
		{"-o", "new"},
		{"-o", "update", "-n", "node.startup", "-v", "manual"},
		{"--login"},
	} {
		err := h.iscsiadm(ctx, append(slices.Clone(node), args...))
		if code, ended := run.ExitCode(err); ended && code == sessionExists {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("logging in to iSCSI target %s at %s: %w", target, net.JoinHostPort(address, strconv.Itoa(port)), err)
		}
	}
	return nil
}

// Logout logs out of a target and forgets it. One that is not logged in to is no error.
// The target's disks go away, also when they are in use.
func (h Host) Logout(ctx context.Context, target, address string, port int) error {
	node := node(target, address, port)
	for _, args := range [][]string{{"--logout"}, {"-o", "delete"}} {
		err := h.iscsiadm(ctx, append(slices.Clone(node), args...))
		if code, ended := run.ExitCode(err); ended && code == noObjects {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("logging out of iSCSI target %s at %s: %w", target, net.JoinHostPort(address, strconv.Itoa(port)), err)
		}
	}
	return nil
}

// node selects one target at one portal.
func node(target, address string, port int) []string {
	return []string{"-m", "node", "-T", target, "-p", net.JoinHostPort(address, strconv.Itoa(port))}
}

func (h Host) iscsiadm(ctx context.Context, args []string) error {
	_, err := h.Run(ctx, run.Command{Name: "iscsiadm", Args: args})
	return err
}

func (h Host) read(name string) (text string, err error) {
	file, err := os.Open(filepath.Join(h.Root, name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxAttribute))
	return string(data), err
}
