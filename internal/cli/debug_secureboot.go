package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

func secureBootUpdateCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "secureboot-update FILE",
		Short: "Give the node's firmware other Secure Boot keys",
		Long: "Give the node's firmware other Secure Boot keys: an archive that `holdfast release\n" +
			"secureboot-update` has made, plain or packed. It is checked here and on the node, and the plan is\n" +
			"shown before you are asked. One variable is written in each start; the node goes on by itself\n" +
			"when it has been restarted.",
		Example: "  holdfast node debug secureboot-update SecureBootKeys_202611220104.tar.gz --dry-run\n" +
			"  holdfast node debug secureboot-update SecureBootKeys_202611220104.tar.gz",
		Args: args("FILE"),
	}
	dryRun := c.Flags().Bool("dry-run", false, "change nothing, show what would be done")
	force := c.Flags().Bool("force", false, "do not show the plan and do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		archive, err := readSecureBootArchive(args[0])
		if err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		plan := func() (osapi.Plan, error) {
			return node.PlanUpdateSecureBoot(c.Context(), bytes.NewReader(archive))
		}
		if *dryRun {
			return showPlan(n, plan)
		}
		if err := agree(n, *force, "Change the keys of the node's firmware?", plan); err != nil {
			return err
		}
		state, err := node.UpdateSecureBoot(c.Context(), bytes.NewReader(archive))
		if err != nil {
			return err
		}
		return write(n.env.Stdout, []byte(secureBootText(state)))
	}
	return c
}

// readSecureBootArchive reads an archive and checks its form.
func readSecureBootArchive(file string) (archive []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	archive, err = io.ReadAll(io.LimitReader(f, secureboot.MaxArchive+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	updates, err := secureboot.ReadArchive(bytes.NewReader(archive))
	if err == nil && len(updates) == 0 {
		err = errors.New("it has no update of a variable")
	}
	if err != nil {
		return nil, withTry(fmt.Errorf("%s: %w", file, err), "holdfast release secureboot-update --help")
	}
	return archive, nil
}

func secureBootText(state osapi.SecureBootState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", clean(state.Stage), clean(state.Status))
	for _, note := range state.Notes {
		fmt.Fprintf(&b, "note: %s\n", clean(note))
	}
	if state.NeedsReboot {
		b.WriteString("Restart the node to go on: holdfast node system reboot\n")
	}
	return b.String()
}
