package qemuimg

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
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
