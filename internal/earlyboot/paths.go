package earlyboot

import (
	"cmp"

	"golang.org/x/sys/unix"
)

// Paths are the directories that early boot works in. An empty one is that of a real
// initrd.
type Paths struct {
	// Sysroot is where the root of the system to come is; default "/sysroot".
	Sysroot string
	// Sysusr holds the verified "usr"; default "/sysusr".
	Sysusr string
	// Run is default "/run".
	Run string
	// Sys is default "/sys".
	Sys string
	// Dev is default "/dev".
	Dev string
}

func (p Paths) withDefaults() Paths {
	p.Sysroot = cmp.Or(p.Sysroot, "/sysroot")
	p.Sysusr = cmp.Or(p.Sysusr, "/sysusr")
	p.Run = cmp.Or(p.Run, "/run")
	p.Sys = cmp.Or(p.Sys, "/sys")
	p.Dev = cmp.Or(p.Dev, "/dev")
	return p
}

// Mounter mounts and unmounts; its methods are the system calls.
type Mounter interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	Unmount(target string, flags int) error
}

type kernelMounts struct{}

func (kernelMounts) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

func (kernelMounts) Unmount(target string, flags int) error { return unix.Unmount(target, flags) }
