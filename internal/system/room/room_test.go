package room

import (
	"errors"
	"io/fs"
	"math"
	"testing"
)

func TestCheck_Folder_HasAByteButNotAllBytes(t *testing.T) {
	folder := t.TempDir()
	if err := Check(folder, 1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	if err := Check(folder, math.MaxInt64); !errors.Is(err, ErrFull) {
		t.Errorf("all bytes there can be: %v, want ErrFull", err)
	}
	if err := Check(folder+"/none", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v, want fs.ErrNotExist", err)
	}
}

func TestEnough_OneByteLess_SaysBothFigures(t *testing.T) {
	if err := enough("/x", 3<<30, 3<<30); err != nil {
		t.Errorf("exactly enough: %v", err)
	}
	err := enough("/x", 3<<30, 3<<30-1)
	if want := "not enough room in /x: 3.0 GiB are needed, 3.0 GiB are free"; err == nil || err.Error() != want {
		t.Errorf("one byte less: %v, want %q", err, want)
	}
}
