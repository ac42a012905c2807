package cli

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

func updateCommand(n *connection) *cobra.Command {
	status := showCommand(n, "status", "Show what the update agent does, did, and why", "/1.0/system/update", as(updateStatusView))
	status.Example = "  holdfast node update status\n  holdfast node update status -f yaml"
	check := updateCheckCommand(n)
	check.Example = "  holdfast node update check\n  holdfast node update check --os-only"
	return group("update", "What the next update would do, and how the last one went",
		"  holdfast node update plan\n  holdfast node update check\n  holdfast node update status",
		updatePlanCommand(n), check, status)
}

func updatePlanCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what an update would do, and change nothing",
		Long: "Show what an update would do: which release, how much is fetched and why, which packages\n" +
			"change, which CVEs that closes, what restarts, and whether the disk opens by itself then.",
		Example: "  holdfast node update plan\n  holdfast node update plan -f json",
		Args:    args(),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		answer, err := node.Raw(c.Context(), http.MethodPost, "/1.0/system/update/:plan", nil)
		if err != nil {
			return err
		}
		return out.print(answer.Metadata, as(planView))
	}
	return c
}

func updateCheckCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "check",
		Short:   "Look for updates now",
		Example: "  holdfast node system update check\n  holdfast node system update check --os-only",
		Args:    args(),
	}
	post := os.UpdateCheckPost{}
	c.Flags().BoolVar(&post.OSOnly, "os-only", false, "leave the applications alone, and wait for the end")
	c.Flags().BoolVar(&post.Force, "force", false, "take a release also when it did not work on this node before")
	return actCommand(n, c, "The node has been asked to look for updates", func(c *cobra.Command, node *client.Client, _ []string) error {
		return node.CheckUpdate(c.Context(), post)
	})
}

// planView leaves out what every plan has and nobody decides by.
func planView(p os.UpdatePlan) view {
	v := view{fields: []field{{"Channel", p.Channel}, {"Runs", p.RunningVersion}}}
	if p.StagedVersion != "" {
		v.fields = append(v.fields, field{"Runs after a restart", p.StagedVersion})
	}
	v.fields = append(v.fields, field{"Newest release", p.Version}, field{"Update", yesNo(p.Needed)}, field{"Why", p.Why})
	if !p.Needed {
		return v
	}
	v.fields = append(v.fields,
		field{"Severity", p.Severity},
		field{"To fetch", bytesText(uint64(p.Bytes)) + " instead of " + bytesText(uint64(p.FullBytes))},
		field{"Restart of the node", yesNo(p.Reboot)}, field{"Restarts", strings.Join(p.Restarts, ", ")},
		field{"Disk", p.PCR}, field{"CVEs", strings.Join(p.CVEs, ", ")}, field{"Problems", strings.Join(p.Problems, "; ")})
	if p.Last != nil {
		v.fields = append(v.fields, field{"The last one took", secondsText(p.Last.Fetch+p.Last.Write) + ", and " + secondsText(p.Last.Boot+p.Last.Gate) + " to restart"})
	}
	parts := table{title: "Parts", head: []string{"NAME", "HOW", "BYTES", "WHY"}}
	for _, part := range p.Parts {
		parts.rows = append(parts.rows, []string{part.Name, part.How, bytesText(uint64(part.Bytes)), part.Why})
	}
	changes := table{title: "Changes since " + p.ChangesFrom, head: []string{"COMPONENT", "CHANGE", "PACKAGE"}}
	for _, component := range slices.Sorted(maps.Keys(p.Changes)) {
		of := p.Changes[component]
		for _, kind := range []struct {
			name string
			list []string
		}{{"added", of.Added}, {"updated", of.Updated}, {"removed", of.Removed}} {
			for _, line := range kind.list {
				changes.rows = append(changes.rows, []string{component, kind.name, line})
			}
		}
	}
	v.tables = []table{parts}
	if len(changes.rows) > 0 {
		v.tables = append(v.tables, changes)
	}
	return v
}

func secondsText(s float64) string { return strconv.FormatFloat(s, 'f', 0, 64) + " s" }

func updateStatusView(u os.Update) view {
	s := u.State
	v := view{fields: []field{
		{"State", s.State}, {"Since", timeText(s.StateSince)}, {"Reason", s.Reason}, {"Runs", s.RunningVersion}, {"Runs after a restart", s.StagedVersion},
		{"Last check", timeText(s.LastCheck)}, {"Status", s.Status},
	}}
	slots := table{title: "Slots", head: []string{"RELEASE", "RUNS", "ON TRIAL", "TRIES LEFT"}}
	for _, e := range s.Slots {
		left := ""
		if e.Trial {
			left = strconv.Itoa(e.TriesLeft)
		}
		slots.rows = append(slots.rows, []string{e.Version, yesNo(e.Running), yesNo(e.Trial), left})
	}
	decisions := table{title: "Decisions", head: []string{"TIME", "WHAT", "WHY", "NEXT"}}
	for _, d := range s.Decisions {
		decisions.rows = append(decisions.rows, []string{timeText(d.At), d.What, d.Why, d.Next})
	}
	v.tables = []table{slots, decisions}
	if len(s.BadReleases) > 0 {
		bad := table{title: "Releases that did not work here", head: []string{"RELEASE", "TIME", "REASON"}}
		for _, b := range s.BadReleases {
			bad.rows = append(bad.rows, []string{b.Version, timeText(b.At), b.Reason})
		}
		v.tables = append(v.tables, bad)
	}
	if len(s.Checks) > 0 {
		checks := table{title: "Health gate", head: []string{"CHECK", "HOLDS", "AFTER", "ERROR"}}
		for _, c := range s.Checks {
			checks.rows = append(checks.rows, []string{c.Name, yesNo(c.OK), secondsText(c.Duration), c.Error})
		}
		v.tables = append(v.tables, checks)
	}
	return v
}
