// Command holdfast builds, tries and manages Holdfast nodes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-os/holdfast/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
