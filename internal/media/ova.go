package media

import (
	"archive/tar"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
)

// OVA is a machine to be packed: a description, sums, and one disk.
type OVA struct {
	// Name is the machine's, as "Holdfast_202611220104".
	Name string
	// Kind is what the image is.
	Kind Kind
	// Capacity is the size of the machine's disk in bytes; the image takes its beginning.
	Capacity int64
	// Disk is the disk in the form of WriteVMDK, of DiskSize bytes and this SHA-256.
	Disk       io.Reader
	DiskSize   int64
	DiskSHA256 string
}

// WriteOVA packs a machine. The same parts give the same bytes.
func WriteOVA(out io.Writer, o OVA) error {
	description, err := o.description()
	if err != nil {
		return err
	}
	disk := o.Name + "-disk1.vmdk"
	sums := fmt.Sprintf("SHA256(%s.ovf)= %s\nSHA256(%s)= %s\n", o.Name, hexSum(description), disk, o.DiskSHA256)
	w := tar.NewWriter(out)
	for _, member := range []struct {
		name string
		size int64
		data io.Reader
	}{
		{o.Name + ".ovf", int64(len(description)), bytes.NewReader(description)},
		{o.Name + ".mf", int64(len(sums)), bytes.NewReader([]byte(sums))},
		{disk, o.DiskSize, o.Disk},
	} {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: member.name, Mode: 0o644, Size: member.size, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return fmt.Errorf("packing %s: %w", member.name, err)
		}
		if _, err := io.Copy(w, member.data); err != nil {
			return fmt.Errorf("packing %s: %w", member.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("packing the machine: %w", err)
	}
	return nil
}

// What the machine of an OVA has.
const (
	ovaProcessors = 2
	ovaMemory     = 4096 // MiB
)

// guests are names of systems in VMware's descriptions.
var guests = map[string]string{"x86_64": "debian12_64Guest", "aarch64": "arm-debian12-64Guest"}

func escaped(text string) (string, error) {
	var b bytes.Buffer
	if err := xml.EscapeText(&b, []byte(text)); err != nil {
		return "", fmt.Errorf("writing the description: %w", err)
	}
	return b.String(), nil
}

// description is the OVF document. Secure Boot and the TPM are asked for as hints: a program
// that does not know them takes the machine all the same, and the system then says what it
// misses.
func (o OVA) description() ([]byte, error) {
	name, err := escaped(o.Name)
	if err != nil {
		return nil, err
	}
	version, err := escaped(o.Kind.Version)
	if err != nil {
		return nil, err
	}
	guest, ok := guests[o.Kind.Architecture]
	if !ok {
		return nil, fmt.Errorf("describing the machine: architecture %q is not known", o.Kind.Architecture)
	}
	item := func(id int, kind int, title, more string) string {
		return fmt.Sprintf(`      <Item>
        <rasd:ElementName>%s</rasd:ElementName>
        <rasd:InstanceID>%d</rasd:InstanceID>
%s        <rasd:ResourceType>%d</rasd:ResourceType>
`, title, id, more, kind)
	}
	const end = "      </Item>\n"
	quantity := func(n int) string {
		return fmt.Sprintf("        <rasd:VirtualQuantity>%d</rasd:VirtualQuantity>\n", n)
	}
	line := func(tag, value string) string { return fmt.Sprintf("        <rasd:%s>%s</rasd:%s>\n", tag, value, tag) }
	var b bytes.Buffer
	fmt.Fprintf(&b, ovfBegin, name, o.DiskSize, o.Capacity, name, version, guest, name)
	b.WriteString(item(1, 3, "Processors", "") + quantity(ovaProcessors) + end)
	b.WriteString(item(2, 4, "Memory", line("AllocationUnits", "byte * 2^20")) + quantity(ovaMemory) + end)
	b.WriteString(item(3, 6, "SCSI controller", line("Address", "0")+line("ResourceSubType", "VirtualSCSI")) + end)
	b.WriteString(item(4, 17, "Disk", line("AddressOnParent", "0")+line("HostResource", "ovf:/disk/disk1")+line("Parent", "3")) + end)
	b.WriteString(item(5, 10, "Network card", line("AddressOnParent", "1")+line("AutomaticAllocation", "true")+line("Connection", "network")+line("ResourceSubType", "VmxNet3")) + end)
	b.WriteString(ovfEnd)
	return b.Bytes(), nil
}

const ovfBegin = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="%s-disk1.vmdk" ovf:id="file1" ovf:size="%d"/>
  </References>
  <DiskSection>
    <Info>The disk</Info>
    <Disk ovf:capacity="%d" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>The network</Info>
    <Network ovf:name="network">
      <Description>The network of the node</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="%s">
    <Info>A node of Holdfast</Info>
    <ProductSection>
      <Info>The release</Info>
      <Product>Holdfast</Product>
      <Version>%s</Version>
    </ProductSection>
    <AnnotationSection>
      <Info>What the machine needs</Info>
      <Annotation>UEFI with Secure Boot in setup mode, so that the first start can enrol the keys of the image, and a TPM 2.0. Enlarge the disk before the first start.</Annotation>
    </AnnotationSection>
    <OperatingSystemSection ovf:id="96" vmw:osType="%s">
      <Info>The system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>The machine</Info>
      <System>
        <vssd:ElementName>Virtual hardware</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>%s</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType>
      </System>
`

const ovfEnd = `      <Item ovf:required="false">
        <rasd:AutomaticAllocation>false</rasd:AutomaticAllocation>
        <rasd:ElementName>Virtual TPM</rasd:ElementName>
        <rasd:InstanceID>6</rasd:InstanceID>
        <rasd:ResourceSubType>vmware.vtpm</rasd:ResourceSubType>
        <rasd:ResourceType>1</rasd:ResourceType>
      </Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`
