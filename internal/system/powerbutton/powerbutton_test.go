package powerbutton

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Lines as the kernel has them for a power button, a keyboard and a lid.
func TestHasKey_LinesOfSysfs_TellWhoHasAPowerButton(t *testing.T) {
	for field, want := range map[string]bool{
		"10000000000000 0\n": true, // LNXPWRBN
		"402000000 3803078f800d001 ffefffdfffefffff fffffffffffffffe\n": false, // a keyboard without the key
		"402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n": true,  // one with it
		"0\n": false, "": false, "x y\n": false,
	} {
		if got := hasKey(field, keyPower); got != want {
			t.Errorf("%q: %t", field, got)
		}
	}
}

func event(kind, code uint16, value uint32) []byte {
	raw := make([]byte, 16, eventSize)
	raw = binary.LittleEndian.AppendUint16(raw, kind)
	raw = binary.LittleEndian.AppendUint16(raw, code)
	return binary.LittleEndian.AppendUint32(raw, value)
}

// A press is heard, and neither its release nor another key; keyboards without the key are
// not opened at all.
func TestWatch_Button_IsHeardWhenPressed(t *testing.T) {
	root := t.TempDir()
	for name, keys := range map[string]string{"event0": "10000000000000 0\n", "event1": "fffffffffffffffe\n"} {
		dir := filepath.Join(root, "sys/class/input", name, "device/capabilities")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "key"), []byte(keys), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	fifo := filepath.Join(root, "dev/input/event0")
	if err := errors.Join(os.MkdirAll(filepath.Dir(fifo), 0o755), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	keys, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	presses, err := Watch(t.Context(), filepath.Join(root, "sys"), filepath.Join(root, "dev"))
	if err != nil {
		t.Fatal(err)
	}
	// What is not the press comes first: it would be heard first.
	other := make(chan struct{}, 1)
	go func() {
		listen(fixed{event(kindKey, keyPower, 0), event(kindKey, 30, pressed), event(0, keyPower, pressed)}.reader(), other)
		close(other)
	}()
	if _, heard := <-other; heard {
		t.Error("something else was taken for the button")
	}
	if _, err := keys.Write(event(kindKey, keyPower, pressed)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-presses:
	case <-time.After(10 * time.Second):
		t.Error("the button was not heard")
	}
}

// fixed are events that end.
type fixed [][]byte

func (f fixed) reader() *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err) // a test without pipes cannot go on
	}
	for _, e := range f {
		if _, err := w.Write(e); err != nil {
			panic(err)
		}
	}
	_ = w.Close()
	return r
}
