// Package observe reads what a machine shows of itself: its processor's registers,
// its list of processes, its listening sockets, its serial log. It is pure; the VM
// tests bring the text.
package observe

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

var instructionPointer = regexp.MustCompile(`\bRIP=([0-9a-f]{16})\b`)

// InKernel tells from QEMU's "info registers" whether the processor is in the upper
// half of the address space. Linux runs there; the firmware and the boot loader,
// which map memory one to one, never do. Text without the register is an error.
func InKernel(registers string) (bool, error) {
	match := instructionPointer.FindStringSubmatch(registers)
	if match == nil {
		return false, fmt.Errorf("reading the registers: there is no RIP in %.80q", registers)
	}
	at, err := strconv.ParseUint(match[1], 16, 64)
	if err != nil {
		return false, fmt.Errorf("reading the register RIP: %w", err)
	}
	return at>>63 == 1, nil
}

// Process is one line of the list of processes.
type Process struct {
	User string
	PID  int
	// TTY is its terminal, "?" for none.
	TTY string
	// Name is the program without its folder and without the dash of a login shell;
	// a kernel thread keeps its brackets.
	Name string
	// Command is the whole command line.
	Command string
}

// psColumns is how many columns `ps u` has.
const psColumns = 11

// Processes reads the output of `ps fauxww`, its heading included.
func Processes(text string) ([]Process, error) {
	var list []Process
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "USER" {
			continue
		}
		if len(fields) < psColumns {
			return nil, fmt.Errorf("reading the list of processes: %q has %d columns, want %d", line, len(fields), psColumns)
		}
		pid, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("reading the list of processes: %q is no process id", fields[1])
		}
		command := fields[psColumns-1:]
		for len(command) > 1 && (command[0] == "|" || command[0] == `\_`) {
			command = command[1:]
		}
		list = append(list, Process{
			User: fields[0], PID: pid, TTY: fields[6], Name: programName(command[0]), Command: strings.Join(command, " "),
		})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("reading the list of processes: it is empty")
	}
	return list, nil
}

func programName(word string) string {
	if strings.HasPrefix(word, "[") {
		return word
	}
	word = word[strings.LastIndexByte(word, '/')+1:]
	return strings.TrimSuffix(strings.TrimPrefix(strings.Trim(word, "()"), "-"), ":")
}

// Listener is one socket that waits for others.
type Listener struct {
	// Protocol is "tcp" or "udp".
	Protocol string
	// Address is where it listens; invalid means everywhere ("*").
	Address netip.Addr
	// Device is the network device that it is bound to; empty means any.
	Device string
	Port   int
}

// Local tells whether only this very machine reaches it.
func (l Listener) Local() bool { return l.Address.IsValid() && l.Address.IsLoopback() }

// String is "tcp *:8443".
func (l Listener) String() string {
	if !l.Address.IsValid() || l.Address.IsUnspecified() {
		return fmt.Sprintf("%s *:%d", l.Protocol, l.Port)
	}
	return fmt.Sprintf("%s %s", l.Protocol, netip.AddrPortFrom(l.Address, uint16(l.Port)))
}

// Listeners reads the output of `ss -lntuH`.
func Listeners(text string) ([]Listener, error) {
	var list []Listener
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 5 {
			return nil, fmt.Errorf("reading the list of sockets: %q has %d columns, want at least 5", line, len(fields))
		}
		colon := strings.LastIndexByte(fields[4], ':')
		port, err := strconv.Atoi(fields[4][colon+1:])
		if err != nil {
			return nil, fmt.Errorf("reading the list of sockets: %q is no address with a port", fields[4])
		}
		l := Listener{Protocol: fields[0], Port: port}
		var host string
		host, l.Device, _ = strings.Cut(fields[4][:max(colon, 0)], "%")
		l.Device = strings.TrimSuffix(l.Device, "]")
		if host = strings.Trim(host, "[]"); host != "*" {
			if l.Address, err = netip.ParseAddr(host); err != nil {
				return nil, fmt.Errorf("reading the list of sockets: %q is no address", fields[4])
			}
		}
		list = append(list, l)
	}
	return list, nil
}

var control = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b[()][0-9A-Za-z]|\x1b.|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]`)

// Words turns what a serial port said into lower-case words with one space between
// them, without escape sequences: a long line may be broken anywhere.
func Words(raw string) string {
	return strings.ToLower(strings.Join(strings.Fields(control.ReplaceAllString(raw, " ")), " "))
}

// Says tells whether words, as Words gives them, have every phrase.
func Says(words string, phrases ...string) bool {
	for _, phrase := range phrases {
		if !strings.Contains(words, strings.ToLower(phrase)) {
			return false
		}
	}
	return true
}
