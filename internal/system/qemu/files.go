package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopySparse copies a file and leaves its holes holes; dst is replaced, mode 0600.
// On filesystems that share blocks between files the copy takes no space.
func CopySparse(dst, src string) (err error) {
	from, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copying %s: %w", src, err)
	}
	defer func() { _ = from.Close() }() // only read
	info, err := from.Stat()
	if err != nil {
		return fmt.Errorf("copying %s: %w", src, err)
	}
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copying %s: %w", src, err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	if err := copyData(to, from, info.Size()); err != nil {
		return fmt.Errorf("copying %s to %s: %w", src, dst, err)
	}
	return nil
}

func copyData(to, from *os.File, size int64) error {
	if err := to.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes to the end
		}
		if err != nil {
			return fmt.Errorf("finding data: %w", err)
		}
		end, err := unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("finding the end of data: %w", err)
		}
		if _, err := from.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := to.Seek(start, io.SeekStart); err != nil {
			return err
		}
		// io.CopyN between files copies inside the kernel.
		if _, err := io.CopyN(to, from, end-start); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// clusterBits is the size of a qcow2 cluster as a power of two: 64 KiB.
const clusterBits = 16

// MakeOverlay makes an empty qcow2 image on top of another image: what is written
// goes to the overlay, and the base stays as it is. base should be absolute. size is
// the guest's view in bytes, at most 4 TiB.
func MakeOverlay(path, base, baseFormat string, size int64) error {
	image, err := overlay(base, baseFormat, size)
	if err != nil {
		return fmt.Errorf("making the overlay %s: %w", path, err)
	}
	if err := os.WriteFile(path, image, 0o600); err != nil {
		return fmt.Errorf("making the overlay: %w", err)
	}
	return nil
}

// overlay lays out header, refcount table, refcount block and an empty first-level
// table, one cluster each, as version 3 of the format wants them.
func overlay(base, baseFormat string, size int64) ([]byte, error) {
	const cluster = 1 << clusterBits
	entries := (size + cluster*cluster/8 - 1) / (cluster * cluster / 8)
	if size <= 0 || entries > cluster/8 {
		return nil, fmt.Errorf("a size of %d bytes does not fit", size)
	}
	if len(base) > 1023 {
		return nil, fmt.Errorf("the path of the base image is longer than 1023 bytes")
	}
	const headerLength, nameAt = 104, 512
	image := make([]byte, 4*cluster)
	be := binary.BigEndian
	copy(image, "QFI\xfb")
	be.PutUint32(image[4:], 3)
	be.PutUint64(image[8:], nameAt)
	be.PutUint32(image[16:], uint32(len(base)))
	be.PutUint32(image[20:], clusterBits)
	be.PutUint64(image[24:], uint64(size))
	be.PutUint32(image[36:], uint32(entries))
	be.PutUint64(image[40:], 3*cluster) // first-level table
	be.PutUint64(image[48:], 1*cluster) // refcount table
	be.PutUint32(image[56:], 1)         // of one cluster
	be.PutUint32(image[96:], 4)         // 16 bits a count
	be.PutUint32(image[100:], headerLength)
	be.PutUint32(image[104:], 0xe2792aca) // extension: format of the base
	be.PutUint32(image[108:], uint32(len(baseFormat)))
	copy(image[112:], baseFormat) // the zeros behind it end the extensions
	copy(image[nameAt:], base)
	be.PutUint64(image[cluster:], 2*cluster)
	for i := range 4 {
		be.PutUint16(image[2*cluster+2*i:], 1)
	}
	return image, nil
}

// ImageSize is the guest's view of an image in bytes.
func ImageSize(path, format string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("reading the size of %s: %w", path, err)
	}
	defer func() { _ = file.Close() }() // only read
	if format == "raw" {
		info, err := file.Stat()
		if err != nil {
			return 0, fmt.Errorf("reading the size of %s: %w", path, err)
		}
		return info.Size(), nil
	}
	header := make([]byte, 32)
	if _, err := io.ReadFull(file, header); err != nil || string(header[:4]) != "QFI\xfb" {
		return 0, fmt.Errorf("reading the size of %s: not a qcow2 image", path)
	}
	return int64(binary.BigEndian.Uint64(header[24:])), nil
}
