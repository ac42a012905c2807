//go:build linux

package host

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/softtpm"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/test/needs"
)

// systemdMeasure is a program that lies beside those for people.
const systemdMeasure = "../lib/systemd/systemd-measure"

// kernelImage makes a unified kernel image of small files, and gives what systemd-measure
// says of register 11 when its initrd begins.
func kernelImage(t *testing.T, tree tooltree.Tree) (path, register string) {
	t.Helper()
	dir := t.TempDir()
	stub := tree.File("usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if _, err := os.Stat(stub); err != nil {
		needs.MissingBuild(t, "in the tools tree: "+err.Error())
	}
	path = filepath.Join(dir, "uki.efi")
	args := []string{"--output-target=pei-x86-64"}
	measure := []string{"calculate", "--bank=sha256", "--phase=enter-initrd", "--json=short"}
	at := 0x10000000
	for _, section := range []string{"linux", "osrel", "cmdline", "initrd", "uname", "pcrpkey"} {
		file := filepath.Join(dir, section)
		writeFile(t, file, strings.Repeat("the section "+section+". ", 100+len(section)))
		args = append(args, "--add-section", "."+section+"="+file, "--change-section-vma", fmt.Sprintf(".%s=%#x", section, at))
		measure = append(measure, "--"+section+"="+file)
		at += 0x100000
	}
	needs.Programs(t, "objcopy")
	sbat, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sbat), ".sbat") {
		file := filepath.Join(dir, "sbat")
		if _, err := runTool(t, run.Command{Name: "objcopy", Args: []string{"--dump-section", ".sbat=" + file, stub, filepath.Join(dir, "dumped")}}); err != nil {
			t.Fatal(err)
		}
		measure = append(measure, "--sbat="+file)
	}
	if _, err := runTool(t, run.Command{Name: "objcopy", Args: append(args, stub, path)}); err != nil {
		t.Fatal(err)
	}
	out, err := runTool(t, tree.Command(systemdMeasure, measure...))
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string][]struct {
		PCR   int    `json:"pcr"`
		Phase string `json:"phase"`
		Hash  string `json:"hash"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, value := range answer["sha256"] {
		if value.PCR == 11 {
			register = value.Hash
		}
	}
	return path, register
}

// The policy of a release is signed over what systemd-stub measures. A TPM that a machine
// emulates opens its disk only when what is measured here is the same to the last bit.
func TestDigests_KernelImage_AreThoseOfSystemd(t *testing.T) {
	tree := needs.Tree(t, systemdMeasure)
	image, want := kernelImage(t, tree)
	digests, err := softtpm.Digests(image)
	if err != nil {
		t.Fatal(err)
	}
	var register [sha256.Size]byte
	for _, digest := range digests {
		register = sha256.Sum256(append(register[:], digest[:]...))
	}
	if got := hex.EncodeToString(register[:]); got != want {
		t.Errorf("register 11 would be %s, want %s", got, want)
	}
}

// tcpTPM is swtpm behind a TCP port, by its address: commands and answers as they are, with a
// connection for each.
type tcpTPM string

func (tcpTPM) Close() error { return nil }

func (address tcpTPM) Send(input []byte) ([]byte, error) {
	conn, err := net.Dial("tcp", string(address))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(input); err != nil {
		return nil, err
	}
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	return answer[:n], err
}

// The same with a TPM that runs: what is extended is what was worked out.
func TestMeasure_RunningTPM_HasTheRegisterOfSystemd(t *testing.T) {
	tree := needs.Tree(t, "swtpm", systemdMeasure, "tpm2_pcrread")
	image, want := kernelImage(t, tree)
	state := filepath.Join(t.TempDir(), "tpm")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	device, _ := bootTPM(t, tree, state)
	host, port, _ := strings.Cut(strings.TrimPrefix(device, "swtpm:host="), ",port=")
	served := softtpm.TPM{Open: func() (transport.TPMCloser, error) { return tcpTPM(net.JoinHostPort(host, port)), nil }}
	if err := served.Measure(image); err != nil {
		t.Fatal(err)
	}
	out, err := runTool(t, tree.Command("tpm2_pcrread", "-T", device, "sha256:11"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ToLower(out), want) {
		t.Errorf("the TPM has %s, want %s", out, want)
	}
}
