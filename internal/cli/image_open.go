package cli

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/pgzip"
	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/qemuimg"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// imageToolCommands are the commands for images that exist already.
func imageToolCommands(env *Env) []*cobra.Command {
	return []*cobra.Command{
		imageSeedCommand(env), imageCustomizeCommand(env), imageFlashCommand(env), imageISOCommand(env),
		imageInspectCommand(env), imageVerifyCommand(env), imageConvertCommand(env),
	}
}

// form is how an image is packed.
type form string

const (
	formRaw  form = "raw"
	formGzip form = "gzip"
	formVMDK form = "vmdk"
)

// magics begin files of known forms; everything else is raw, a CD too.
var magics = []struct {
	magic string
	form  form
}{{"\x1f\x8b", formGzip}, {"QFI\xfb", "qcow2"}, {"KDMV", formVMDK}, {"vhdxfile", "vhdx"}}

// openSource opens an image to be read from its beginning, and says how it is packed.
func openSource(path string) (*os.File, form, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("opening the image: %w", err)
	}
	head := make([]byte, 8)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", errors.Join(fmt.Errorf("reading %s: %w", path, err), f.Close())
	}
	for _, m := range magics {
		if bytes.HasPrefix(head[:n], []byte(m.magic)) {
			return f, m.form, nil
		}
	}
	return f, formRaw, nil
}

// openStream opens an image, unpacking it on the way. Only raw and gzip can be read so.
func openStream(path string) (io.Reader, func() error, error) {
	f, kind, err := openSource(path)
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case formRaw:
		return f, f.Close, nil
	case formGzip:
		unpacked, err := gzip.NewReader(f)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("unpacking %s: %w", path, err), f.Close())
		}
		return unpacked, f.Close, nil
	}
	if kind == formVMDK {
		return nil, nil, errors.Join(notReadVMDK(path), f.Close())
	}
	return nil, nil, errors.Join(withTry(fmt.Errorf("%s is an image of the form %s, raw or .gz is needed", path, kind),
		"holdfast image convert "+path+" OUT --format raw"), f.Close())
}

// notReadVMDK says how to go on with a vmdk.
func notReadVMDK(path string) error {
	return withTry(fmt.Errorf("reading %s, a vmdk: %w", path, qemuimg.ErrNotRead),
		"the raw image (.img) or the .qcow2; a vmdk that is your own: qemu-img convert -f vmdk -O qcow2 "+path+" OUT.qcow2")
}

// openedImage can be read at any place.
type openedImage struct {
	io.ReaderAt
	size  int64
	close func() error
}

// openImage opens an image of any form but vmdk. What is packed is unpacked into a temporary file.
func openImage(ctx context.Context, env *Env, path string) (openedImage, error) {
	f, kind, err := openSource(path)
	if err != nil {
		return openedImage{}, err
	}
	if kind == formRaw {
		size, _, err := block.Size(f)
		if err != nil {
			return openedImage{}, errors.Join(err, f.Close())
		}
		return openedImage{f, size, f.Close}, nil
	}
	if kind == formVMDK {
		return openedImage{}, errors.Join(notReadVMDK(path), f.Close())
	}
	dir, err := os.MkdirTemp(env.Getenv("TMPDIR"), "holdfast-image-")
	if err != nil {
		return openedImage{}, errors.Join(fmt.Errorf("making a place to unpack the image: %w", err), f.Close())
	}
	raw := filepath.Join(dir, "image.raw")
	if kind == formGzip {
		err = unpack(ctx, f, raw)
	} else {
		err = qemuImg(env).Convert(ctx, path, string(kind), raw, "raw")
	}
	remove := func() error { return os.RemoveAll(dir) }
	if err := errors.Join(err, f.Close()); err != nil {
		return openedImage{}, errors.Join(noQemuImg(err), remove())
	}
	opened, err := openImage(ctx, env, raw)
	if err != nil {
		return openedImage{}, errors.Join(err, remove())
	}
	file := opened.close
	opened.close = func() error { return errors.Join(file(), remove()) }
	return opened, nil
}

func unpack(ctx context.Context, in io.Reader, to string) error {
	unpacked, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("unpacking the image: %w", err)
	}
	out, err := newSparse(to)
	if err != nil {
		return err
	}
	limited := io.LimitReader(contextReader{ctx, unpacked}, media.MaxImage+1)
	n, err := io.Copy(struct{ io.Writer }{out}, limited)
	if err == nil && n > media.MaxImage {
		err = fmt.Errorf("it has more than %d bytes", int64(media.MaxImage))
	}
	if err != nil {
		return errors.Join(cutImage(fmt.Errorf("unpacking the image: %w", err)), out.Close())
	}
	return out.Close()
}

// cutImage says how to go on with an image that is not whole: cut off, or with another sum
// than its packed form says.
func cutImage(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, media.ErrCut) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.As(err, &corrupt) {
		return withTry(err, "download the image again, and compare its SHA-256 with the published one")
	}
	return err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// sparse is a file in which long zeros take no space.
type sparse struct {
	f  *os.File
	at int64
}

const sparseStep = 64 << 10

var noBytes [sparseStep]byte

func newSparse(path string) (*sparse, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the image: %w", err)
	}
	return &sparse{f: f}, nil
}

func (s *sparse) Write(data []byte) (int, error) {
	for done := 0; done < len(data); {
		part := data[done:min(len(data), done+sparseStep)]
		if !bytes.Equal(part, noBytes[:len(part)]) {
			if _, err := s.f.WriteAt(part, s.at); err != nil {
				return done, err
			}
		}
		s.at += int64(len(part))
		done += len(part)
	}
	return len(data), nil
}

// Close ends the file behind the last byte, and waits until the disk has it.
func (s *sparse) Close() error {
	return errors.Join(s.f.Truncate(s.at), s.f.Sync(), s.f.Close())
}

// newImage has fill write an image, packed when the name ends in .gz. The file is there once
// it is whole, and readable by its owner alone: a seed may hold secrets. A file that is
// there already is not replaced.
func newImage(path string, fill func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return withTry(fmt.Errorf("writing %s: %w", path, fs.ErrExist), "another name, or remove it first")
	}
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what an earlier try left: %w", err)
	}
	out, err := newSparse(part)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	if strings.HasSuffix(path, ".gz") {
		packer := pgzip.NewWriter(out)
		err = errors.Join(fill(packer), packer.Close())
	} else {
		err = fill(out)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return nil
}

// qemuImg is that of the tools tree, else that of this computer.
func qemuImg(env *Env) qemuimg.Tool {
	tool := qemuimg.Tool{Run: env.Run}
	if tree, err := tooltree.Default(); err == nil && tree.Has("qemu-img") {
		tool.Command = func(args ...string) run.Command { return tree.Command("qemu-img", args...) }
	}
	return tool
}

// noQemuImg says how to go on where qemu-img is missing.
func noQemuImg(err error) error {
	if errors.Is(err, qemuimg.ErrMissing) {
		return withTry(err, "install the package "+qemuimg.Package+", which has qemu-img")
	}
	return err
}
