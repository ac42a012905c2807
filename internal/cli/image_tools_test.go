package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/qemuimg"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/test/needs"
)

// imageTable is that of an install image whose partitions are empty.
const imageTable = `label: gpt
unit: sectors
start=2048, size=4194304, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="esp"
start=4196352, size=204800, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="seed-data"
start=4401152, size=32, type=E7BB33FB-06CF-4E81-8273-E543B413E2E2, name="Holdfast_202611220104_verity_sig"
start=4401184, size=2048, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name="Holdfast_202611220104_verity"
start=4403232, size=2048, type=8484680C-9521-48C6-9C11-B0720656F69E, name="Holdfast_202611220104"
`

// emptyImage makes an install image without content in a folder of its own, which becomes
// the working one.
func emptyImage(t *testing.T) (tooltree.Tree, string) {
	t.Helper()
	tree := needs.Tree(t, "sfdisk", "qemu-img")
	dir := t.TempDir()
	t.Chdir(dir)
	f, err := os.Create("Holdfast.img")
	if err == nil {
		err = errors.Join(f.Truncate(2260<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	command := tree.Command("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", filepath.Join(dir, "Holdfast.img"))
	command.Stdin = strings.NewReader(imageTable)
	if _, err := run.Host(t.Context(), command); err != nil {
		t.Fatal(err)
	}
	return tree, dir
}

func hostEnv(stdin io.Reader, stdout, stderr io.Writer) Env {
	return Env{Getenv: func(string) string { return "" }, Stdin: stdin, Stdout: stdout, Stderr: stderr, Run: run.Host}
}

// What other hypervisors get is read by a program that is not ours: no damage, the right
// size, and the same bytes.
func TestImageConvert_EveryForm_IsReadByQemuImg(t *testing.T) {
	tree, dir := emptyImage(t)
	tool := qemuimg.Tool{Run: run.Host, Command: func(args ...string) run.Command { return tree.Command("qemu-img", args...) }}
	const size = 2260 << 20
	for _, c := range []struct {
		name, format, flag string
		want               qemuimg.Info
	}{
		{"out.qcow2", "qcow2", "", qemuimg.Info{Format: "qcow2", Size: size}},
		{"out.vhdx", "vhdx", "", qemuimg.Info{Format: "vhdx", Size: size}},
		{"out.vmdk", "vmdk", "", qemuimg.Info{Format: "vmdk", Size: size}},
		{"large.vmdk", "vmdk", "--disk-size=20GiB", qemuimg.Info{Format: "vmdk", Size: 20 << 30}},
		{"out.ova", "vmdk", "--disk-size=20GiB", qemuimg.Info{Format: "vmdk", Size: 20 << 30}},
		{"out.raw", "raw", "", qemuimg.Info{Format: "raw", Size: size}},
	} {
		args := []string{"image", "convert", "Holdfast.img", c.name}
		if c.flag != "" {
			args = append(args, c.flag)
		}
		var stderr bytes.Buffer
		if code := Run(t.Context(), args, hostEnv(strings.NewReader(""), io.Discard, &stderr)); code != ExitOK {
			t.Fatalf("%s: %d %s", c.name, code, &stderr)
		}
		path := filepath.Join(dir, c.name)
		if strings.HasSuffix(c.name, ".ova") {
			path = diskOf(t, path)
		}
		got, err := tool.Info(t.Context(), path, c.format)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
		if c.format != "raw" && !strings.HasPrefix(c.name, "out.vmdk") && c.name != "large.vmdk" && !strings.HasSuffix(c.name, ".ova") {
			// qemu-img has no check for vmdk of this kind; comparing reads all of it.
			if _, err := run.Host(t.Context(), tree.Command("qemu-img", "check", "-f", c.format, path)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if err := same(t.Context(), tree, filepath.Join(dir, "Holdfast.img"), path, c.format); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// same has qemu-img compare a disk with the image; a longer disk must end in zeros.
func same(ctx context.Context, tree tooltree.Tree, image, disk, format string) error {
	_, err := run.Host(ctx, tree.Command("qemu-img", "compare", "-f", "raw", "-F", format, image, disk))
	return err
}

// diskOf takes the disk out of an OVA.
func diskOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(header.Name, ".vmdk") {
			continue
		}
		disk := filepath.Join(t.TempDir(), "disk.vmdk")
		out, err := os.Create(disk)
		if err == nil {
			_, err = io.Copy(out, r)
			err = errors.Join(err, out.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		return disk
	}
}

// A person who answers questions gets the image that the command line shown to them makes.
func TestImageCustomize_Asked_MakesWhatItsCommandLineMakes(t *testing.T) {
	_, dir := emptyImage(t)
	for name, c := range map[string]struct {
		flags   []string
		typed   string
		command string
	}{
		"defaults": {nil, "\n\n\n\n\n\n\n-\ny\nfirst.img\n\n",
			"holdfast image customize --in Holdfast.img --out first.img --application incus --install-target any"},
		"all of it": {nil, "nowhere.img\nHoldfast.img\n1\n3\n\n100 GiB of it\n100GiB\nyes\ndocker\nincus\n" +
			"2\n52:54:00:12:34:56\n192.0.2.10\n192.0.2.10/24\n192.0.2.1\n192.0.2.53\nmy network.yaml\n-\nno\n-\nyes\nsecond.img\nyes\n",
			"holdfast image customize --in Holdfast.img --out second.img --application incus --install-target bus=nvme,min_size=100GiB --force-install --network 'my network.yaml'"},
		"some of it": {[]string{"--in", "Holdfast.img", "--application", "incus", "--out", "third.img"}, "3\n1\n-\nyes\nyes\n",
			"holdfast image customize --in Holdfast.img --out third.img --application incus"},
	} {
		var stdout, stderr bytes.Buffer
		env := hostEnv(strings.NewReader(c.typed), &stdout, &stderr)
		env.StdinTerminal = true
		if code := Run(t.Context(), append([]string{"image", "customize", "-i"}, c.flags...), env); code != ExitOK {
			t.Fatalf("%s: %d\n%s", name, code, &stderr)
		}
		if !strings.Contains(stderr.String(), "\n  "+c.command+"\n") {
			t.Errorf("%s: the command line is not %s:\n%s", name, c.command, &stderr)
		}
		_, rest, _ := strings.Cut(c.command, "--out ")
		out, _, _ := strings.Cut(rest, " ")
		// The same by the command line, with another name.
		again := strings.Replace(c.command, "--out "+out, "--out again.img", 1)
		script := run.Command{Name: "sh", Args: []string{"-c", "for word in " + strings.TrimPrefix(again, "holdfast ") + `; do printf '%s\n' "$word"; done`}}
		words, err := run.Host(t.Context(), script)
		if err != nil {
			t.Fatal(err)
		}
		var told bytes.Buffer
		if code := Run(t.Context(), strings.Split(strings.TrimSpace(string(words.Stdout)), "\n"), hostEnv(strings.NewReader(""), io.Discard, &told)); code != ExitOK {
			t.Fatalf("%s: %d %s", name, code, &told)
		}
		if _, err := run.Host(t.Context(), run.Command{Name: "cmp", Args: []string{filepath.Join(dir, out), filepath.Join(dir, "again.img")}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(os.Remove(out), os.Remove("again.img")); err != nil {
			t.Error(err)
		}
	}
}

// Leaving in the middle, or saying no, writes nothing.
func TestImageCustomize_AskedAndNotAgreed_WritesNothing(t *testing.T) {
	_, dir := emptyImage(t)
	for name, typed := range map[string]string{
		"no":      "\n3\n\n\n-\nyes\nnode.img\nno\n",
		"leaving": "\n3\n\n",
	} {
		var stderr bytes.Buffer
		env := hostEnv(strings.NewReader(typed), io.Discard, &stderr)
		env.StdinTerminal = true
		code := Run(t.Context(), []string{"image", "customize", "--interactive"}, env)
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || code != ExitError || fmt.Sprint(names) != "["+filepath.Join(dir, "Holdfast.img")+"]" {
			t.Errorf("%s: %d %v\n%s", name, code, names, &stderr)
		}
	}
	var stderr bytes.Buffer
	if code := Run(t.Context(), []string{"image", "customize", "-i"}, hostEnv(strings.NewReader("\n"), io.Discard, &stderr)); code != ExitError {
		t.Errorf("without a terminal: %d %s", code, &stderr)
	}
}
