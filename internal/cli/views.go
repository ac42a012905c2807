package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/os"
)

// timeText is a time for people, in UTC; the zero time is "never".
func timeText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// securityView leaves the keys themselves out: what is on a screen is seen by others.
func securityView(s os.Security) view {
	state := s.State
	v := view{fields: []field{
		{"Trusted", yesNo(state.SystemStateIsTrusted)},
		{"Status", state.SystemStateStatus},
		{"Secure Boot", yesNo(state.SecureBootEnabled)},
		{"TPM", state.TPMStatus},
		{"Root hash of /usr", state.UsrRootHash},
		{"Recovery keys", recoveryText(s)},
	}}
	volumes := table{title: "Encrypted volumes", head: []string{"VOLUME", "STATE"}}
	for _, e := range state.EncryptedVolumes {
		volumes.rows = append(volumes.rows, []string{e.Volume, e.State})
	}
	certs := table{title: "Secure Boot certificates", head: []string{"TYPE", "SUBJECT", "FINGERPRINT"}}
	for _, c := range state.SecureBootCertificates {
		certs.rows = append(certs.rows, []string{c.Type, c.Subject, shorten(c.Fingerprint, 16)})
	}
	v.tables = []table{volumes, certs}
	return v
}

func recoveryText(s os.Security) string {
	count := len(s.Config.EncryptionRecoveryKeys) + len(s.State.DriveRecoveryKeys) + len(s.State.PoolRecoveryKeys)
	kept := "not retrieved yet"
	if s.State.EncryptionRecoveryKeysRetrieved {
		kept = "retrieved"
	}
	return fmt.Sprintf("%d, %s (shown by -f yaml)", count, kept)
}

func shorten(text string, length int) string {
	if len(text) <= length {
		return text
	}
	return strings.ToValidUTF8(text[:length], "") + "..."
}

func storageView(s os.Storage) view {
	root := s.State.RootPartition
	v := view{fields: []field{
		{"Root partition", bytesText(root.AvailableInBytes) + " free of " + bytesText(root.SizeInBytes)},
		{"Scrub schedule", s.Config.ScrubSchedule},
	}}
	drives := table{title: "Drives", head: []string{"ID", "MODEL", "BUS", "SIZE", "POOL", "BOOT"}}
	for _, d := range s.State.Drives {
		drives.rows = append(drives.rows, []string{
			d.ID, d.ModelName, d.Bus, bytesText(d.CapacityInBytes), d.MemberPool, yesNo(d.Boot)})
	}
	pools := table{title: "Pools", head: []string{"NAME", "TYPE", "STATE", "USED", "SIZE", "KEY", "LAST SCRUB"}}
	for _, p := range s.State.Pools {
		scrub := "never"
		if p.LastScrub != nil {
			scrub = strings.ToLower(p.LastScrub.State) + " " + p.LastScrub.Progress
		}
		pools.rows = append(pools.rows, []string{p.Name, p.Type, p.State, bytesText(p.PoolAllocatedSpaceInBytes),
			bytesText(p.UsablePoolSizeInBytes), p.EncryptionKeyStatus, scrub})
	}
	v.tables = []table{drives, pools}
	return v
}

func networkView(n os.Network) view {
	v := view{}
	if c := n.Config; c != nil {
		if c.DNS != nil {
			v.fields = append(v.fields, field{"Hostname", c.DNS.Hostname}, field{"Domain", c.DNS.Domain},
				field{"Nameservers", strings.Join(c.DNS.Nameservers, ", ")})
		}
		if c.Time != nil {
			v.fields = append(v.fields, field{"Time servers", strings.Join(c.Time.NTPServers, ", ")},
				field{"Time zone", c.Time.Timezone})
		}
	}
	v.fields = append(v.fields, field{"Being changed", yesNo(n.State.ConfigurationInProcess)})
	t := table{title: "Interfaces", head: []string{"NAME", "TYPE", "STATE", "ADDRESSES", "MAC", "MTU", "SPEED", "ROLES"}}
	for _, name := range slices.Sorted(maps.Keys(n.State.Interfaces)) {
		i := n.State.Interfaces[name]
		t.rows = append(t.rows, []string{name, i.Type, i.State, strings.Join(i.Addresses, " "), i.Hwaddr,
			strconv.Itoa(i.MTU), i.Speed, strings.Join(i.Roles, " ")})
	}
	v.tables = []table{t}
	return v
}

func updateView(u os.Update) view {
	v := view{fields: []field{
		{"Channel", u.Config.Channel},
		{"Check frequency", u.Config.CheckFrequency},
		{"Automatic reboot", yesNo(u.Config.AutoReboot)},
		{"Last check", timeText(u.State.LastCheck)},
		{"Status", u.State.Status},
		{"Needs a reboot", yesNo(u.State.NeedsReboot)},
	}}
	if len(u.Config.MaintenanceWindows) == 0 {
		v.fields = append(v.fields, field{"Maintenance", "at any time"})
		return v
	}
	t := table{title: "Maintenance windows", head: []string{"FROM", "TO"}}
	for _, w := range u.Config.MaintenanceWindows {
		t.rows = append(t.rows, []string{
			windowText(w.StartDayOfWeek, w.StartHour, w.StartMinute), windowText(w.EndDayOfWeek, w.EndHour, w.EndMinute)})
	}
	v.tables = []table{t}
	return v
}

func windowText(day string, hour, minute int) string {
	return strings.TrimSpace(fmt.Sprintf("%s %02d:%02d", day, hour, minute))
}

func providerView(p os.Provider) view {
	v := view{fields: []field{{"Name", p.Config.Name}, {"Registered", yesNo(p.State.Registered)}}}
	for _, key := range slices.Sorted(maps.Keys(p.Config.Config)) {
		v.fields = append(v.fields, field{key, shorten(p.Config.Config[key], 60)})
	}
	if p.State.Server != "" {
		v.fields = append(v.fields, field{"Belongs to", p.State.Server})
	}
	if len(p.State.Warnings) > 0 {
		warnings := table{title: "Warnings", head: []string{"WARNING"}}
		for _, w := range p.State.Warnings {
			warnings.rows = append(warnings.rows, []string{w})
		}
		v.tables = append(v.tables, warnings)
	}
	return v
}

func bootView(b os.DebugBoot) view {
	t := table{head: []string{"PHASE", "STATE", "AT", "TOOK", "ERROR"}}
	for _, p := range b.Phases {
		at, took := "", ""
		if p.StartedAt > 0 {
			at = fmt.Sprintf("%.1fs", p.StartedAt)
		}
		if p.Duration > 0 {
			took = fmt.Sprintf("%.2fs", p.Duration)
		}
		t.rows = append(t.rows, []string{p.Name, p.State, at, took, p.Error})
	}
	return view{tables: []table{t}}
}

func loggingView(l os.Logging) view {
	s := l.Config.Syslog
	v := view{fields: []field{{"Server", s.Address}}}
	if s.Address != "" {
		v.fields = append(v.fields, field{"Protocol", s.Protocol}, field{"Format", s.LogFormat})
	}
	if s.Protocol == "tls" {
		v.fields = append(v.fields, field{"Name in its certificate", s.TLSServerName},
			field{"Own authority", yesNo(s.TLSCertificateAuthority != "")})
	}
	v.fields = append(v.fields, field{"Forwarder", l.State.Forwarder})
	return v
}

func listenerView(l os.FallbackListener) view {
	return view{fields: []field{
		{"Asked for", l.Config.ListenAddress},
		{"Trusted certificates", strconv.Itoa(len(l.Config.TrustedClientCertificates))},
		{"Active", yesNo(l.State.Active)},
		{"Listens on", l.State.Address},
	}}
}

func debugKernelView(k os.DebugKernel) view {
	t := table{title: "Modules", head: []string{"NAME", "IN USE", "NEEDS"}}
	for _, m := range k.Modules {
		t.rows = append(t.rows, []string{m.Name, yesNo(m.InUse), strings.Join(m.Dependencies, ", ")})
	}
	return view{
		fields: []field{{"Version", k.Version}, {"Architecture", k.Architecture}, {"Level of the processor", k.CPUBaseline}},
		tables: []table{t},
	}
}

// eventLogView says of each PCR whether the log agrees with the TPM.
func eventLogView(l os.DebugEventLog) view {
	agrees := func(have, replayed string) string {
		if have == "" && replayed == "" {
			return ""
		}
		if have == replayed {
			return have + " (as the log says)"
		}
		return have + " (THE LOG SAYS " + replayed + ")"
	}
	t := table{title: "Events", head: []string{"PCR", "TYPE", "DIGEST", "DATA"}}
	for _, e := range l.EventLog {
		t.rows = append(t.rows, []string{strconv.Itoa(e.Index), fmt.Sprintf("%#x", e.Type),
			shorten(fmt.Sprintf("%x", e.Digest), 16), shorten(printable(e.Data), 60)})
	}
	return view{
		fields: []field{{"PCR 4", agrees(l.PCR4, l.PCR4Replayed)}, {"PCR 7", agrees(l.PCR7, l.PCR7Replayed)}},
		tables: []table{t},
	}
}

// printable is the ASCII text in a mix of bytes; texts of the firmware are in UTF-16.
func printable(data []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(data), ""))
}
