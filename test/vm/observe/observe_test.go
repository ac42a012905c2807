package observe

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A refused kernel counts as refused only because its code never ran.
func TestInKernel_UpperHalf_IsLinux(t *testing.T) {
	for _, c := range []struct {
		registers string
		want      bool
	}{
		{"RAX=0000000000000000 RBX=1\nRIP=ffffffff81a3f2c1 RFL=00000246", true},
		{"RAX=ffffffff81a3f2c1\nRIP=000000007e1b2a40 RFL=00000246", false},
		{"RIP=00007f21b2c4a3d2 RFL=00000246", false},
		{"RIP=8000000000000000 RFL=0", true},
	} {
		if got, err := InKernel(c.registers); err != nil || got != c.want {
			t.Errorf("%q: got %v, %v", c.registers, got, err)
		}
	}
	if _, err := InKernel("EIP=000ffff0"); err == nil {
		t.Error("a processor that has no RIP was taken for one that has")
	}
}

// A shell must not hide behind the drawing of the tree or the dash of a login.
func TestProcesses_Tree_GivesPlainNames(t *testing.T) {
	got, err := Processes(`USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND
root           2  0.0  0.0      0     0 ?        S    01:00   0:00 [kthreadd]
root           9  0.0  0.0      0     0 ?        I<   01:00   0:00  \_ [kworker/0:0H-events]
root           1  0.5  0.4  23456 12345 ?        Ss   01:00   0:02 /usr/lib/systemd/systemd --switched-root
root         300  0.1  0.9 123456 34567 ?        Ssl  01:00   0:01 /usr/lib/holdfast/holdfastd
root         900  0.0  0.1   1234   567 tty1     S+   01:01   0:00  \_ -bash
root         901  0.0  0.1   1234   567 ttyS0    S+   01:01   0:00  |   \_ (agetty)
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Process{
		{"root", 2, "?", "[kthreadd]", "[kthreadd]"},
		{"root", 9, "?", "[kworker/0:0H-events]", "[kworker/0:0H-events]"},
		{"root", 1, "?", "systemd", "/usr/lib/systemd/systemd --switched-root"},
		{"root", 300, "?", "holdfastd", "/usr/lib/holdfast/holdfastd"},
		{"root", 900, "tty1", "bash", "-bash"},
		{"root", 901, "ttyS0", "agetty", "(agetty)"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "USER PID\n", "root x 0 0 0 0 ? S 0 0 a\n", "root 1 0\n"} {
		if _, err := Processes(bad); err == nil {
			t.Errorf("%q was read as a list", bad)
		}
	}
}

// An open port must be seen whatever way its address is written.
func TestListeners_AllForms_AreToldApart(t *testing.T) {
	got, err := Listeners(`udp   UNCONN 0      0         127.0.0.53%lo:53        0.0.0.0:*
udp   UNCONN 0      0      10.0.2.15%enp0s2:68        0.0.0.0:*
tcp   LISTEN 0      4096                  *:8443            *:*
tcp   LISTEN 0      128                [::]:22           [::]:*
tcp   LISTEN 0      128             [::1]:631         [::]:*
`)
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Text  string
		Local bool
	}
	var lines []line
	for _, l := range got {
		lines = append(lines, line{l.String(), l.Local()})
	}
	want := []line{
		{"udp 127.0.0.53:53", true},
		{"udp 10.0.2.15:68", false},
		{"tcp *:8443", false},
		{"tcp *:22", false},
		{"tcp [::1]:631", true},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"tcp LISTEN\n", "tcp LISTEN 0 0 nowhere x\n", "tcp LISTEN 0 0 a.b:80 x\n"} {
		if _, err := Listeners(bad); err == nil {
			t.Errorf("%q was read as a socket", bad)
		}
	}
}

// A message counts as seen even when a terminal broke and coloured it.
func TestWords_ColouredAndBroken_IsOneText(t *testing.T) {
	words := Words("\x1b[0;1;31mThe disk has 10 GiB,\x1b[0m\r\n   and 20 GiB\r\nare  needed\x00")
	if words != "the disk has 10 gib, and 20 gib are needed" {
		t.Errorf("got %q", words)
	}
	if !Says(words, "10 GiB", "are needed") || Says(words, "10 GiB", "several") {
		t.Error("phrases are not told apart")
	}
}
