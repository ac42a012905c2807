package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

func systemResetCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "factory-reset",
		Short: "Make a new node of this one: all that it has is lost",
		Long: "Make a new node of this one, with the release that runs and the seed that it has, or another one.\n" +
			"The TPM is cleared, and swap, root and the pool \"local\" are removed. The plan is shown before you\n" +
			"are asked.",
		Example: "  holdfast node system factory-reset --dry-run\n" +
			"  holdfast node system factory-reset -d '{\"seeds\": {\"network\": {\"version\": \"1\"}}}'",
		Args: args(),
	}
	data := c.Flags().StringP("data", "d", "", "the request as JSON: seeds, wipe_existing_seeds, allow_tpm_reset_failure")
	dryRun := c.Flags().Bool("dry-run", false, "change nothing, show what would be done")
	force := c.Flags().Bool("force", false, "do not ask")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var post osapi.FactoryResetPost
		if err := decodeData(*data, &post); err != nil {
			return usage(c, err)
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		plan := func() (osapi.Plan, error) { return node.PlanFactoryReset(c.Context(), post) }
		if *dryRun {
			return showPlan(n, plan)
		}
		if err := agree(n, *force, "Remove all that this node has, and begin anew?", plan); err != nil {
			return err
		}
		if err := node.FactoryReset(c.Context(), post); err != nil {
			return err
		}
		return write(n.env.Stdout, []byte("The node is being reset and restarts\n"))
	}
	return c
}

// decodeData reads the flag --data strictly; empty changes nothing.
func decodeData(data string, into any) error {
	if data == "" {
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	return nil
}

func applicationResetCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "factory-reset APPLICATION",
		Short: "Start an application anew: empty, with the node's seed",
		Long: "Start an application anew: empty, with the seed that the node has for it, or with another one, which\n" +
			"takes its place. The plan is shown before you are asked.",
		Example: "  holdfast node application factory-reset incus --dry-run\n" +
			"  holdfast node application factory-reset incus -d '{\"seeds\": {\"incus\": {\"apply_defaults\": true}}}'",
		Args:              args("APPLICATION"),
		ValidArgsFunction: n.completeApplications,
	}
	data := c.Flags().StringP("data", "d", "", "the request as JSON: seeds")
	dryRun := c.Flags().Bool("dry-run", false, "change nothing, show what would be done")
	force := c.Flags().Bool("force", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		var post osapi.ApplicationResetPost
		if err := decodeData(*data, &post); err != nil {
			return usage(c, err)
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		plan := func() (osapi.Plan, error) {
			p, err := node.PlanResetApplication(c.Context(), args[0], post)
			return p, explainApplication(err, args[0])
		}
		if *dryRun {
			return showPlan(n, plan)
		}
		if err := agree(n, *force, "Remove the data of application "+args[0]+", and begin anew?", plan); err != nil {
			return err
		}
		if err := node.ResetApplication(c.Context(), args[0], post); err != nil {
			return explainApplication(err, args[0])
		}
		return write(n.env.Stdout, fmt.Appendf(nil, "The application %s starts anew; see holdfast node operation list\n", clean(args[0])))
	}
	return c
}
