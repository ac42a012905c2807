package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/media"
)

func imageISOCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "iso IMAGE OUT",
		Short: "Make a CD of an image",
		Long: "Make a CD of an image (raw or .gz), with its seed. A CD can install, and nothing else.\n" +
			"It is packed when the name ends in .gz.",
		Example: "  holdfast image iso Holdfast.img.gz Holdfast.iso",
		Args:    args("IMAGE", "OUT"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := rewriteImage(c.Context(), args[0], args[1], media.ISO); err != nil {
				return err
			}
			return write(env.Stdout, fmt.Appendf(nil, "Wrote %s\n", clean(args[1])))
		},
	}
}
