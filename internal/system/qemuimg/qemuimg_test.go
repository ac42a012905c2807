package qemuimg

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// answering is a qemu-img that says the same of every image, and notes what it converts.
func answering(info string, converted *[]string) Tool {
	return Tool{Run: func(_ context.Context, c run.Command) (run.Result, error) {
		if c.Args[0] == "convert" {
			*converted = append(*converted, strings.Join(c.Args, " "))
			return run.Result{}, nil
		}
		return run.Result{Stdout: []byte(info)}, nil
	}}
}

const plain = `{"virtual-size": 1048576, "format": "qcow2", "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}}`

// Guessing the format would let a raw image name files of this computer.
func TestConvert_EveryFormat_IsNamed(t *testing.T) {
	var got []string
	tool := answering(plain, &got)
	for _, c := range [][2]string{{"raw", "qcow2"}, {"raw", "vhdx"}, {"qcow2", "raw"}} {
		if err := tool.Convert(t.Context(), "in", c[0], "out", c[1]); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"convert -f raw -O qcow2 in out", "convert -f raw -O vhdx -o subformat=dynamic in out", "convert -f qcow2 -O raw in out"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An image from elsewhere could have this computer's secrets read into the copy.
func TestConvert_ImageThatRefersToAnother_IsRefused(t *testing.T) {
	for name, info := range map[string]string{
		"backing":   `{"virtual-size": 1, "format": "qcow2", "backing-filename": "/etc/shadow"}`,
		"data file": `{"virtual-size": 1, "format": "qcow2", "format-specific": {"data": {"data-file": "/etc/shadow"}}}`,
		"nonsense":  "text",
	} {
		var converted []string
		if err := answering(info, &converted).Convert(t.Context(), "in", "qcow2", "out", "raw"); err == nil || converted != nil {
			t.Errorf("%s: got %v, %v", name, err, converted)
		}
	}
}

func TestInfo_Image_IsRead(t *testing.T) {
	got, err := answering(plain, nil).Info(t.Context(), "in", "qcow2")
	if want := (Info{Format: "qcow2", Size: 1048576}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	broken := errors.New("no such program")
	tool := Tool{Run: func(context.Context, run.Command) (run.Result, error) { return run.Result{}, broken }}
	if _, err := tool.Info(t.Context(), "in", "qcow2"); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// hostile is a vmdk of one file, by its first bytes, whose content is another file.
func hostile(t *testing.T, tool Tool, dir, secret string) string {
	t.Helper()
	path := filepath.Join(dir, "hostile.vmdk")
	if _, err := tool.do(t.Context(), "create", "-q", "-f", "vmdk", path, "1M"); err != nil {
		t.Fatal(err)
	}
	descriptor := make([]byte, 20*512) // the room that qemu-img leaves for it
	copy(descriptor, "# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"+
		"RW 1 FLAT \""+secret+"\" 0\nddb.adapterType = \"ide\"\n")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(descriptor, 512)
	// Without a capacity in its header, the descriptor decides.
	_, noCapacity := f.WriteAt(make([]byte, 8), 12)
	if err := errors.Join(err, noCapacity, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whoever converts or inspects an image from elsewhere must not put a file of their own
// computer into the copy: qemu-img does, and says nothing of a backing file.
func TestConvert_VMDKWithAFileOfThisComputer_IsRefused(t *testing.T) {
	tree := needs.Tree(t, "qemu-img")
	tool := Tool{Run: run.Host, Command: func(args ...string) run.Command { return tree.Command("qemu-img", args...) }}
	dir := t.TempDir()
	secret, out := filepath.Join(dir, "secret"), filepath.Join(dir, "out.raw")
	text := strings.Repeat("secret. ", 64)
	if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	image := hostile(t, tool, dir, secret)
	if _, err := tool.do(t.Context(), "convert", "-f", "vmdk", "-O", "raw", image, out); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != text {
		t.Fatalf("qemu-img itself does not copy the file, so that this proves nothing: %.20q, %v", got, err)
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	if err := tool.Convert(t.Context(), image, "vmdk", out, "raw"); !errors.Is(err, ErrNotRead) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was copied: %v", err)
	}
}
