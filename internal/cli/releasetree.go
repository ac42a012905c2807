package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/publisher"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/tuf"
)

// changeTree fills in a command that changes a release of a tree: the arguments begin with
// the tree and the version.
func changeTree(c *cobra.Command, change func(ctx context.Context, o release.TreeOptions, args []string) error) *cobra.Command {
	signer := addSigner(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := signer.open(c, "--sign-key and --sign-cert", nil)
		if err != nil {
			return err
		}
		err = change(c.Context(), release.TreeOptions{
			Tree: args[0], Signer: s, Metadata: publisher.Metadata{Tree: args[0], Keys: signer.keys()}}, args[1:])
		if errors.Is(err, release.ErrNoRelease) || errors.Is(err, release.ErrChannel) {
			return withTry(err, "holdfast release list "+args[0])
		}
		return err
	}
	return c
}

func releasePromoteCommand(env *Env) *cobra.Command {
	return changeTree(&cobra.Command{
		Use:   "promote TREE VERSION CHANNEL",
		Short: "Bring a release into one more channel",
		Long: "Bring a release into one more channel, with a changelog against the release before it\n" +
			"there. Its files stay as they are. In the channel already: nothing changes.",
		Example: "  holdfast release promote /srv/releases 202611220104 stable",
		Args:    args("TREE", "VERSION", "CHANNEL"),
	}, func(ctx context.Context, o release.TreeOptions, args []string) error {
		update, err := release.Promote(ctx, o, args[0], args[1])
		if err != nil {
			return err
		}
		return sayChannels(env, update)
	})
}

func releaseDemoteCommand(env *Env) *cobra.Command {
	return changeTree(&cobra.Command{
		Use:   "demote TREE VERSION CHANNEL",
		Short: "Take a release out of a channel",
		Long: "Take a release out of a channel, and its changelog there with it. Nodes that run it stay\n" +
			"on it until a newer one comes: no node goes back to an older release. Its files stay\n" +
			"until the tree is pruned.",
		Example: "  holdfast release demote /srv/releases 202611220104 stable",
		Args:    args("TREE", "VERSION", "CHANNEL"),
	}, func(ctx context.Context, o release.TreeOptions, args []string) error {
		update, err := release.Demote(ctx, o, args[0], args[1])
		if err != nil {
			return err
		}
		return sayChannels(env, update)
	})
}

func sayChannels(env *Env, update api.Update) error {
	where := "no channel"
	if len(update.Channels) > 0 {
		where = strings.Join(update.Channels, ", ")
	}
	_, err := fmt.Fprintf(env.Stdout, "Release %s is in %s\n", update.Version, where)
	return err
}

func releaseSeverityCommand(env *Env) *cobra.Command {
	return changeTree(&cobra.Command{
		Use:     "severity TREE VERSION SEVERITY",
		Short:   "Say how urgent a release is",
		Long:    "Say how urgent a release is: none, low, medium, high or critical. Nodes show it.",
		Example: "  holdfast release severity /srv/releases 202611220104 high",
		Args:    args("TREE", "VERSION", "SEVERITY"),
	}, func(ctx context.Context, o release.TreeOptions, args []string) error {
		update, err := release.SetSeverity(ctx, o, args[0], api.Severity(args[1]))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Release %s has the severity %s\n", update.Version, update.Severity)
		return err
	})
}

func releasePruneCommand(env *Env) *cobra.Command {
	return changeTree(&cobra.Command{
		Use:   "prune TREE COUNT",
		Short: "Keep the newest releases of every channel and remove the others",
		Long: "Keep the newest COUNT releases of every channel, and remove from the tree what no channel\n" +
			"keeps. Nodes that run a removed release update from it as before: deltas from it lie with\n" +
			"the newer releases. Documents of the trusted metadata that nothing refers to go too, once\n" +
			"they are an hour old.",
		Example: "  holdfast release prune /srv/releases 10",
		Args:    args("TREE", "COUNT"),
	}, func(ctx context.Context, o release.TreeOptions, args []string) error {
		count, err := strconv.Atoi(args[0])
		if err != nil {
			return fmt.Errorf("COUNT %q is no number", args[0])
		}
		gone, err := release.Prune(ctx, o, count)
		if err != nil {
			return err
		}
		old, err := tuf.Prune(o.Tree, time.Now())
		if err != nil {
			return err
		}
		if len(old) > 0 {
			gone = append(gone, fmt.Sprintf("%d old documents of the metadata", len(old)))
		}
		if len(gone) == 0 {
			_, err = fmt.Fprintln(env.Stdout, "Nothing to remove")
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Removed %s\n", strings.Join(gone, ", "))
		return err
	})
}

func releaseListCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:     "list TREE",
		Short:   "List the releases of a tree in a folder, newest first",
		Long:    "List the releases of a tree in a folder, newest first. Nothing is checked: see verify.",
		Example: "  holdfast release list .build/release\n  holdfast release list /srv/releases --channel stable -f json",
		Args:    args("TREE"),
	}
	channel := c.Flags().String("channel", "", "only those of this channel")
	out := addFormat(env, c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		index, err := release.List(args[0])
		if err != nil {
			return err
		}
		if *channel != "" {
			index.Updates = inChannel(index.Updates, *channel)
		}
		return printIndex(out, index)
	}
	return c
}

func inChannel(all []api.Update, channel string) []api.Update {
	kept := []api.Update{}
	for _, update := range all {
		for _, c := range update.Channels {
			if c == channel {
				kept = append(kept, update)
			}
		}
	}
	return kept
}

func releaseExportCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "export TREE --to DIR",
		Short: "Copy one release with its signatures, to a USB stick or a mirror",
		Long: "Copy one release of a tree, with index and metadata as they were signed. A node that is\n" +
			"pointed to the copy takes the newest release of its channel, so that only such a one can\n" +
			"be exported.",
		Example: "  holdfast release export /srv/releases --to /media/stick/holdfast\n" +
			"  holdfast release export /srv/releases --to /media/stick/holdfast --version 202611220104",
		Args: args("TREE"),
	}
	to := c.Flags().String("to", "", "folder to copy to; it is made when it is not there")
	version := c.Flags().String("version", "", "the release (default the newest of all)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *to == "" {
			return usage(c, errors.New("--to is missing"))
		}
		update, err := release.Export(c.Context(), args[0], *to, *version)
		if errors.Is(err, release.ErrNoRelease) || errors.Is(err, release.ErrNotNewest) {
			return withTry(err, "holdfast release list "+args[0])
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Release %s is copied to %s\n", update.Version, *to)
		return err
	}
	return c
}
