// Command guest is all the programs of the container that the VM tests launch: its
// init, and the few tools that a test runs inside. It is built by the test, static,
// and put into the image under each name.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if err := run(filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	switch name {
	case "init":
		return serve()
	case "cat":
		return cat(args)
	case "put":
		if len(args) < 2 {
			return errors.New("put: want a file and its text")
		}
		return os.WriteFile(args[0], []byte(strings.Join(args[1:], " ")), 0o600)
	}
	return fmt.Errorf("%s: not a program of this container", name)
}

// serve lives until the container is stopped (SIGPWR and SIGRTMIN+3 are how it is
// asked) and collects what ends before it.
func serve() error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			reap()
		case syscall.SIGPWR, syscall.SIGTERM, syscall.SIGINT, syscall.Signal(37):
			return nil
		}
	}
	return nil
}

func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

func cat(names []string) error {
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}
