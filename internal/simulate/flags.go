package simulate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
)

// Flags are what the command line of holdfastd says.
type Flags struct {
	// Dir is the folder of a simulated node; empty for this machine.
	Dir string
	// Listen and Faults are as in Options.
	Listen string
	Faults []Fault
}

// errUsage is a command line that cannot be understood.
var errUsage = errors.New("wrong command line")

const usage = `Usage: holdfastd
       holdfastd --simulate DIR [--listen ADDRESS] [--fault POINT[@DELAY][#TIMES]=ERROR]...

Without flags holdfastd brings this machine up as a node.

  --simulate DIR     be a node without a machine, which keeps what it has to in DIR
  --listen ADDRESS   where its API is over HTTPS; "" for the socket alone
                     (default 127.0.0.1:0, a port that is free; DIR/env says which)
  --fault FAULT      something that is to go wrong, as "network.apply@2s#1=no carrier";
                     more of it in DIR/faults.json
  --help             show this

Points: %s
`

// ParseFlags reads the arguments behind the program's name; help goes to out.
func ParseFlags(args []string, out io.Writer) (Flags, error) {
	var f Flags
	set := flag.NewFlagSet("holdfastd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.Dir, "simulate", "", "")
	set.StringVar(&f.Listen, "listen", "127.0.0.1:0", "")
	set.Func("fault", "", func(text string) error {
		fault, err := ParseFault(text)
		f.Faults = append(f.Faults, fault)
		return err
	})
	given := map[string]bool{}
	err := set.Parse(args)
	set.Visit(func(one *flag.Flag) { given[one.Name] = true })
	_, _, addressErr := net.SplitHostPort(f.Listen)
	switch {
	case errors.Is(err, flag.ErrHelp):
		if _, err := fmt.Fprintf(out, usage, strings.Join(FaultPoints(), ", ")); err != nil {
			return f, err
		}
		return f, flag.ErrHelp
	case err != nil:
	case set.NArg() > 0:
		err = fmt.Errorf("%q is too much: there are only flags", set.Arg(0))
	case given["simulate"] && f.Dir == "":
		err = errors.New("--simulate: a folder is needed")
	case f.Dir == "" && len(given) > 0:
		err = errors.New("--listen and --fault are for a simulated node: give --simulate DIR")
	case f.Listen != "" && addressErr != nil:
		err = fmt.Errorf("--listen: %q is not an address with a port, as 127.0.0.1:8443", f.Listen)
	}
	if err != nil {
		return f, fmt.Errorf("%w: %w", errUsage, err)
	}
	return f, nil
}

// ExitCode says what the program ends with, and tells a person why: 0 for no error and for
// the help, 2 for a wrong command line, 1 for the rest.
func ExitCode(err error, to io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	try := ""
	code := 1
	if errors.Is(err, errUsage) {
		code, try = 2, "try: holdfastd --help\n"
	}
	if _, err := fmt.Fprintf(to, "error: %v\n%s", err, try); err != nil {
		return 1
	}
	return code
}

// Options are those of the flags.
func (f Flags) Options() Options { return Options{Dir: f.Dir, Listen: f.Listen, Faults: f.Faults} }

// Run is a simulated node until the context ends or it is powered off.
func Run(ctx context.Context, f Flags, log *slog.Logger) error {
	o := f.Options()
	o.Log = log
	node, err := New(o)
	if err != nil {
		return err
	}
	return node.Run(ctx)
}
