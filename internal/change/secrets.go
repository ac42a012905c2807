package change

import (
	"encoding/json"
	"fmt"

	"github.com/holdfast-os/holdfast/internal/config"
)

// Secrets are all that the kept documents hold: in effect, pending, and in the history.
// Each is there once.
func (e *Engine) Secrets() ([]string, error) {
	e.mu.Lock()
	if e.store == nil {
		e.mu.Unlock()
		return nil, ErrNotLoaded
	}
	all := []map[string]json.RawMessage{e.doc.Sections}
	for _, p := range []*pending{e.busy, e.interrupted} {
		if p != nil {
			all = append(all, p.Before, p.After)
		}
	}
	e.mu.Unlock()
	history, err := e.History()
	if err != nil {
		return nil, err
	}
	for _, entry := range history {
		all = append(all, entry.Before, entry.After)
	}
	seen, found := map[string]bool{}, []string{}
	for _, sections := range all {
		for name, raw := range sections {
			secrets, err := e.secretsOf(name, raw)
			if err != nil {
				return nil, err
			}
			for _, secret := range secrets {
				if !seen[secret] {
					seen[secret] = true
					found = append(found, secret)
				}
			}
		}
	}
	return found, nil
}

// secretsOf are the texts that a section hides: those that differ between the document
// and what is shown of it.
func (e *Engine) secretsOf(name string, raw json.RawMessage) ([]string, error) {
	section, err := e.section(name)
	if err != nil || len(raw) == 0 {
		return nil, nil // a section of another release: nothing here can show it
	}
	hidden, err := section.Hide(raw)
	if err != nil {
		return nil, err
	}
	var is, shown any
	if err := json.Unmarshal(raw, &is); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", name, err)
	}
	if err := json.Unmarshal(hidden, &shown); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", name, err)
	}
	return hiddenTexts(is, shown), nil
}

func hiddenTexts(is, shown any) []string {
	var found []string
	switch is := is.(type) {
	case string:
		if shown == config.Secret && is != config.Secret {
			found = append(found, is)
		}
	case []any:
		list, _ := shown.([]any)
		for i := range is {
			if i < len(list) {
				found = append(found, hiddenTexts(is[i], list[i])...)
			}
		}
	case map[string]any:
		members, _ := shown.(map[string]any)
		for key := range is {
			found = append(found, hiddenTexts(is[key], members[key])...)
		}
	}
	return found
}
