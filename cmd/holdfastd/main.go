// Command holdfastd brings a node up and answers its API. See internal/daemon, and
// internal/simulate for --simulate.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx)
	stop()
	os.Exit(simulate.ExitCode(err, os.Stderr))
}

func run(ctx context.Context) error {
	flags, err := simulate.ParseFlags(os.Args[1:], os.Stdout)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	if flags.Dir != "" {
		return simulate.Run(ctx, flags, log)
	}
	d, err := daemon.NewHost(ctx, log)
	if err != nil {
		return err
	}
	return d.Run(ctx)
}
