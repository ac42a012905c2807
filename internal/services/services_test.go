package services_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/services"
)

const (
	machineID = "0123456789abcdef0123456789abcdef"
	// nodeName was worked out with sha256sum.
	nodeName = "iqn.2004-10.org.linuxcontainers:01:0c8bef17e98e"
	nameText = "InitiatorName=" + nodeName + "\n"
)

func disk(name, address string) api.ServiceISCSITarget {
	return api.ServiceISCSITarget{Target: "iqn.2003-01.org.example:" + name, Address: address, Port: 3260}
}

func login(name, address string) services.ISCSISession {
	return services.ISCSISession{Target: "iqn.2003-01.org.example:" + name, Address: address, Port: 3260, State: "LOGGED_IN"}
}

func on(targets ...api.ServiceISCSITarget) api.ServiceISCSIConfig {
	return api.ServiceISCSIConfig{Enabled: true, Targets: targets}
}

// lines are the steps of a plan in short.
func lines(p plan.Plan) []string {
	var all []string
	for _, s := range p.Steps {
		all = append(all, strings.Join(append([]string{string(s.Kind), s.Object, s.Tool}, s.Args...), " "))
	}
	return all
}

// A storage server may let in by the node's name, and a login that is taken down takes
// disks away from instances: the plan must do what was asked for and nothing else.
func TestPlanISCSI_Change_TouchesOnlyWhatDiffers(t *testing.T) {
	const (
		write          = "write-file /etc/iscsi/initiatorname.iscsi "
		start          = "start-unit iscsid.service "
		again          = "restart-unit iscsid.service "
		stop           = "stop-unit iscsid.service "
		in             = "use-tool iqn.2003-01.org.example:"
		loginA, loginB = in + "a iscsi.login iqn.2003-01.org.example:a 192.0.2.1 3260", in + "b iscsi.login iqn.2003-01.org.example:b 192.0.2.1 3260"
		logoutA        = in + "a iscsi.logout iqn.2003-01.org.example:a 192.0.2.1 3260"
	)
	a, b := disk("a", "192.0.2.1"), disk("b", "192.0.2.1")
	up := services.ISCSIFacts{MachineID: machineID, NameFile: nameText, Running: true}
	with := func(sessions ...services.ISCSISession) services.ISCSIFacts {
		facts := up
		facts.Sessions = sessions
		return facts
	}
	for name, c := range map[string]struct {
		before, next api.ServiceISCSIConfig
		facts        services.ISCSIFacts
		want         []string
		notes        int
	}{
		"first use":                 {next: on(a, b), facts: services.ISCSIFacts{MachineID: machineID}, want: []string{write, start, loginA, loginB}},
		"enabled for Incus alone":   {next: on(), facts: services.ISCSIFacts{MachineID: machineID}, want: []string{write, start}},
		"the image's own name":      {next: on(a), facts: services.ISCSIFacts{MachineID: machineID, NameFile: "GenerateName=yes\n", Running: true}, want: []string{write, again, loginA}},
		"as it is":                  {before: on(a), next: on(a), facts: with(login("a", "192.0.2.1"))},
		"off stays off":             {facts: services.ISCSIFacts{MachineID: machineID}},
		"after a restart":           {before: on(a), next: on(a), facts: with(), want: []string{loginA}},
		"failed is iscsid's work":   {before: on(a), next: on(a), facts: with(services.ISCSISession{Target: a.Target, Address: a.Address, Port: 3260, State: "FAILED"})},
		"one replaced":              {before: on(a), next: on(b), facts: with(login("a", "192.0.2.1")), want: []string{logoutA, loginB}, notes: 1},
		"gone by itself":            {before: on(a), next: on(), facts: with()},
		"Incus' own login":          {before: on(a), next: on(), facts: with(login("a", "192.0.2.1"), login("x", "192.0.2.9")), want: []string{logoutA}, notes: 1},
		"off":                       {before: on(a), facts: with(login("a", "192.0.2.1")), want: []string{logoutA, stop}, notes: 1},
		"off, with Incus' login":    {before: on(a), facts: with(login("a", "192.0.2.1"), login("x", "192.0.2.9")), want: []string{logoutA}, notes: 2},
		"IPv6 in another form":      {before: on(disk("a", "2001:db8::1")), next: on(disk("a", "2001:db8::1")), facts: with(login("a", "2001:0db8:0:0::1"))},
		"same target, other portal": {before: on(a), next: on(a, disk("a", "192.0.2.2")), facts: with(login("a", "192.0.2.1")), want: []string{in + "a iscsi.login iqn.2003-01.org.example:a 192.0.2.2 3260"}},
	} {
		got := services.PlanISCSI(c.before, c.next, c.facts)
		if diff := cmp.Diff(c.want, lines(got)); diff != "" || len(got.Notes) != c.notes {
			t.Errorf("%s: %d notes, want %d; %s", name, len(got.Notes), c.notes, diff)
		}
	}
	first := services.PlanISCSI(on(), on(), services.ISCSIFacts{MachineID: machineID}).Steps[0]
	if diff := cmp.Diff(plan.Step{Kind: plan.WriteFile, Object: "/etc/iscsi/initiatorname.iscsi", After: nameText, Mode: 0o600}, first); diff != "" {
		t.Error(diff)
	}
}

// Every problem is said at once, each with its place; what is right gets its defaults.
func TestCheckISCSI_Targets_GiveDefaultsOrEveryProblem(t *testing.T) {
	good := api.ServiceISCSIConfig{Enabled: true, Targets: []api.ServiceISCSITarget{
		{Target: "iqn.2003-01.org.example:disk1", Address: "2001:0db8::0001"},
		{Target: "eui.02004567A425678D", Address: "san1.example.org", Port: 860},
		{Target: "naa.52004567BA64678D", Address: "192.0.2.1"},
	}}
	if problems := services.CheckISCSI(&good); problems != nil {
		t.Errorf("got %v", problems)
	}
	want := api.ServiceISCSIConfig{Enabled: true, Targets: []api.ServiceISCSITarget{
		{Target: "iqn.2003-01.org.example:disk1", Address: "2001:db8::1", Port: 3260},
		{Target: "eui.02004567A425678D", Address: "san1.example.org", Port: 860},
		{Target: "naa.52004567BA64678D", Address: "192.0.2.1", Port: 3260},
	}}
	if diff := cmp.Diff(want, good); diff != "" {
		t.Error(diff)
	}
	bad := on(
		api.ServiceISCSITarget{Target: "disk1", Address: "192.0.2.1 -o x", Port: 70000}, api.ServiceISCSITarget{Target: "iqn.2003-13.org.example:x", Address: "-h"},
		disk("a", "192.0.2"), disk("a", "a..b"), disk("b", "192.0.2.1"), disk("b", "192.0.2.1"), api.ServiceISCSITarget{Target: "iqn.2003-01.org.example:" + strings.Repeat("x", 200), Address: "", Port: -1},
	)
	var got []string
	for _, p := range services.CheckISCSI(&bad) {
		got = append(got, p.Path+" "+p.Rule)
	}
	wantProblems := []string{
		"targets[0].target name", "targets[0].address address", "targets[0].port range",
		"targets[1].target name", "targets[1].address address", "targets[2].address address", "targets[3].address address",
		"targets[5] unique", "targets[6].target name", "targets[6].address address", "targets[6].port range",
	}
	if diff := cmp.Diff(wantProblems, got); diff != "" {
		t.Error(diff)
	}
}

func registry(t *testing.T) services.Registry {
	t.Helper()
	return services.NewRegistry(services.NewISCSI(func(context.Context) (services.ISCSIFacts, error) {
		return services.ISCSIFacts{MachineID: machineID, NameFile: nameText, Running: true, Sessions: []services.ISCSISession{login("a", "192.0.2.1")}}, nil
	}))
}

// Incus asks "is it enabled" by name before it uses a driver, and takes any error for a
// broken node: a service that is not there must answer, and say no.
func TestDocument_ServicesThatIncusAsksFor_SayWhetherTheyAreEnabled(t *testing.T) {
	kept := json.RawMessage(`{"enabled":true}`)
	for name, want := range map[string]string{
		"iscsi": `{"config":{"enabled":true,"targets":[]},"state":{"initiator_name":"` + nodeName + `","sessions":[{"target":"iqn.2003-01.org.example:a","address":"192.0.2.1","port":3260,"state":"LOGGED_IN"}]}}`,
		"ovn":   `{"config":{"enabled":false},"state":{}}`,
		"ceph":  `{"config":{"enabled":false},"state":{}}`,
		"lvm":   `{"config":{"enabled":false},"state":{}}`,
	} {
		document, err := registry(t).Document(t.Context(), name, kept)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := registry(t).Document(t.Context(), "shell", nil); !errors.Is(err, services.ErrUnknown) {
		t.Errorf("an unknown service: got %v", err)
	}
	if _, err := registry(t).Get("lvm"); !errors.Is(err, services.ErrLater) {
		t.Errorf("a later service: got %v", err)
	}
	if diff := cmp.Diff([]string{"iscsi"}, registry(t).Names()); diff != "" {
		t.Error(diff)
	}
}

// A word that nobody reads must not look as if it was kept.
func TestTyped_Documents_AreReadStrictly(t *testing.T) {
	service, err := registry(t).Get("iscsi")
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		`{"enabled":true,"tragets":[]}`: "config document",
		`{"targets":[{"port":"3260"}]}`: "targets.port type",
		`{`:                             "config document",
		`{"targets":[{}]}`:              "targets[0].target name",
	} {
		_, err := service.Check(json.RawMessage(raw))
		var problems config.Problems
		if !errors.As(err, &problems) || problems[0].Path+" "+problems[0].Rule != want {
			t.Errorf("%s: got %v, want %s", raw, err, want)
		}
	}
	got, err := service.Check(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"enabled":false,"targets":[]}`, string(got)); diff != "" {
		t.Error(diff)
	}
	p, err := service.Plan(t.Context(), nil, json.RawMessage(`{"enabled":true}`))
	if err != nil || !p.Empty() {
		t.Errorf("got %+v, %v", p, err)
	}
	if err := service.Reset(t.Context()); !errors.Is(err, services.ErrNoReset) {
		t.Errorf("got %v, want %v", err, services.ErrNoReset)
	}
}
