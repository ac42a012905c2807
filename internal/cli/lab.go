package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/lab"
)

func labCommand(env *Env) *cobra.Command {
	return group("lab", "Run nodes in virtual machines on this computer",
		"  holdfast lab up\n  holdfast lab list\n  holdfast node show --lab default",
		labUpCommand(env), labDownCommand(env), labListCommand(env), labLogCommand(env), labScreenshotCommand(),
		labPowerCommand(env), labExecCommand(env), labPipeCommand(env), labCloneCommand(env), labRemoveCommand(env))
}

// openLab opens the labs of the project around the working directory.
func openLab() (*lab.Lab, string, error) {
	root, err := projectRoot()
	if err != nil {
		return nil, "", err
	}
	l, err := lab.Open(root)
	return l, root, err
}

// nameOf is the lab that is meant: the argument at i, or the default one.
func nameOf(args []string, i int) string {
	if len(args) > i {
		return args[i]
	}
	return lab.DefaultName
}

// completeLabs offers the names of the labs to the shell, as the first argument.
func completeLabs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	l, _, err := openLab()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	infos, err := l.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, info := range infos {
		names = append(names, info.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func labUpCommand(env *Env) *cobra.Command {
	var o lab.Options
	c := &cobra.Command{
		Use:   "up [NAME]",
		Short: "Start a node, installing it first if need be, and wait until it answers",
		Long: "Start a node, installing it first if need be, and wait until it answers. A node that runs\n" +
			"is left alone; one that was stopped continues where its snapshot was taken.",
		Example:           "  holdfast lab up\n  holdfast lab up two --fresh\n  holdfast lab up try --variant test --from default",
		Args:              atMost("NAME"),
		ValidArgsFunction: completeLabs,
	}
	f := c.Flags()
	f.StringVar(&o.BuildDir, "build", "", "folder of the build (default .build/out of the project)")
	f.StringVar(&o.ReleaseDir, "release", "", "release tree to serve to the node (default .build/release of the project where it exists)")
	f.StringVar(&o.Variant, "variant", "", "\"test\" makes a node that takes commands (lab exec), out of the lab named by --from")
	f.StringVar(&o.From, "from", "", "clone this lab instead of installing; a test variant is made of \"default\" unless said otherwise")
	f.BoolVar(&o.Fresh, "fresh", false, "throw the machine away and install anew")
	f.BoolVar(&o.Hardware.Internet, "internet", false, "let a new machine reach the networks of this computer (default: only its client and its release server)")
	f.BoolVar(&o.NoWait, "no-wait", false, "return when the machine has been started")
	f.BoolVar(&o.NoSnapshot, "no-snapshot", false, "make no snapshot at the end")
	f.IntVar(&o.APIPort, "port", 0, "port of the API on 127.0.0.1 (default any free one)")
	f.IntVar(&o.ReleasePort, "release-port", 0, "port of the release server on 127.0.0.1 (default any free one)")
	f.IntVar(&o.Hardware.MemoryMiB, "memory", 0, "memory of a new machine in MiB (default 3072)")
	f.IntVar(&o.Hardware.CPUs, "cpus", 0, "processors of a new machine (default 2)")
	f.IntSliceVar(&o.Hardware.DiskGiB, "disk", nil, "size of a disk of a new machine in GiB, repeated for more (default 20)")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, root, err := openLab()
		if err != nil {
			return err
		}
		o.Name, o.Progress = nameOf(args, 0), env.Stderr
		if o.ReleaseDir == "" {
			if o.ReleaseDir, err = defaultTree(root); err != nil {
				return err
			}
		}
		o.Try = []string{
			"holdfast node show --lab " + o.Name,
			"holdfast node application list --lab " + o.Name,
			"holdfast lab log " + o.Name,
		}
		_, err = l.Up(c.Context(), o)
		return err
	}
	return c
}

// defaultTree is the project's release tree, or empty where nothing was published yet.
func defaultTree(root string) (string, error) {
	tree := filepath.Join(root, ".build", "release")
	_, err := os.Stat(tree)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for the release tree: %w", err)
	}
	return tree, nil
}

func labDownCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:               "down [NAME]",
		Short:             "Switch a node off; its disk and snapshot stay",
		Example:           "  holdfast lab down\n  holdfast lab down --all",
		Args:              atMost("NAME"),
		ValidArgsFunction: completeLabs,
	}
	all := c.Flags().Bool("all", false, "every lab of the project")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all && len(args) > 0 {
			return usage(c, errors.New("either NAME or --all"))
		}
		l, _, err := openLab()
		if err != nil {
			return err
		}
		names := []string{nameOf(args, 0)}
		if *all {
			infos, err := l.List()
			if err != nil {
				return err
			}
			names = nil
			for _, info := range infos {
				names = append(names, info.Name)
			}
		}
		var failed []error
		for _, name := range names {
			if err := l.Down(c.Context(), name); err != nil {
				failed = append(failed, err)
				continue
			}
			_, err := fmt.Fprintf(env.Stdout, "Lab %s is down\n", name)
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	}
	return c
}

// listedLab is one line of the list; its names are part of the JSON output.
type listedLab struct {
	Name     string `json:"name"`
	Running  bool   `json:"running"`
	Stage    string `json:"stage"`
	Release  string `json:"release"`
	Variant  string `json:"variant"`
	Endpoint string `json:"endpoint"`
	Snapshot bool   `json:"snapshot"`
	Dir      string `json:"dir"`
}

func labListCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the labs of the project",
		Example: "  holdfast lab list\n  holdfast lab list -f json",
		Args:    args(),
	}
	out := addFormat(env, c)
	c.RunE = func(*cobra.Command, []string) error {
		l, _, err := openLab()
		if err != nil {
			return err
		}
		infos, err := l.List()
		if err != nil {
			return err
		}
		list := []listedLab{}
		for _, i := range infos {
			list = append(list, listedLab{i.Name, i.Running, i.Stage, i.Release, i.Variant, i.Endpoint, i.Snapshot, i.Dir})
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encoding the list: %w", err)
		}
		return out.print(raw, as(labsView))
	}
	return c
}

func labsView(list []listedLab) view {
	t := table{head: []string{"NAME", "RUNNING", "STAGE", "RELEASE", "VARIANT", "ENDPOINT"}}
	for _, l := range list {
		t.rows = append(t.rows, []string{l.Name, yesNo(l.Running), l.Stage, l.Release, l.Variant, l.Endpoint})
	}
	return view{tables: []table{t}}
}

func labLogCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:               "log [NAME]",
		Short:             "Show what a machine wrote to its serial port",
		Example:           "  holdfast lab log\n  holdfast lab log two --follow",
		Args:              atMost("NAME"),
		ValidArgsFunction: completeLabs,
	}
	follow := c.Flags().Bool("follow", false, "go on until stopped")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, _, err := openLab()
		if err != nil {
			return err
		}
		return l.Log(c.Context(), nameOf(args, 0), env.Stdout, *follow)
	}
	return c
}

func labScreenshotCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "screenshot FILE [NAME]",
		Short:   "Write the screen of a running machine into a PNG file",
		Example: "  holdfast lab screenshot screen.png\n  holdfast lab screenshot two.png two",
	}
	c.Args = between(1, "FILE", "NAME")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, _, err := openLab()
		if err != nil {
			return err
		}
		path, err := filepath.Abs(args[0])
		if err != nil {
			return fmt.Errorf("screenshot file %s: %w", args[0], err)
		}
		return l.Screenshot(c.Context(), nameOf(args, 1), path)
	}
	return c
}

func labPowerCommand(env *Env) *cobra.Command {
	var words []string
	for _, a := range lab.Actions() {
		words = append(words, string(a))
	}
	c := &cobra.Command{
		Use:     "power ACTION [NAME]",
		Short:   "Press a machine's buttons, or pull its plug: " + strings.Join(words, ", "),
		Example: "  holdfast lab power reset\n  holdfast lab power cut two",
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return completeLabs(nil, given[1:], "")
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Args = between(1, "ACTION", "NAME")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !slices.Contains(words, args[0]) {
			return usage(c, fmt.Errorf("action %q: want %s", args[0], strings.Join(words, ", ")))
		}
		l, _, err := openLab()
		if err != nil {
			return err
		}
		if err := l.Power(c.Context(), nameOf(args, 1), lab.Action(args[0])); err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Lab %s: power %s\n", nameOf(args, 1), args[0])
		return err
	}
	return c
}
