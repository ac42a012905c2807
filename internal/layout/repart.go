package layout

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
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

// TransferOptions say from where to where a release goes.
type TransferOptions struct {
	// Arch is "x86_64" or "aarch64".
	Arch string
	// Source is the URL of the folder with SHA256SUMS and the files named by
	// TransferFiles. It is on 127.0.0.1 and http.
	Source string
	// Disk is the whole disk with the slots, as "/dev/vda".
	Disk string
	// ESP is where the EFI system partition is mounted, as "/boot".
	ESP string
	// Protect is the release that runs, 12 digits: its slot and its UKI are never taken.
	Protect string
}

var (
	sourceForm = regexp.MustCompile(`^http://127\.0\.0\.1:[0-9]{1,5}/[0-9a-f]{1,128}/$`)
	placeForm  = regexp.MustCompile(`^(/[0-9A-Za-z][0-9A-Za-z._:-]*)+$`)
)

// RenderTransfers gives the transfers of one update, by file name, for a folder under
// /run that systemd-sysupdate gets with --definitions. They are carried out in the order
// of their names: the kernel image comes last, so that a release can only be booted
// once its /usr is there.
//
// Nothing in them is looked up at run time: the disk is named, because systemd-sysupdate
// cannot find it behind the overlay of merged extensions; the versions are written out,
// because %A is the release of whatever os-release is in sight. Verify=no is about a
// signature of SHA256SUMS; every file is still checked against its sum there.
func RenderTransfers(o TransferOptions) (map[string]string, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("making the transfers of an update: %w", err)
	}
	source := []string{"Type=url-file", "Path=" + o.Source}
	return renderTransfers(o.Arch, o.Protect, Name+"_", source, "Path="+o.Disk, []string{"Path=" + path.Join(o.ESP, "EFI/Linux")})
}

func (o TransferOptions) check() error {
	var problems []error
	if !sourceForm.MatchString(o.Source) {
		problems = append(problems, errors.New("the source is no http URL of a folder on 127.0.0.1"))
	}
	for _, place := range [][2]string{{"disk", o.Disk}, {"mount point of the ESP", o.ESP}} {
		if !placeForm.MatchString(place[1]) {
			problems = append(problems, fmt.Errorf("the %s is %q, not a plain absolute path", place[0], place[1]))
		}
	}
	if !versionForm.MatchString(o.Protect) {
		problems = append(problems, fmt.Errorf("release %q to protect is not 12 digits", o.Protect))
	}
	return errors.Join(problems...)
}

// TransferFiles are the names under which the source of RenderTransfers offers a
// release, in the order in which systemd-sysupdate takes them. The key is the number of
// the partition in slot A, or ESP; UUIDs are those that the partitions get.
func TransferFiles(arch, version string, uuids map[int]string) ([]string, error) {
	table, err := Table(arch)
	if err != nil {
		return nil, err
	}
	if !versionForm.MatchString(version) {
		return nil, fmt.Errorf("naming the files of release %q: it is not 12 digits", version)
	}
	var names []string
	for _, number := range []int{SigA, VerityA, UsrA} {
		if !uuidForm.MatchString(uuids[number]) {
			return nil, fmt.Errorf("naming the files of release %s: UUID %q of partition %d is not one", version, uuids[number], number)
		}
		names = append(names, fmt.Sprintf("%s_%s.%s.%s.raw", Name, version, table[number-1].Type, strings.ToLower(uuids[number])))
	}
	return append(names, Name+"_"+version+".efi"), nil
}

// partForm is a name with the UUID that its partition gets, without dashes or with them.
var partForm = regexp.MustCompile(`\.([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\.raw$`)

// PartUUID is the UUID, with dashes, that the partition of a published file gets; name is that
// of the unpacked file, and false one without a UUID.
func PartUUID(name string) (string, bool) {
	match := partForm.FindStringSubmatch(name)
	if match == nil {
		return "", false
	}
	return strings.Join(match[1:], "-"), true
}

func renderTransfers(arch, protect, image string, source []string, disk string, esp []string) (map[string]string, error) {
	table, err := Table(arch)
	if err != nil {
		return nil, err
	}
	from := func(pattern string) section {
		return section{"Source", append(slices.Clone(source), "MatchPattern="+image+"@v"+pattern)}
	}
	transfer := section{"Transfer", []string{"ProtectVersion=" + protect, "Verify=no"}}
	out := make(map[string]string, 4)
	for number, name := range map[int]string{SigA: "10-usr-verity-sig", VerityA: "20-usr-verity", UsrA: "30-usr"} {
		p := table[number-1]
		label := strings.Replace(p.Label, Name+"_%", image+"@v", 1)
		out[name+".transfer"] = render(transfer, from("."+p.Type+".@u.raw"), section{"Target", []string{
			"Type=partition", disk, "MatchPattern=" + label, "MatchPartitionType=" + p.Type,
			"ReadOnly=1",
		}})
	}
	name := image + "@v"
	out["40-uki.transfer"] = render(transfer, from(".efi"), section{"Target", slices.Concat([]string{"Type=regular-file"}, esp, []string{
		"MatchPattern=" + name + "+@l-@d.efi " + name + "+@l.efi " + name + ".efi",
		"Mode=0444", "TriesLeft=3", "TriesDone=0", "InstancesMax=2",
	})})
	return out, nil
}
