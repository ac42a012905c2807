package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	apirelease "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/system/removable"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
)

const (
	// rescueMount is where a rescue medium is mounted, and hotfixFile where its script lies
	// while it runs.
	rescueMount = "/run/holdfast/rescue"
	hotfixFile  = "/run/holdfast/hotfix.sh"
	// hotfixLimit is how long a script may take.
	hotfixLimit = 10 * time.Minute
)

// hostRescue is Rescues.
type hostRescue struct {
	*Host
	updates hostUpdates
}

// Use is part of Rescues.
func (h hostRescue) Use(ctx context.Context, until <-chan struct{}) error {
	device, err := removable.Find(root, rescue.Label)
	if err != nil || device == "" {
		return err
	}
	running, err := h.facts.Release()
	if err != nil {
		return err
	}
	anchors, err := rescue.ReadAnchors(os.DirFS(rescue.AnchorDir))
	if err != nil {
		return err
	}
	unmount, err := removable.Mount(device, rescueMount)
	if err != nil {
		return err
	}
	h.say("info", "found the rescue medium "+device)
	found, err := rescue.Read(os.DirFS(rescueMount), anchors, rescue.Facts{Architecture: architecture(), Oldest: h.oldest(running.Version), Now: time.Now()})
	if found.Hotfix != nil {
		err = errors.Join(err, h.hotfix(ctx, found.Hotfix))
	}
	if found.Update == nil {
		return errors.Join(err, unmount())
	}
	source, openErr := h.source.lend(rescueMount+"/"+rescue.UpdateDir, *found.Update)
	if openErr != nil {
		return errors.Join(err, openErr, unmount())
	}
	go func() {
		<-until
		h.source.giveBack(source)
		if err := unmount(); err != nil {
			h.log.Warn("the rescue medium stays mounted", "error", err)
		}
	}()
	h.say("info", "applications are taken from release "+found.Update.Version+" on the rescue medium until this node is ready")
	if !found.System || found.Update.Version == running.Version {
		return err
	}
	return errors.Join(err, h.update(ctx, found.Update.Version))
}

// oldest is the oldest release that a medium may bring. A node that does not remember more
// goes by what runs.
func (h hostRescue) oldest(running string) string {
	remembered, _, err := h.updates.agent.Store.Load()
	if err != nil {
		h.log.Warn("rescue medium: which releases were good is not known", "error", err)
		return running
	}
	return remembered.KnownGood(running)
}

func (h hostRescue) say(level, text string) {
	h.log.Info("rescue medium", "text", text)
	h.display.Message(level, text)
}

// update brings the release of the medium into the other slot and restarts into it. The
// agent may still be busy with what the last start has left.
func (h hostRescue) update(ctx context.Context, version string) error {
	h.say("info", "updating to release "+version+" from the rescue medium")
	for tries := 20; ; tries-- {
		err := h.updates.agent.Check(ctx, update.CheckOptions{Startup: true, OSOnly: true})
		if tries == 0 || !errors.Is(err, update.ErrBusy) && !errors.Is(err, update.ErrOnTrial) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("updating to release %s: %w", version, ctx.Err())
		case <-time.After(3 * time.Second):
		}
	}
}

// hotfix runs a script that was verified.
func (h hostRescue) hotfix(ctx context.Context, script []byte) (err error) {
	h.say("warning", "running the signed script of the rescue medium")
	if err := os.WriteFile(hotfixFile, script, 0o600); err != nil {
		return fmt.Errorf("writing the script of the rescue medium: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(hotfixFile)) }()
	limited, cancel := context.WithTimeout(ctx, hotfixLimit)
	defer cancel()
	result, err := run.Host(limited, run.Command{Name: "/usr/bin/bash", Args: []string{hotfixFile}, Dir: "/"})
	const most = 4 << 10
	said := strings.TrimSpace(string(result.Stdout[:min(len(result.Stdout), most)]))
	if err != nil {
		return fmt.Errorf("running the script of the rescue medium: %w", err)
	}
	h.say("info", "the script of the rescue medium has ended: "+said)
	return nil
}

// lend puts the release of a medium in the place of whatever provider there is.
func (p *Provider) lend(folder string, found apirelease.Update) (updater.Source, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent != nil {
		return nil, errors.New("another rescue medium is in use")
	}
	p.lent = updater.OpenMedium(os.DirFS(folder), found, architecture())
	return p.lent, nil
}

// giveBack ends it.
func (p *Provider) giveBack(source updater.Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent == source {
		p.lent = nil
	}
}
