package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const driverVFIO = "vfio-pci"

// Unload unloads a module; args is its name. One that something uses stays, and that is
// an error.
func (h Host) Unload(ctx context.Context, args []string) error {
	if err := count(args, 1); err != nil {
		return err
	}
	if _, err := h.Run(ctx, run.Command{Name: "modprobe", Args: []string{"--remove", "--", args[0]}}); err != nil {
		return fmt.Errorf("unloading module %s: %w", args[0], err)
	}
	return nil
}

// Hugepages sets huge pages aside; args is their number. The kernel gives fewer without a
// word when memory is fragmented; that is an error here.
func (h Host) Hugepages(_ context.Context, args []string) error {
	if err := count(args, 1); err != nil {
		return err
	}
	const path = "proc/sys/vm/nr_hugepages"
	want, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return fmt.Errorf("setting huge pages aside: %w", err)
	}
	if err := h.write(path, args[0]); err != nil {
		return err
	}
	got, err := h.number(path)
	if err != nil {
		return err
	}
	if got < want {
		return fmt.Errorf("only %d of %d huge pages could be set aside, since memory is too full or too fragmented: the next start of the node sets the rest aside", got, want)
	}
	return nil
}

// Bind gives a device to vfio-pci; args is its PCI address.
func (h Host) Bind(ctx context.Context, args []string) error {
	address, err := pciAddress(args, 1)
	if err != nil {
		return err
	}
	if err := h.modprobe(ctx, driverVFIO); err != nil {
		return err
	}
	dir := devicesDir + address
	if err := h.write(dir+"/driver_override", driverVFIO+"\n"); err != nil {
		return err
	}
	driver, err := h.link(dir + "/driver")
	if err != nil {
		return err
	}
	if driver != "" && driver != driverVFIO {
		if err := h.write(dir+"/driver/unbind", address); err != nil {
			return err
		}
	}
	if driver != driverVFIO {
		if err := h.write("sys/bus/pci/drivers_probe", address); err != nil {
			return err
		}
	}
	if driver, err = h.link(dir + "/driver"); err != nil {
		return err
	}
	if driver != driverVFIO {
		return fmt.Errorf("giving device %s to %s: the kernel did not take it; its log says why", address, driverVFIO)
	}
	return nil
}

// Release gives a device back to its own driver; args is its PCI address. One that a
// virtual machine uses is an error.
func (h Host) Release(_ context.Context, args []string) error {
	address, err := pciAddress(args, 1)
	if err != nil {
		return err
	}
	if err := h.free(address); err != nil {
		return err
	}
	dir := devicesDir + address
	if err := h.write(dir+"/driver_override", "\n"); err != nil {
		return err
	}
	driver, err := h.link(dir + "/driver")
	if err != nil {
		return err
	}
	if driver == driverVFIO {
		if err := h.write(dir+"/driver/unbind", address); err != nil {
			return err
		}
	}
	return h.write("sys/bus/pci/drivers_probe", address)
}

// SRIOV changes the number of virtual functions; args are the PCI address and the
// number. It goes through 0; a function that a virtual machine uses is an error.
func (h Host) SRIOV(_ context.Context, args []string) error {
	address, err := pciAddress(args, 2)
	if err != nil {
		return err
	}
	path := devicesDir + address + "/sriov_numvfs"
	now, err := h.number(path)
	if err != nil {
		return err
	}
	if strconv.FormatInt(now, 10) == args[1] {
		return nil
	}
	for i := range now {
		function, err := h.link(fmt.Sprintf("%s%s/virtfn%d", devicesDir, address, i))
		if err != nil {
			return err
		}
		if function == "" {
			continue
		}
		if err := h.free(function); err != nil {
			return err
		}
	}
	if now != 0 {
		if err := h.write(path, "0"); err != nil {
			return err
		}
	}
	if args[1] == "0" {
		return nil
	}
	return h.write(path, args[1])
}

// free is nil unless a virtual machine has the device: its IOMMU group can be opened
// once.
func (h Host) free(address string) error {
	driver, err := h.link(devicesDir + address + "/driver")
	if err != nil || driver != driverVFIO {
		return err
	}
	group, err := h.link(devicesDir + address + "/iommu_group")
	if err != nil || group == "" {
		return err
	}
	used, err := h.inUse("/dev/vfio/" + group)
	if err != nil {
		return err
	}
	if used {
		return fmt.Errorf("device %s is used by a virtual machine: stop that first", address)
	}
	return nil
}

func pciAddress(args []string, n int) (string, error) {
	if err := count(args, n); err != nil {
		return "", err
	}
	if !addressForm.MatchString(args[0]) {
		return "", fmt.Errorf("%q is not a PCI address", args[0])
	}
	return args[0], nil
}

func count(args []string, n int) error {
	if len(args) != n {
		return fmt.Errorf("%d arguments and not %d: %s", len(args), n, strings.Join(args, " "))
	}
	return nil
}

// speeds are the constants of termios.
var speeds = map[int]uint32{
	1200: unix.B1200, 2400: unix.B2400, 4800: unix.B4800, 9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400,
	57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400, 460800: unix.B460800, 500000: unix.B500000,
	576000: unix.B576000, 921600: unix.B921600, 1000000: unix.B1000000, 1500000: unix.B1500000,
}

// SetSpeed sets the speed of a serial line, as "ttyS1", in bits per second. 0 leaves it.
func (h Host) SetSpeed(terminal string, rate int) error {
	if rate == 0 {
		return nil
	}
	speed, ok := speeds[rate]
	if !ok {
		return fmt.Errorf("setting the speed of %s: %d is not a speed of a serial line", terminal, rate)
	}
	fd, err := unix.Open(h.path("dev/"+terminal), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening terminal %s: %w", terminal, err)
	}
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		settings.Cflag = settings.Cflag&^unix.CBAUD | speed
		err = unix.IoctlSetTermios(fd, unix.TCSETS, settings)
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("setting the speed of %s to %d: %w", terminal, rate, err)
	}
	return nil
}

// isMissing is true for a file that is not there.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
