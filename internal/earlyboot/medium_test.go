package earlyboot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/block"
)

const usrHash = "715d252e2e106f8cdb78480eed6264b69dc7586023c21bc80f540a1b3473d264"

// usrID is the partition of that root hash.
const usrID = "715d252e-2e10-6f8c-db78-480eed6264b6"

// A disc is taken only when the machine was started from it. One that was left in the drive
// of a node must not give it its /usr: whoever takes it out would stop the node.
func TestChooseDrive_DiscsInDrives_OnlyThatOfTheStartIsTaken(t *testing.T) {
	const esp, other = "0d2a3f10-1111-4222-8333-44445555aaaa", "99999999-1111-4222-8333-444455556666"
	started := drive{"/dev/sr1", []string{esp, usrID}}
	left := drive{"/dev/sr0", []string{other, usrID}}
	for name, test := range map[string]struct {
		booted string
		drives []drive
		want   string
	}{
		"no drive":                           {esp, nil, ""},
		"the disc of this start":             {esp, []drive{left, started}, "/dev/sr1"},
		"a disc of the same release":         {esp, []drive{left}, ""},
		"started by El Torito":               {"", []drive{{"/dev/sr2", []string{other}}, left}, "/dev/sr0"},
		"El Torito, and somebody's disc":     {"", []drive{{"/dev/sr2", []string{other}}}, ""},
		"a disc without a table":             {esp, []drive{{"/dev/sr0", nil}}, ""},
		"a disc without a table, El Torito":  {"", []drive{{"/dev/sr0", nil}}, ""},
		"firmware that names what is absent": {other, []drive{started}, ""},
	} {
		if got := chooseDrive(wanted(test.booted, usrID), test.drives); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestUsrPartition_RootHash_IsItsFirstHalf(t *testing.T) {
	if got, err := usrPartition(strings.ToUpper(usrHash)); got != usrID || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", usrHash[1:]} {
		if got, err := usrPartition(bad); err == nil {
			t.Errorf("%q: got %q", bad, got)
		}
	}
}

// burn makes the CD of a medium, as `holdfast image iso` does, in a drive.
func burn(t *testing.T, path string) {
	t.Helper()
	table := media.Table{Sector: 512, DiskGUID: "11111111-1111-4111-8111-111111111111"}
	rows, err := layout.Table(layout.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[int]string{layout.ESP: strings.ToLower(espID), layout.UsrA: usrID}
	for _, row := range rows[:layout.UsrA] {
		id := ids[row.Number]
		if id == "" {
			id = "22222222-2222-4222-8222-22222222222" + string(rune('0'+row.Number))
		}
		table.Partitions = append(table.Partitions, media.Partition{Number: row.Number, Start: row.Start, Size: row.Size,
			GUID: id, Type: strings.ToLower(row.GUID), Label: row.Label})
	}
	plan, err := media.ISO(table)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "")
	if err := os.Truncate(path, plan.Size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, rewrite := range plan.Rewrites {
		if rewrite.Offset == layout.Start(layout.ESP) {
			continue // only looked at
		}
		data, err := rewrite.New(make([]byte, rewrite.Size))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(data, rewrite.Offset); err != nil {
			t.Fatal(err)
		}
	}
}

// The table of the CD is that of `holdfast image iso`; the disk that comes of it is the
// system disk, and the drive is what a person opens.
func TestFindMedium_CD_BecomesTheSystemDisk(t *testing.T) {
	for name, booted := range map[string]string{"firmware that knows partitions": espID, "El Torito": ""} {
		t.Run(name, func(t *testing.T) {
			host, dir, _ := testHost(t, healthy)
			burn(t, dir+"/dev/sr0")
			write(t, dir+"/dev/sr1", "")
			link(t, "../../devices/sr0", dir+"/sys/class/block/sr0")
			link(t, "../../devices/sr1", dir+"/sys/class/block/sr1")
			if booted != "" {
				write(t, filepath.Join(dir, "sys", loaderDevice), variable(booted))
			}
			attach := func(_ context.Context, path string) (string, error) {
				if path != dir+"/dev/sr0" {
					t.Errorf("attached %s", path)
				}
				loop := dir + "/sys/devices/virtual/block/loop3"
				write(t, loop+"/size", "8726528\n")
				write(t, loop+"/ro", "1\n")
				write(t, loop+"/loop/backing_file", "/dev/sr0\n")
				write(t, loop+"/loop3p1/partition", "1\n")
				write(t, loop+"/loop3p2/partition", "2\n")
				link(t, "../../devices/virtual/block/loop3", dir+"/sys/class/block/loop3")
				link(t, "../../devices/virtual/block/loop3/loop3p1", dir+"/sys/class/block/loop3p1")
				write(t, dir+"/dev/loop3p1", "")
				link(t, "../../loop3p1", dir+"/dev/disk/by-partuuid/"+strings.ToLower(espID))
				return "/dev/loop3", nil
			}
			if err := host.FindMedium(t.Context(), usrHash, attach, func(string) {}); err != nil {
				t.Fatal(err)
			}
			got, err := host.SystemDisk(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := Disk{Path: "/dev/loop3", Medium: "/dev/sr0", Size: 4467982336, ReadOnly: true,
				Partitions: map[int]string{1: "/dev/loop3p1", 2: "/dev/loop3p2"}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// On a machine that was started from its disk no drive is touched.
func TestFindMedium_StartedFromADisk_AttachesNothing(t *testing.T) {
	host, dir, _ := testHost(t, healthy)
	sysfs(t, dir)
	write(t, filepath.Join(dir, "sys", loaderDevice), variable(espID))
	burn(t, dir+"/dev/sr0")
	link(t, "../../devices/sr0", dir+"/sys/class/block/sr0")
	attach := func(context.Context, string) (string, error) { return "", errors.New("attached a CD") }
	if err := host.FindMedium(t.Context(), usrHash, attach, func(string) {}); err != nil {
		t.Error(err)
	}
}

func TestFindMedium_NoDiskAndNoCD_SaysWhatIsMissing(t *testing.T) {
	host, _, _ := testHost(t, healthy)
	err := host.FindMedium(t.Context(), usrHash, nil, func(string) {})
	if want := "partition " + usrID + ", which this machine was started from, is on no disk and on no CD"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// Two disks with the same /usr: udev names the partitions of one of them alone. When that
// cannot be told, both keep their names, and the root hash still decides what is mounted.
func TestPlaceIn_Tables_OnlyTheDiskOfThisStartIsReadFrom(t *testing.T) {
	const esp, another = "0d2a3f10-1111-4222-8333-44445555aaaa", "99999999-1111-4222-8333-444455556666"
	table := func(ids ...string) (entries []block.Entry) {
		for _, id := range ids {
			entries = append(entries, block.Entry{GUID: id})
		}
		return entries
	}
	paths := table(esp, usrID)
	paths[0].Attributes = layout.PathsAttribute | 1<<2
	elsewhere := table(esp, usrID)
	elsewhere[1].Attributes = layout.PathsAttribute
	for name, test := range map[string]struct {
		entries []block.Entry
		wwid    string
		want    place
	}{
		"the disk of this start":                  {table(esp, usrID), "35000c500a1b2c3d4", ownDisk},
		"a copy with another ESP":                 {table(another, usrID), "", otherDisk},
		"somebody else's disk":                    {table(another), "", otherDisk},
		"a disk without a table":                  {nil, "", ownDisk},
		"a path to the disk of this start":        {paths, "35000c500a1b2c3d4", pathOfDisk},
		"copied to a disk that has only one path": {paths, "", ownDisk},
		"the mark on another partition":           {elsewhere, "35000c500a1b2c3d4", ownDisk},
	} {
		if got := placeIn(esp, test.wwid, test.entries); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestPlaceOf_WhatCannotBeTold_IsNoOtherDisk(t *testing.T) {
	host, dir, _ := testHost(t, healthy)
	write(t, dir+"/dev/vda", "no table")
	if got, err := host.placeOf(dir+"/dev/vda", ""); got != ownDisk || err != nil {
		t.Errorf("firmware that does not say: %q, %v", got, err)
	}
	write(t, filepath.Join(dir, "sys", loaderDevice), variable(espID))
	if got, err := host.placeOf(dir+"/dev/vda", ""); got != ownDisk || err != nil {
		t.Errorf("a disk without a table: %q, %v", got, err)
	}
	if got, err := host.placeOf(dir+"/dev/none", ""); got != ownDisk || err == nil {
		t.Errorf("a disk that cannot be read: %q, %v", got, err)
	}
	burn(t, dir+"/dev/sr0")
	entries, err := tableOf(dir+"/dev/sr0", cdSector)
	if err != nil || len(entries) != layout.UsrA || placeIn(strings.ToLower(espID), "", entries) != ownDisk {
		t.Errorf("the CD of this start has %+v, %v", entries, err)
	}
}
