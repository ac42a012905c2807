package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/image"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

func imageCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Build the operating system and its install medium",
		Example: "  holdfast image build",
	}
	cmd.AddCommand(imageBuildCommand(), imageRenderCommand(), imagePackagesCommand(env), imageServeCommand(env))
	cmd.AddCommand(imageToolCommands(env)...)
	return cmd
}

func imageBuildCommand() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build what is missing or out of date, into .build/out",
		Long: "Builds the tools tree, ZFS' modules, the image and the applications, each only when\n" +
			"something that it is made of has changed. Run it again after a failure: it goes on.",
		Example: "  holdfast image build\n  holdfast image build --version 202611220104",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := projectRoot()
			if err != nil {
				return err
			}
			cache, err := tooltree.CacheDir()
			if err != nil {
				return err
			}
			_, err = image.Build(cmd.Context(), image.Options{
				Root: root, Cache: cache, Version: version, Out: cmd.ErrOrStderr(),
			})
			return err
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "the release, a UTC time as YYYYMMDDhhmm (default now)")
	return cmd
}

func imageRenderCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "render DIR",
		Short:   "Write the rendered parts of the image's configuration into the build's work folder",
		Example: "  holdfast image render .build/image",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := image.Render(args[0]); err != nil {
				return fmt.Errorf("rendering into %s: %w", args[0], err)
			}
			return nil
		},
	}
}
