package daemon

import (
	"testing"

	"github.com/holdfast-os/holdfast/api/release"
)

// A node in distress often has no provider that works, or none at all.
func TestProvider_MediumLent_ComesBeforeWhatIsConfigured(t *testing.T) {
	p := NewProvider(ProviderOptions{})
	if source, err := p.current(); err == nil {
		t.Fatalf("got %v", source)
	}
	lent, err := p.lend(t.TempDir(), release.Update{Version: "202611230104"})
	if err != nil {
		t.Fatal(err)
	}
	if source, err := p.current(); err != nil || source != lent {
		t.Errorf("got %v, %v", source, err)
	}
	if _, err := p.lend(t.TempDir(), release.Update{}); err == nil {
		t.Error("a second medium was taken")
	}
	p.giveBack(lent)
	if source, err := p.current(); err == nil {
		t.Errorf("got %v after it was given back", source)
	}
}
