package simulate

import (
	"os"
	"reflect"
	"slices"
	"testing"
)

// A member that was added to the daemon's machine and is not here would end the node in the
// middle of something.
func TestMachine_OfANode_HasEveryMember(t *testing.T) {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	n, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	// The daemon answers 501 for what a machine does not have; nobody puts a medium into one, or
	// types in front of it.
	without := []string{"Backups", "AppData", "Resets", "SecureBoot", "Rescue", "Sooner"}
	machine := reflect.ValueOf(n.machine())
	for i := range machine.NumField() {
		if slices.Contains(without, machine.Type().Field(i).Name) {
			continue
		}
		if machine.Field(i).IsZero() {
			t.Errorf("daemon.Machine.%s is not set: add it to machine.go", machine.Type().Field(i).Name)
		}
	}
}
