package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/seedmedia"
	"github.com/holdfast-os/holdfast/internal/system/smbios"
)

// errNoPartition is a system disk without a partition that the layout has.
var errNoPartition = errors.New("no partition")

// keptSeed is the document "seed": the seed as the node has taken it over, on the encrypted
// root volume. An application that is reset starts from it.
type keptSeed struct {
	// Documents are the documents by name, with their secrets.
	Documents map[string]json.RawMessage `json:"documents"`
	// Origin says where they came from, in words.
	Origin string `json:"origin"`
	// Wiped is true once the seed partition has no secrets any more.
	Wiped bool `json:"wiped"`
}

var seedDocument = state.Document{Name: "seed", Version: 1}

// nodeSeed is Seed: the archive on the disk that the machine was started from, or what
// package seedsource prefers to it.
type nodeSeed struct {
	mode bootinfo.Mode
	log  *slog.Logger
	// message shows news on the screen; level is "info", "warning" or "error".
	message func(level, text string)
	store   func() (*state.Store, error)
	// partition is the path of the seed partition, or errNoPartition.
	partition func(context.Context) (string, error)
	media     plugged
	// oem gives the OEM strings of the machine.
	oem func() ([]string, error)
	// typed are the keys that a person types.
	typed *typedKeys

	mu  sync.Mutex
	set *seed.Set
	// outside are the documents of a medium, as they were before anything was opened; nil
	// when the seed is that of the system disk.
	outside *seed.Set
	kept    keptSeed
}

// plugged are media that may still be on their way.
type plugged interface {
	seedsource.Media
	// Settle waits for those that are.
	Settle(ctx context.Context) error
}

func (h *Host) nodeSeed() *nodeSeed {
	return &nodeSeed{
		mode: h.info.Mode, log: h.log, message: h.display.Message, store: h.openStore, media: seedmedia.Host{},
		partition: func(ctx context.Context) (string, error) { return h.partition(ctx, layout.Seed) },
		oem:       func() ([]string, error) { return smbios.OEMStrings(root) },
		typed:     newTypedKeys(h.display, h.display.Message),
	}
}

// Read gives the seed, read once. A node that has taken its seed over reads no medium.
func (h *nodeSeed) Read(ctx context.Context) (*seed.Set, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.set != nil {
		return h.set, nil
	}
	if h.mode == bootinfo.Node {
		set, found, err := h.loadKept()
		if err != nil {
			return nil, err
		}
		if found {
			h.set = set
			return set, nil
		}
	}
	set, err := h.find(ctx)
	if err == nil {
		h.set = set
	}
	return set, err
}

func (h *nodeSeed) loadKept() (*seed.Set, bool, error) {
	store, err := h.store()
	if err != nil {
		return nil, false, err
	}
	var kept keptSeed
	loaded, err := store.Load(seedDocument, &kept)
	if err != nil || !loaded.Found {
		return nil, false, err
	}
	if loaded.Damage != nil {
		h.log.Error("state document damaged, its last copy is used", "document", seedDocument.Name, "error", loaded.Damage)
	}
	set, err := kept.set()
	h.kept = kept
	return set, true, err
}

// set reads the documents again. A release that is stricter than the one before must still
// start: what it refuses is left out.
func (k keptSeed) set() (*seed.Set, error) {
	set := &seed.Set{}
	for _, name := range seed.Names() {
		raw, ok := k.Documents[name]
		if !ok {
			continue
		}
		var problem *seed.Problem
		if err := set.Decode(name+".json", raw); err != nil && !errors.As(err, &problem) {
			return nil, fmt.Errorf("reading the seed that the node keeps: %w", err)
		}
	}
	return set, nil
}

// find looks for the seed. On a node a document with a mistake is shown and left out, since
// a node cannot wait for somebody to mend it; but for a sealed one it waits, since without
// it it would belong to nobody.
func (h *nodeSeed) find(ctx context.Context) (*seed.Set, error) {
	if err := h.media.Settle(ctx); err != nil {
		return nil, err
	}
	found, err := seedsource.Find(ctx, h.media, func() (io.ReadCloser, error) { return h.open(ctx) })
	if errors.Is(err, errNoPartition) && h.mode == bootinfo.Node {
		// What the seed said long ago is kept elsewhere; the node must not wait for it.
		h.log.Error("starting without a seed", "error", err)
		h.message("warning", "the seed: "+err.Error())
		return &seed.Set{}, nil
	}
	if err != nil && found.Origin == "" {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	h.outside = nil
	if found.Outside {
		raw := *found.Set
		h.outside = &raw
	}
	if found.Origin != "" {
		h.log.Info("using a seed", "from", found.Origin)
	}
	for _, warning := range found.Set.Warnings {
		h.tell("warning", warning)
	}
	err = errors.Join(err, h.unseal(ctx, found.Set))
	h.kept = keptSeed{Origin: found.Origin}
	return h.judge(found.Set, err)
}

// judge says whether the node can go on with a seed that has mistakes.
func (h *nodeSeed) judge(set *seed.Set, err error) (*seed.Set, error) {
	sealed := len(set.Sealed) > 0 && (h.mode == bootinfo.Node || set.Install == nil)
	if sealed {
		h.typed.Ask()
	} else {
		h.typed.Forget()
	}
	switch {
	case err == nil:
		return set, nil
	case sealed:
		return nil, fmt.Errorf("reading the seed: %w", locked(set.Sealed, err))
	}
	fatal := slices.ContainsFunc(seedsource.Problems(err), func(p *seed.Problem) bool { return p.Rule == seed.RuleRecoveryKeys })
	onlyLocked := !slices.ContainsFunc(seedsource.Problems(err), func(p *seed.Problem) bool {
		return p.Rule != seed.RuleSealed && p.Rule != seed.RuleKey
	})
	if fatal || h.mode == bootinfo.Install && !onlyLocked {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	// Only an install medium comes here with what is locked: the disk gets it as it is, and
	// the node's first start opens it.
	h.tell("warning", err)
	return set, nil
}

// locked puts one sentence for a person in the place of the error of each document that
// nothing opens: a screen has room for one.
func locked(documents []seed.Member, err error) error {
	names := make([]string, len(documents))
	for i, document := range documents {
		names[i] = document.Name
	}
	why := "no key or passphrase is at hand"
	var others []error
	for _, one := range seedsource.Joined(err) {
		var problem *seed.Problem
		switch {
		case !errors.As(one, &problem) || problem.Rule != seed.RuleSealed && problem.Rule != seed.RuleKey:
			others = append(others, one)
		case problem.Rule == seed.RuleKey:
			why = "the key or passphrase at hand does not open it"
		}
	}
	return errors.Join(append(others, fmt.Errorf("sealed, and %s: %s; type the passphrase here, which does not show, and Enter; "+
		"or plug in a medium labelled %s with the file %s, or set the OEM string %s of the machine (SMBIOS type 11): the node goes on by itself",
		why, strings.Join(names, ", "), seedsource.LabelKey, seedsource.FileKey, seedsource.KeyString))...)
}

// unseal opens what is sealed with the keys at hand, and with those that were typed.
func (h *nodeSeed) unseal(ctx context.Context, set *seed.Set) error {
	if len(set.Sealed) == 0 {
		return nil
	}
	keys, warnings := seedsource.Keys(ctx, h.media, h.oem)
	for _, warning := range warnings {
		h.tell("warning", warning)
	}
	return set.Open(append(keys, h.typed.Keys()...)...)
}

func (h *nodeSeed) tell(level string, err error) {
	h.log.Warn("the seed", "problem", err)
	h.message(level, "the seed: "+err.Error())
}

func (h *nodeSeed) open(ctx context.Context) (io.ReadCloser, error) {
	device, err := h.partition(ctx)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("opening the seed partition: %w", err)
	}
	return f, nil
}

// external are the documents of a medium for the disk that is installed; nil when the seed
// came from the install medium itself.
func (h *nodeSeed) external() *seed.Set {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.outside
}

// noInstall is the error when early boot saw a seed with a request to install and now
// there is another.
func (h *nodeSeed) noInstall() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.set = nil // it is looked for again
	return fmt.Errorf("installing: the seed of %s does not ask for it, and this start was for one that does: remove that medium, or restart with it plugged in", strings.TrimSpace(h.kept.Origin))
}

// Used keeps the seed on the root volume, and takes its secrets from the seed partition.
// It may be called again, and after a call that was cut short.
func (h *nodeSeed) Used(ctx context.Context) error {
	set, err := h.Read(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept.Wiped {
		return nil
	}
	return h.hold(ctx, set)
}

// Replace is part of Seed. The seed partition has the new document without its secrets: the
// root volume alone keeps them.
func (h *nodeSeed) Replace(ctx context.Context, name string, document json.RawMessage) error {
	set, err := h.Read(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	next := *set
	if next.Remove(name); document != nil {
		if err := next.Decode(name+".json", document); err != nil {
			return err
		}
	}
	return h.hold(ctx, &next)
}

// hold keeps a set as the seed of the node, and writes it without secrets to the partition.
func (h *nodeSeed) hold(ctx context.Context, set *seed.Set) error {
	store, err := h.store()
	if err != nil {
		return err
	}
	kept, err := keep(set, h.kept.Origin)
	if err != nil {
		return err
	}
	if err := store.Save(seedDocument, kept); err != nil {
		return fmt.Errorf("keeping the seed: %w", err)
	}
	h.set, h.kept = set, kept
	if err := h.wipe(ctx, set); err != nil {
		return err
	}
	kept.Wiped = true
	if err := store.Save(seedDocument, kept); err != nil {
		return fmt.Errorf("noting that the seed has no secrets any more: %w", err)
	}
	h.kept = kept
	return nil
}

func keep(set *seed.Set, origin string) (keptSeed, error) {
	kept := keptSeed{Origin: origin, Documents: map[string]json.RawMessage{}}
	for _, name := range seed.Names() {
		document, err := set.Get(name)
		if err != nil {
			continue // not there
		}
		text, err := json.Marshal(document)
		if err != nil {
			return keptSeed{}, fmt.Errorf("encoding the seed %s: %w", name, err)
		}
		kept.Documents[name] = text
	}
	return kept, nil
}

// wipe writes the seed partition anew, without secrets, and zeros behind it.
func (h *nodeSeed) wipe(ctx context.Context, set *seed.Set) (err error) {
	device, err := h.partition(ctx)
	if errors.Is(err, errNoPartition) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the seed partition: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, _, err := block.Size(f)
	if err != nil {
		return err
	}
	removed, err := wipeSeed(f, size, set)
	if err != nil {
		return fmt.Errorf("taking the secrets of the seed from %s: %w", device, err)
	}
	if len(removed) > 0 {
		h.log.Info("the seed partition has no secrets any more", "removed", removed)
	}
	return nil
}

// wipeSeed writes the documents of a set without their secrets into a partition of that
// size; all else in it becomes zero. It gives the places of the secrets.
func wipeSeed(partition media.Target, size int64, set *seed.Set) ([]string, error) {
	rest := *set
	removed := rest.Wipe()
	var archive bytes.Buffer
	if err := seed.MergeInstalled(bytes.NewReader(nil), &archive, &rest); err != nil {
		return nil, err
	}
	return removed, media.WriteSeed(partition, media.Region{Size: size}, archive.Bytes())
}
