package forge

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"
)

// Container writes a container image, metadata and root file system in one tar.gz,
// whose whole content is one static program under several names: /sbin/init first.
func Container(w io.Writer, program []byte, made time.Time, names ...string) error {
	packer := gzip.NewWriter(w)
	archive := tar.NewWriter(packer)
	metadata := fmt.Sprintf("architecture: x86_64\ncreation_date: %d\nproperties:\n  description: a container of the tests\n  os: none\n", made.Unix())
	add := func(header tar.Header, content string) error {
		header.Size, header.ModTime = int64(len(content)), made
		if err := archive.WriteHeader(&header); err != nil {
			return fmt.Errorf("writing %s to the image: %w", header.Name, err)
		}
		if _, err := io.WriteString(archive, content); err != nil {
			return fmt.Errorf("writing %s to the image: %w", header.Name, err)
		}
		return nil
	}
	if err := add(tar.Header{Name: "metadata.yaml", Mode: 0o644}, metadata); err != nil {
		return err
	}
	for _, dir := range []string{"", "bin/", "dev/", "etc/", "proc/", "root/", "run/", "sbin/", "sys/", "tmp/", "usr/", "var/"} {
		if err := add(tar.Header{Name: "rootfs/" + dir, Mode: 0o755, Typeflag: tar.TypeDir}, ""); err != nil {
			return err
		}
	}
	if err := add(tar.Header{Name: "rootfs/sbin/init", Mode: 0o755}, string(program)); err != nil {
		return err
	}
	for _, name := range names {
		link := tar.Header{Name: "rootfs/bin/" + name, Mode: 0o777, Typeflag: tar.TypeSymlink, Linkname: "../sbin/init"}
		if err := add(link, ""); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), packer.Close())
}
