package recovery_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/recovery"
)

const generated = "cccbcdce-cfcgchci-cjckclcn-crctcucv-bcbbbdbe-bfbgbhbi-bjbkblbn-brbtbuvv"

// rules gives the path and the rule of each problem.
func rules(problems config.Problems) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.Path+" "+p.Rule)
	}
	return all
}

// A recovery key that can be guessed makes the encryption of a stolen disk worth nothing;
// one that cannot be typed makes the node's data lost. All is said at once.
func TestCheck_Keys_GiveEveryProblem(t *testing.T) {
	const at = "encryption_recovery_keys"
	for name, c := range map[string]struct {
		before, next []string
		want         []string
	}{
		"none":                        {nil, nil, []string{at + " required"}},
		"generated":                   {nil, []string{generated}, nil},
		"sentence":                    {nil, []string{"a heron stole my left glove, twice"}, nil},
		"random":                      {nil, []string{"vG7#qLz2!wPx9Kd"}, nil},
		"14 characters":               {nil, []string{"vG7#qLz2!wPx9K"}, []string{at + "[0] length"}},
		"no symbol":                   {nil, []string{"vG7qLz2wPx9KdMt4"}, []string{at + "[0] symbol"}},
		"four different characters":   {nil, []string{"ax!7ax7!xa!7ax!7xa"}, []string{at + "[0] variety"}},
		"a word and a sequence":       {nil, []string{"Password-123456789"}, []string{at + "[0] guessable"}},
		"a word with signs for it":    {nil, []string{"P@$$w0rd!P@$$w0rd!"}, []string{at + "[0] guessable"}},
		"rows of the keyboard":        {nil, []string{"qwertyuiop!asdfghjkl"}, []string{at + "[0] guessable"}},
		"rows backwards":              {nil, []string{"poiuytrewq!lkjhgfdsa"}, []string{at + "[0] guessable"}},
		"words of this node":          {nil, []string{"Holdfast-Recovery-Node-1"}, []string{at + "[0] guessable"}},
		"the phrase everyone knows":   {nil, []string{"correct horse battery staple"}, []string{at + "[0] guessable"}},
		"repetition":                  {nil, []string{"xk4!xk4!xk4!xk4!xk4!z"}, []string{at + "[0] guessable"}},
		"a line break":                {nil, []string{generated + "\n"}, []string{at + "[0] characters", at + "[0] spaces"}},
		"a space at its end":          {nil, []string{"vG7#qLz2!wPx9Kd "}, []string{at + "[0] spaces"}},
		"a letter no keyboard has":    {nil, []string{"vG7#qLz2!wPx9Kdö"}, []string{at + "[0] characters"}},
		"too long":                    {nil, []string{strings.Repeat("vG7#qLz2!wPx9Kd_", 33)}, []string{at + "[0] length"}},
		"all that is wrong with two":  {nil, []string{"aaa", "bbb!"}, []string{at + "[0] length", at + "[0] variety", at + "[0] symbol", at + "[0] guessable", at + "[1] length", at + "[1] variety", at + "[1] guessable"}},
		"twice":                       {nil, []string{generated, generated}, []string{at + "[1] unique"}},
		"in force already":            {[]string{"weak"}, []string{"weak", generated}, nil},
		"generated form, no accident": {nil, []string{"cccccccc" + strings.Repeat("-cccccccc", 7)}, []string{at + "[0] variety"}},
	} {
		if diff := cmp.Diff(c.want, rules(recovery.Check(c.before, c.next))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A volume has 32 keyslots; a list that is too long must not end half enrolled.
func TestCheck_TooManyKeys_SaysSo(t *testing.T) {
	keys := make([]string, 17)
	for i := range keys {
		keys[i] = string(rune('A'+i)) + "G7#qLz2!wPx9Kd"
	}
	if diff := cmp.Diff([]string{"encryption_recovery_keys count"}, rules(recovery.Check(nil, keys))); diff != "" {
		t.Error(diff)
	}
}

// The answer of the API and the log of a node are read by many; the keys by few.
func TestCheck_Problems_RepeatNoKey(t *testing.T) {
	const key = "hunter2"
	if text := recovery.Check(nil, []string{key, key}).Error(); strings.Contains(text, key) {
		t.Errorf("the key is in: %s", text)
	}
}

// step is what matters of a step: which tool, on what, with which arguments.
func steps(p plan.Plan) []string {
	var all []string
	for _, s := range p.Steps {
		line := s.Tool + " " + s.Object + ": " + strings.Join(s.Args, " ")
		if s.Kind != plan.UseTool || !s.Secret || s.Before != "" || s.After != "" {
			line = "a step that shows what it must not"
		}
		all = append(all, line)
	}
	return all
}

// A power cut between two steps must leave a node whose volumes open: what is new is tried
// on both volumes before anything old goes.
func TestNewPlan_Change_AddsBeforeItRemoves(t *testing.T) {
	const file = "luks.keep-key /var/lib/incus-os/recovery.key: "
	for name, c := range map[string]struct {
		before, next, want []string
	}{
		"same":  {[]string{"a", "b"}, []string{"a", "b"}, nil},
		"empty": {[]string{"a"}, nil, nil},
		"replaced": {[]string{"a", "b"}, []string{"c", "b"}, []string{
			"luks.enroll root: root c", "luks.enroll swap: swap c", file + "c",
			"luks.keep-only root: root c b", "luks.keep-only swap: swap c b",
		}},
		"removed": {[]string{"a", "b"}, []string{"b"}, []string{file + "b", "luks.keep-only root: root b", "luks.keep-only swap: swap b"}},
		"nothing known": {nil, []string{"a"}, []string{
			"luks.enroll root: root a", "luks.enroll swap: swap a", file + "a", "luks.keep-only root: root a", "luks.keep-only swap: swap a",
		}},
	} {
		if diff := cmp.Diff(c.want, steps(recovery.NewPlan(c.before, c.next))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Who can bind the volumes anew while the TPM works makes a changed machine the right one.
func TestCheckRebind_Facts_AllowOnlyATPMThatRefused(t *testing.T) {
	good := recovery.BindFacts{TPM: true, Node: true, PolicyKey: true}
	for _, c := range []struct {
		change func(*recovery.BindFacts)
		want   error
	}{
		{func(*recovery.BindFacts) {}, nil},
		{func(f *recovery.BindFacts) { f.OpenedByTPM = true }, recovery.ErrTPMWorks},
		{func(f *recovery.BindFacts) { f.TPM = false }, recovery.ErrNoTPM},
		{func(f *recovery.BindFacts) { f.Node = false }, recovery.ErrNoVolumes},
		{func(f *recovery.BindFacts) { f.PolicyKey = false }, recovery.ErrNotMeasured},
	} {
		facts := good
		c.change(&facts)
		if got := recovery.CheckRebind(facts); !errors.Is(got, c.want) {
			t.Errorf("%+v: got %v, want %v", facts, got, c.want)
		}
	}
}
