package drive

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/cli"
)

// Serve runs `holdfast image serve` on a tree until the end of the test, with more arguments,
// and gives the address that it prints. What it logs is shown when the test fails.
func Serve(t testing.TB, tree string, args ...string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	out, printed := io.Pipe()
	var log bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, append([]string{"image", "serve", tree, "--listen", "127.0.0.1:0"}, args...),
			cli.Env{Getenv: func(string) string { return "" }, Dir: tree, Stdin: strings.NewReader(""), Stdout: printed, Stderr: &log})
		printed.Close()
	}()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	go func() { _, _ = io.Copy(io.Discard, lines) }() // nobody reads on
	_, address, found := strings.Cut(strings.TrimSpace(line), " at ")
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != cli.ExitOK || t.Failed() {
			t.Errorf("holdfast image serve ended with %d:\n%s", code, &log)
		}
	})
	if err != nil || !found {
		t.Fatalf("holdfast image serve printed %q: %v", line, err)
	}
	return address
}
