package earlyboot

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// failing is a machine that could not start. Its clock jumps.
type failing struct {
	situation Situation
	noteErr   error
	giveUpErr error
	noted     []string
	gaveUp    bool
	rescuer   *fakeRescuer
}

func (f *failing) Note(_ context.Context, lines []string) (Situation, error) {
	f.noted = lines
	return f.situation, f.noteErr
}

func (f *failing) GiveUp(context.Context) error {
	f.gaveUp = true
	return f.giveUpErr
}

func (f *failing) Rescuer() Rescuer { return f.rescuer }

func (f *failing) After(time.Duration) <-chan time.Time {
	now := make(chan time.Time, 1)
	now <- failedAt
	return now
}

func brokenDisk(_ context.Context, c run.Command) (run.Result, error) {
	if c.Name == "systemctl" {
		return run.Result{Stdout: []byte("holdfast-root.service loaded failed failed Open the system disk\nlonely.service\n\n")}, nil
	}
	return run.Result{Stdout: []byte("error: the disk is gone\n\n  \x1b[2Jcleared\n" + strings.Repeat("ä", 301) + "\n")}, errors.New("journalctl: killed")
}

const whatFailed = `
  Holdfast could not start.

  What failed:
    holdfast-root.service
    lonely.service
  What was said last:
    error: the disk is gone
    ?[2Jcleared
    `

// Whoever stands before a node that does not start reads this, and nothing else.
func TestFailed_FailedStart_SaysWhatAndWhatComesNext(t *testing.T) {
	next := "\n  The machine starts again in 30s. While tries are left it starts this release,\n  then the one before it.\n\n"
	said := whatFailed + strings.Repeat("ä", 300) + "...\n  (journalctl: killed)\n"
	good, older := bootloader.Entry{Version: "202611220104", TriesLeft: -1, Booted: true}, bootloader.Entry{Version: "202611210104", TriesLeft: -1}
	times := func(n int) failureNote {
		return failureNote{Format: 1, Releases: []notedFailure{{Version: "202611220104", InARow: n}}}
	}
	for name, c := range map[string]struct {
		machine failing
		want    string
		gaveUp  bool
	}{
		"another may work": {failing{situation: Situation{Entries: []bootloader.Entry{good, older}, Node: true, note: times(1)}}, said + next, false},
		"too often": {failing{situation: Situation{Entries: []bootloader.Entry{good, older}, Node: true, note: times(3)}},
			said + "\n  Release 202611220104 has failed 3 times in a row and is given up: the other one is next.\n" + next, true},
		"too often, read-only": {failing{situation: Situation{Entries: []bootloader.Entry{good, older}, Node: true, note: times(3)}, giveUpErr: errors.New("read-only")},
			said + "  (release 202611220104 is not given up: read-only)\n" + next, true},
		"a medium":       {failing{situation: Situation{Entries: []bootloader.Entry{good}, note: times(1)}}, said + next, false},
		"nobody knows":   {failing{noteErr: errors.New("no disk")}, said + "  (what else could be started is not known: no disk)\n" + next, false},
		"an unknown one": {failing{situation: Situation{Entries: []bootloader.Entry{older}, Node: true}}, said + next, false},
	} {
		var log, screen bytes.Buffer
		if err := Failed(t.Context(), brokenDisk, &c.machine, Screens{Log: &log, Consoles: &screen}); err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff([]string{c.want, c.want}, []string{log.String(), screen.String()}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if c.machine.gaveUp != c.gaveUp {
			t.Errorf("%s: given up: %t", name, c.machine.gaveUp)
		}
		noted := []string{"holdfast-root.service", "lonely.service", "error: the disk is gone", "?[2Jcleared", strings.Repeat("ä", 300) + "..."}
		if diff := cmp.Diff(noted, c.machine.noted); diff != "" {
			t.Errorf("%s: noted %s", name, diff)
		}
	}
}

// A console that is gone is told to systemd, and the machine starts again all the same.
func TestFailed_NoConsole_EndsAllTheSame(t *testing.T) {
	broken := errors.New("no console")
	machine := &failing{noteErr: errors.New("no disk")}
	var log bytes.Buffer
	if err := Failed(t.Context(), brokenDisk, machine, Screens{Log: &log, Consoles: gone{broken}}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if !strings.HasPrefix(log.String(), whatFailed) {
		t.Error("the log does not say why")
	}
}

// gone is a console that takes nothing.
type gone struct{ err error }

func (g gone) Write([]byte) (int, error) { return 0, g.err }
