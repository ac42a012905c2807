package console_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/console"
)

var update = flag.Bool("update", false, "write the goldens and the pictures of the documentation anew")

func at(clock string) time.Time {
	t, err := time.Parse(time.DateTime, "2026-11-22 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func message(clock, level, text string) console.Message {
	return console.Message{At: at(clock), Level: level, Text: text}
}

const fingerprint = "3b8a6a0f5c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f405162738495a6b7"

// node is one that is ready.
func node() console.Screen {
	return console.Screen{
		Name: "node1", Product: "Holdfast", Version: "202611220104", State: console.Ready, Now: at("01:04:09"),
		Addresses: []string{"10.0.2.15/24", "fd00::5054:ff:fe12:3456/64"}, Fingerprint: fingerprint,
		Applications: []string{"incus 7.0.2 [202611220104]"},
		Messages: []console.Message{
			message("01:02:03", console.LevelInfo, "the pool local is open"),
			message("01:02:31", console.LevelInfo, "incus 7.0.2 runs"),
			message("01:02:33", console.LevelInfo, "system is ready"),
		},
	}
}

func with(s console.Screen, change func(*console.Screen)) console.Screen {
	change(&s)
	return s
}

// booting has no name and no address yet.
func booting() console.Screen {
	return console.Screen{
		Product: "Holdfast", Version: "202611220104", State: console.Starting, Phase: "network", Now: at("01:01:30"), Name: "node1",
		Messages: []console.Message{message("01:01:12", console.LevelInfo, "root was opened by the TPM"), message("01:01:29", console.LevelInfo, "the kernel's settings are applied")},
	}
}

func installing() console.Screen {
	return console.Screen{
		Product: "Holdfast", Version: "202611220104", State: console.Installing, Phase: "copying Holdfast_1", Done: 214, Total: 640, Now: at("12:00:19"),
		Messages: []console.Message{
			message("12:00:00", console.LevelInfo, "installing release 202611220104 on /dev/nvme0n1 (Example SSD 1 TB): 750 MiB to copy"),
			message("12:00:01", console.LevelInfo, "1 of 13: wipe: removing the old partition table"),
			message("12:00:02", console.LevelInfo, "2 of 13: partition: writing the partition table"),
			message("12:00:02", console.LevelInfo, "3 of 13: copy esp: 101 MiB of 2 GiB at 1048576"),
			message("12:00:05", console.LevelInfo, "4 of 13: seed seed-data: 10 KiB at 2148532224"),
			message("12:00:06", console.LevelInfo, "5 of 13: copy Holdfast_1: 640 MiB of 2 GiB at 2320515072"),
		},
	}
}

// states are the pictures of the documentation.
func states() map[string]console.Screen {
	const swtpm = "the state of this node is not trusted: the TPM is emulated (swtpm), Secure Boot is disabled"
	const keys = "the recovery keys have not been retrieved: holdfast node system security show"
	all := map[string]console.Screen{
		"booting": booting(),
		"booting-failed": with(booting(), func(s *console.Screen) {
			s.Problem = &console.Problem{
				Text: "the network is not online: no card has a cable", Again: at("01:01:38"),
				Help: []string{"ask the node, from where its API can be reached: holdfast node debug boot"},
			}
			s.Messages = append(s.Messages, message("01:01:30", console.LevelError, "network: the network is not online: no card has a cable (next try in 8s)"))
		}),
		"ready": node(),
		"warnings": with(node(), func(s *console.Screen) {
			s.Pending = &console.Pending{Sections: []string{"network"}, Who: "sha256:5a1b2c3d4e5f60718293", Until: at("01:09:00")}
			s.Warnings = []string{swtpm, keys, "the fallback listener is open at [::]:8443: the primary application does not run"}
			s.Messages = append(s.Messages, message("01:03:50", console.LevelWarning, "the state document update.json is damaged, its last copy is used"))
		}),
		"degraded": with(node(), func(s *console.Screen) {
			s.State, s.Phase = console.Degraded, "incus does not run"
			s.Warnings = []string{"the fallback listener is open at [::]:8443: the primary application does not run"}
			s.Messages = append(s.Messages, message("01:03:50", console.LevelError, "applications: incus: the unit incus.service has failed"))
		}),
		"installing": installing(),
		"install-failed": with(installing(), func(s *console.Screen) {
			s.State, s.Phase, s.Done, s.Total = console.InstallFailed, "install", 0, 0
			s.Problem = &console.Problem{
				Text: "copy Holdfast_1: what was read back is not what was written: the disk or the medium is faulty", Again: at("12:00:27"),
				Help: []string{"put right what stands above; the installation begins anew by itself", "to give up, switch the machine off and remove the medium"},
			}
		}),
		"updating": with(node(), func(s *console.Screen) {
			s.State, s.Phase, s.Done, s.Total = console.Updating, "downloading incus", 72, 100
			s.Messages = append(s.Messages, message("01:03:40", console.LevelInfo, "release 202611250300 is published: updating incus"))
		}),
		"rebooting": with(node(), func(s *console.Screen) {
			s.State, s.Phase = console.Rebooting, "as the API was asked for"
			s.Messages = append(s.Messages, message("01:04:08", console.LevelInfo, "restarting, as admin has asked for"))
		}),
		"small": with(node(), func(s *console.Screen) {
			for i := range 38 {
				s.Addresses = append(s.Addresses, "10.20."+string(rune('0'+i/10))+"."+string(rune('0'+i%10))+"/16")
			}
			s.Warnings = []string{swtpm, keys, "the clock is not synchronized", "the pool local is 93% full", "the certificate ends in 5 days"}
			for range 30 {
				s.Messages = append(s.Messages, message("01:03:55", console.LevelInfo, "a line of news"))
			}
			s.Messages = append(s.Messages, message("01:04:00", console.LevelError, strings.Repeat("a long error of another program, ", 40)))
		}),
	}
	all["large"] = with(all["small"], func(s *console.Screen) {
		s.Width, s.Height = 160, 50
		s.Applications = append(s.Applications, "prometheus-node-exporter 1.9.1 [202611220104]")
	})
	return all
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// What stands on the screen of a machine, as its owner sees it: without colour, and with.
func TestRender_States_AreAsDrawn(t *testing.T) {
	for name, screen := range states() {
		t.Run(name, func(t *testing.T) {
			plain := console.Render(screen) + "\n"
			golden(t, name+".txt", plain)
			screen.Colours = console.Sixteen
			painted := console.Render(screen) + "\n"
			golden(t, name+".ansi", painted)
			if diff := cmp.Diff(plain, shown(t, painted, screen)); diff != "" {
				t.Errorf("colour has changed what is said: %s", diff)
			}
		})
	}
}

// A terminal without colours gets bold and reverse.
func TestRender_Monochrome_SaysTheSame(t *testing.T) {
	screen := states()["warnings"]
	plain := console.Render(screen) + "\n"
	screen.Colours = console.Monochrome
	painted := console.Render(screen) + "\n"
	golden(t, "monochrome.ansi", painted)
	if diff := cmp.Diff(plain, shown(t, painted, screen)); diff != "" {
		t.Error(diff)
	}
}

// Before anything is known, and with nothing but texts that are foreign.
func TestRender_Extremes_AreAsDrawn(t *testing.T) {
	golden(t, "empty.txt", console.Render(console.Screen{})+"\n")
	golden(t, "hostile.txt", console.Render(console.Screen{
		Name: "\x1b]0;owned\x07node\u202e", Product: "Hold\x9bfast\u009b2J", Version: strings.Repeat("9", 5000), State: console.Ready, Now: at("01:04:09"),
		Phase: "read\x00y", Fingerprint: "\x1b[8m" + fingerprint, Addresses: []string{"\x1b[31m10.0.2.15\r\n"}, Applications: []string{"\x1bc"},
		Warnings: []string{"two\nlines", "\xff\xfe"}, Pending: &console.Pending{Sections: []string{"a\x1b[1;1H"}, Who: "b\x1b[2J"},
		Messages: []console.Message{message("01:02:03", console.LevelInfo, "\x1b[2J\x07red\nalert\u202e \u200bof 日本語のメッセージ, 한국어 and e\u0301")},
	})+"\n")
}
