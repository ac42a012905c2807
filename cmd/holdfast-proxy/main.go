// Command holdfast-proxy sends what the node's programs ask of the web to the proxies
// that the owner configured. See internal/proxy.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-os/holdfast/internal/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := proxy.Command(ctx, os.Getenv("CREDENTIALS_DIRECTORY"), slog.New(slog.NewTextHandler(os.Stdout, nil)))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
