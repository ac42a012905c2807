package event

import (
	"context"
	"log/slog"
	"maps"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// Limits of a line of the log as an event.
const (
	maxMessage    = 4 << 10
	maxValue      = 4 << 10
	maxAttributes = 64
)

// secretWords in the name of an attribute keep its value out of events. Nothing logs a
// secret; this is for the day when something does.
var secretWords = []string{"password", "passphrase", "secret", "token", "private_key", "recovery_key", "authorization", "credential"}

// handler hands each record to the log, and publishes it as an event.
type handler struct {
	hub    *Hub
	next   slog.Handler
	prefix string            // names of the open groups, each with a dot behind it
	attrs  map[string]string // of WithAttrs; never changed, only replaced
}

// NewHandler gives a handler that does what next does and publishes each line that next
// takes as an event of type logging. An event gets what the log gets: values that hide
// themselves (slog.LogValuer) are resolved before, and the value of an attribute whose
// name speaks of a secret is not sent at all.
func NewHandler(hub *Hub, next slog.Handler) slog.Handler {
	return &handler{hub: hub, next: next, attrs: map[string]string{}}
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	err := h.next.Handle(ctx, record)
	if !h.hub.wanted(osapi.EventTypeLogging) {
		return err
	}
	attrs := maps.Clone(h.attrs)
	record.Attrs(func(a slog.Attr) bool {
		add(attrs, h.prefix, a)
		return true
	})
	// What cannot be an event is in the log all the same, and telling the log would be
	// an event again.
	_ = h.hub.Publish(osapi.EventTypeLogging, osapi.EventLogging{
		Message: cut(record.Message, maxMessage), Level: levelName(record.Level), Context: attrs,
	})
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	all := maps.Clone(h.attrs)
	for _, a := range attrs {
		add(all, h.prefix, a)
	}
	return &handler{hub: h.hub, next: h.next.WithAttrs(attrs), prefix: h.prefix, attrs: all}
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &handler{hub: h.hub, next: h.next.WithGroup(name), prefix: h.prefix + name + ".", attrs: h.attrs}
}

// add puts an attribute into a flat map; a group becomes a prefix of its members.
func add(into map[string]string, prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range value.Group() {
			add(into, prefix, member)
		}
		return
	}
	if a.Equal(slog.Attr{}) || len(into) >= maxAttributes {
		return
	}
	key := cut(prefix+a.Key, maxValue)
	if isSecret(key) {
		into[key] = config.Secret
		return
	}
	into[key] = cut(value.String(), maxValue)
}

func isSecret(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// levelName gives the name that Incus has for a level.
func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warning"
	default:
		return "error"
	}
}

func cut(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.ToValidUTF8(text, "?")
}
