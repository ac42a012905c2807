package config_test

import (
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/config"
)

func TestProblems_AllAreTold_EachWithPathAndRule(t *testing.T) {
	var p config.Problems
	p.Add("a[0].b", "unique", "%q is used", "x")
	p.Add("c", "range", "5 is too much")
	if want := `a[0].b: "x" is used (rule unique); c: 5 is too much (rule range)`; p.Err().Error() != want {
		t.Errorf("got %s", p.Err())
	}
	if err := config.Problems(nil).Err(); err != nil {
		t.Errorf("no problems are %v", err)
	}
}

// A document that is wrong in a million places is told in a page.
func TestProblems_Endless_AreCut(t *testing.T) {
	var p config.Problems
	for range 1000 {
		p.Add(strings.Repeat("p", 10_000), "r", "%s", strings.Repeat("t", 10_000))
	}
	text := p.Error()
	if len(text) > 120_000 || !strings.HasSuffix(text, "; and 900 more") {
		t.Errorf("%d bytes, ends with %q", len(text), text[len(text)-40:])
	}
}

func TestSecrets_KeepAndHide(t *testing.T) {
	for _, c := range []struct {
		value, kept, want string
		ok                bool
	}{
		{"new", "old", "new", true}, {config.Secret, "old", "old", true}, {config.Secret, "", "", false}, {"", "old", "", true},
	} {
		value := c.value
		if ok := config.Keep(&value, c.kept); ok != c.ok || value != c.want {
			t.Errorf("%+v: got %q, %t", c, value, ok)
		}
	}
	hidden, empty := "hunter2", ""
	config.Hide(&hidden)
	config.Hide(&empty)
	if hidden != config.Secret || empty != "" {
		t.Errorf("got %q and %q", hidden, empty)
	}
}
