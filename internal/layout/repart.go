package layout

import (
	"fmt"
	"strings"
)

// section is one "[Name]" of a systemd configuration file, lines in order.
type section struct {
	name  string
	lines []string
}

func render(sections ...section) string {
	var text strings.Builder
	for i, s := range sections {
		if i > 0 {
			text.WriteByte('\n')
		}
		fmt.Fprintf(&text, "[%s]\n", s.name)
		for _, line := range s.lines {
			text.WriteString(line + "\n")
		}
	}
	return text.String()
}

func fixedSize(number int) []string {
	return []string{fmt.Sprintf("SizeMinBytes=%d", Size(number)), fmt.Sprintf("SizeMaxBytes=%d", Size(number))}
}

// repartLabel is a partition's label with systemd's specifiers for the image id
// and the version of the tree that the definitions are read from.
func repartLabel(label string) string {
	return strings.Replace(label, Name+"_%", "%M_%A", 1)
}

// RenderRepart gives the definitions for a node's /usr/lib/repart.d, by file name.
//
// systemd-repart matches existing partitions by type, in the order of the files;
// the first boot thus finds 1 to 8 as the installer wrote them and makes 9 to 11.
// Nothing but swap and root is ever formatted here.
func RenderRepart(arch string) (map[string]string, error) {
	table, err := Table(arch)
	if err != nil {
		return nil, err
	}
	files := map[int]string{
		ESP: "00-esp", Seed: "01-seed",
		SigA: "10-usr-verity-sig", VerityA: "11-usr-verity", UsrA: "12-usr",
		SigB: "20-usr-verity-sig", VerityB: "21-usr-verity", UsrB: "22-usr",
		Swap: "30-swap", Root: "40-root", LocalData: "50-local-data",
	}
	extra := map[int][]string{
		UsrA: {"Weight=2000"}, UsrB: {"NoAuto=1", "Weight=2000"}, VerityB: {"NoAuto=1"},
		Swap:      {"Format=swap", "Encrypt=key-file+tpm2"},
		Root:      {"Format=ext4", "Encrypt=key-file+tpm2"},
		LocalData: {fmt.Sprintf("SizeMinBytes=%d", MinimumLocalData)},
	}
	out := make(map[string]string, len(table))
	for _, p := range table {
		lines := []string{"Type=" + p.Type, "Label=" + repartLabel(p.Label)}
		if p.Size > 0 {
			lines = append(lines, fixedSize(p.Number)...)
		}
		lines = append(lines, extra[p.Number]...)
		out[files[p.Number]+".conf"] = render(section{"Partition", lines})
	}
	return out, nil
}

// RenderMediumRepart gives the definitions of the medium, by file name: what the
// image build puts into mkosi.repart. They make partitions 1 to 5.
func RenderMediumRepart(arch string) (map[string]string, error) {
	table, err := Table(arch)
	if err != nil {
		return nil, err
	}
	split := "SplitName=%t.%U"
	files := map[int]string{
		ESP: "00-esp", Seed: "01-seed", SigA: "10-usr-verity-sig", VerityA: "11-usr-verity", UsrA: "12-usr",
	}
	extra := map[int][]string{
		ESP:     {"Format=vfat", "CopyFiles=/boot:/", "CopyFiles=/efi:/", "SplitName=-"},
		Seed:    {"SplitName=-"},
		SigA:    {"Verity=signature", "VerityMatchKey=usr", split},
		VerityA: {"Verity=hash", "VerityMatchKey=usr", split},
		UsrA:    {"Format=erofs", "Verity=data", "VerityMatchKey=usr", "CopyFiles=/usr:/", "Minimize=off", split},
	}
	out := make(map[string]string, UsrA)
	for _, p := range table[:UsrA] {
		lines := []string{"Type=" + p.Type, "Label=" + repartLabel(p.Label)}
		if p.Number != SigA { // systemd-repart knows the size of a signature by itself
			lines = append(lines, fixedSize(p.Number)...)
		}
		out[files[p.Number]+".conf"] = render(section{"Partition", append(lines, extra[p.Number]...)})
	}
	return out, nil
}

// UpdateDir is where a node keeps the files of the release that it is about to
// apply, under the names of File* below.
const UpdateDir = "/var/lib/updates"

// RenderSysupdate gives the transfers for a node's /usr/lib/sysupdate.d, by file
// name. They are done in the order of their names: the kernel image comes last, so
// that a release can only be booted once its /usr is there.
func RenderSysupdate(arch string) (map[string]string, error) {
	table, err := Table(arch)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, 4)
	for number, name := range map[int]string{SigA: "10-usr-verity-sig", VerityA: "20-usr-verity", UsrA: "30-usr"} {
		p := table[number-1]
		pattern := strings.Replace(repartLabel(p.Label), "%A", "@v", 1)
		out[name+".transfer"] = render(
			section{"Transfer", []string{"ProtectVersion=%A", "Verify=no"}},
			section{"Source", []string{"Type=regular-file", "Path=" + UpdateDir, "MatchPattern=%M_@v." + p.Type + ".@u.raw"}},
			section{"Target", []string{
				"Type=partition", "Path=auto", "MatchPattern=" + pattern, "MatchPartitionType=" + p.Type,
				"ReadOnly=1",
			}})
	}
	out["40-uki.transfer"] = render(
		section{"Transfer", []string{"ProtectVersion=%A", "Verify=no"}},
		section{"Source", []string{"Type=regular-file", "Path=" + UpdateDir, "MatchPattern=%M_@v.efi"}},
		section{"Target", []string{
			"Type=regular-file", "Path=/EFI/Linux", "PathRelativeTo=esp",
			"MatchPattern=%M_@v+@l-@d.efi %M_@v+@l.efi %M_@v.efi",
			"Mode=0444", "TriesLeft=3", "TriesDone=0", "InstancesMax=2",
		}})
	return out, nil
}
