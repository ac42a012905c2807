package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/publisher"
)

// projectKeys are the development keys of the trusted metadata, in the project.
const projectKeys = ".keys/releases"

func releaseKeysCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys [DIR]",
		Short: "Make the keys of the trusted metadata that are missing",
		Long: "Make a key for each role (root, targets, snapshot, timestamp) and for each channel, and\n" +
			"root.json, by which a node trusts releases signed with them. Keys that are there stay.\n\n" +
			"All of them in one folder are good for development. For a product keep root and targets\n" +
			"offline: a computer that publishes needs snapshot, timestamp and its channels.",
		Example: "  holdfast release keys\n  holdfast release keys /media/safe --channel stable --channel testing",
		Args:    cobra.MaximumNArgs(1),
	}
	channels := c.Flags().StringSlice("channel", []string{"stable"}, "channel to make a key for; may be repeated")
	c.RunE = func(c *cobra.Command, args []string) error {
		dir, err := keyFolder(args)
		if err != nil {
			return err
		}
		if err := (publisher.Keys{Dir: dir}).Make(c.Context(), *channels...); err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "The keys are in %s; a node needs root.json of them\n", dir)
		return err
	}
	return c
}

// keyFolder is the first argument, or the project's folder.
func keyFolder(args []string) (string, error) {
	if len(args) > 0 && args[0] != "" {
		return args[0], nil
	}
	root, err := projectRoot()
	if err != nil {
		return "", withTry(err, "name the folder of keys, or run this within the project")
	}
	return filepath.Join(root, projectKeys), nil
}

// addKeys adds the flag --keys.
func addKeys(c *cobra.Command) *string {
	return c.Flags().String("keys", "", "folder with the keys of the trusted metadata (default .keys/releases of the project)")
}

func releaseRefreshCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "refresh TREE",
		Short: "Sign the trusted metadata anew before they end",
		Long: "Sign anew what has used up half of its time, as far as its keys are at hand, and say what\n" +
			"else is due. Run it daily: nodes refuse metadata that have ended, so that nobody can hold\n" +
			"them back on an old release.",
		Example: "  holdfast release refresh /srv/releases",
		Args:    args("TREE"),
	}
	keys := addKeys(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		dir, err := keyFolder([]string{*keys})
		if err != nil {
			return err
		}
		due, err := publisher.Metadata{Tree: args[0], Keys: publisher.Keys{Dir: dir}}.Refresh(c.Context())
		if err != nil {
			return err
		}
		for _, d := range due {
			if _, err := fmt.Fprintf(env.Stdout, "%s ends on %s, and its key is not in %s\n", d.Role, d.Expires.UTC().Format("2006-01-02"), dir); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(env.Stdout, "The metadata of %s are up to date\n", args[0])
		return err
	}
	return c
}

func releaseRotateCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate TREE ROLE KEY...",
		Short: "Give a role of the trusted metadata other keys",
		Long: "Give a role other keys: root, targets, snapshot, timestamp, or a channel. The old keys of\n" +
			"root must be at hand for a change of root or of another role; nodes follow by themselves.",
		Example: "  holdfast release rotate /srv/releases timestamp new-timestamp.pem\n" +
			"  holdfast release rotate /srv/releases root a.pem b.pem c.pem --threshold 2",
		Args: cobra.MinimumNArgs(3),
	}
	keys := addKeys(c)
	threshold := c.Flags().Int("threshold", 1, "how many of the keys must sign")
	c.RunE = func(c *cobra.Command, args []string) error {
		dir, err := keyFolder([]string{*keys})
		if err != nil {
			return err
		}
		m := publisher.Metadata{Tree: args[0], Keys: publisher.Keys{Dir: dir}}
		if err := m.Rotate(c.Context(), args[1], *threshold, args[2:]...); err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "The role %s has %d new keys\n", args[1], len(args)-2)
		return err
	}
	return c
}
