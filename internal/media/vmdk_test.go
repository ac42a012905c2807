package media

import (
	"archive/tar"
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readVMDK reads a disk as its tables describe it, from the footer on.
func readVMDK(t *testing.T, raw []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	footer := raw[len(raw)-1024:]
	if string(raw[:4]) != "KDMV" || string(footer[:4]) != "KDMV" || le.Uint64(raw[56:]) != 0xffffffffffffffff {
		t.Fatalf("no header and footer: %x, %x", raw[:80], footer[:80])
	}
	disk := make([]byte, le.Uint64(raw[12:])*512)
	directory := raw[le.Uint64(footer[56:])*512:]
	for i := 0; i < len(disk); i += 32 << 20 {
		at := le.Uint32(directory[i/(32<<20)*4:])
		if at == 0 {
			continue
		}
		for j, table := 0, raw[at*512:]; j < 512; j++ {
			grain := le.Uint32(table[4*j:])
			if grain == 0 {
				continue
			}
			piece := raw[grain*512:]
			place := le.Uint64(piece) * 512
			if want := uint64(i + j*65536); place != want {
				t.Fatalf("grain at %d says %d", want, place)
			}
			z, err := zlib.NewReader(bytes.NewReader(piece[12 : 12+le.Uint32(piece[8:])]))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(z, disk[place:place+65536]); err != nil {
				t.Fatal(err)
			}
		}
	}
	return disk
}

// An image with something in its first and third table, a hole between, and an odd end.
func vmdkImage() []byte {
	image := make([]byte, 70<<20+100)
	copy(image, "first")
	copy(image[65535:], "across two grains")
	copy(image[66<<20:], bytes.Repeat([]byte("third"), 50_000))
	copy(image[len(image)-4:], "last")
	return image
}

func TestWriteVMDK_ReadBack_IsTheImage(t *testing.T) {
	image := vmdkImage()
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := WriteVMDK(context.Background(), out, bytes.NewReader(image), 100<<20, "folder/a.vmdk"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two writes differ")
	}
	want := make([]byte, 100<<20)
	copy(want, image)
	if !bytes.Equal(want, readVMDK(t, first.Bytes())) {
		t.Error("the disk is not the image")
	}
	descriptor, _, _ := bytes.Cut(first.Bytes()[512:], []byte{0})
	sameText(t, string(descriptor), `# Disk DescriptorFile
version=1
CID=686f6c64
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW 204800 SPARSE "a.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "19"
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "12"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
`)
}

// Programs refuse an OVA whose description does not come first or whose sums are wrong.
func TestWriteOVA_Members_AreDescriptionSumsAndDisk(t *testing.T) {
	o := OVA{Name: "Holdfast_1<2", Kind: Kind{"x86_64", "202611220104"}, Capacity: 50 << 30, DiskSize: 4,
		DiskSHA256: "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"} // of "disk"
	var out, again bytes.Buffer
	for _, b := range []*bytes.Buffer{&out, &again} {
		o.Disk = strings.NewReader("disk")
		if err := WriteOVA(b, o); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("two writes differ")
	}
	r := tar.NewReader(&out)
	var names []string
	content := map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		content[h.Name] = string(data)
	}
	if diff := cmp.Diff([]string{"Holdfast_1<2.ovf", "Holdfast_1<2.mf", "Holdfast_1<2-disk1.vmdk"}, names); diff != "" {
		t.Error(diff)
	}
	description := content[names[0]]
	sameText(t, content[names[1]], fmt.Sprintf("SHA256(Holdfast_1<2.ovf)= %s\nSHA256(Holdfast_1<2-disk1.vmdk)= %s\n", hexSum([]byte(description)), o.DiskSHA256))
	var document struct {
		References struct {
			File struct {
				Href string `xml:"href,attr"`
				Size int    `xml:"size,attr"`
			}
		}
		VirtualSystem struct {
			VirtualHardwareSection struct {
				Item []struct {
					ResourceType    int
					ResourceSubType string
				}
				Config []struct {
					Key   string `xml:"key,attr"`
					Value string `xml:"value,attr"`
				}
			}
		}
	}
	if err := xml.Unmarshal([]byte(description), &document); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range document.VirtualSystem.VirtualHardwareSection.Item {
		got = append(got, fmt.Sprintf("%d %s", i.ResourceType, i.ResourceSubType))
	}
	for _, c := range document.VirtualSystem.VirtualHardwareSection.Config {
		got = append(got, c.Key+"="+c.Value)
	}
	got = append(got, document.References.File.Href, fmt.Sprint(document.References.File.Size))
	want := []string{"3 ", "4 ", "6 VirtualSCSI", "17 ", "10 VmxNet3", "1 vmware.vtpm", "firmware=efi", "bootOptions.efiSecureBootEnabled=true", "Holdfast_1<2-disk1.vmdk", "4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
