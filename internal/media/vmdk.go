package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zlib"
)

// A disk of the kind streamOptimized: packed pieces (grains) one behind the other, each
// with its place, and the tables that find them at the end. It is the only kind that an OVA
// may have, it is written without seeking, and what is zero takes no space. (VMware, Virtual
// Disk Format 5.0)
const (
	vmdkSector = 512
	vmdkGrain  = 64 << 10
	// vmdkTable is the number of grains that one table finds.
	vmdkTable  = 512
	vmdkAtEnd  = 0xffffffffffffffff
	vmdkHeader = 128 // sectors before the first grain

	vmdkMarkEnd       = 0
	vmdkMarkTable     = 1
	vmdkMarkDirectory = 2
	vmdkMarkFooter    = 3
)

type vmdkWriter struct {
	out       io.Writer
	sector    int64 // where the next byte goes, in sectors
	table     []uint32
	directory []uint32
}

// WriteVMDK writes an image of size bytes as a disk for VMware. name is what the file will
// be called. The same image and name give the same bytes.
func WriteVMDK(ctx context.Context, out io.Writer, image io.ReaderAt, size int64, name string) error {
	size = (size + vmdkSector - 1) / vmdkSector * vmdkSector
	w := &vmdkWriter{out: out, table: make([]uint32, vmdkTable)}
	descriptor := vmdkDescriptor(size, name)
	head := make([]byte, vmdkHeader*vmdkSector)
	copy(head, w.header(size, vmdkAtEnd))
	copy(head[vmdkSector:], descriptor)
	if err := w.write(head); err != nil {
		return err
	}
	grains := (size + vmdkGrain - 1) / vmdkGrain
	data := make([]byte, vmdkGrain)
	for i := range grains {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("writing the disk: %w", err)
		}
		clear(data)
		n, err := image.ReadAt(data, i*vmdkGrain)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the image at %d: %w", i*vmdkGrain, err)
		}
		if !isZero(data[:n]) {
			if err := w.grain(i, data); err != nil {
				return err
			}
		}
		if (i+1)%vmdkTable == 0 || i+1 == grains {
			if err := w.endTable(); err != nil {
				return err
			}
		}
	}
	return w.end(size)
}

func (w *vmdkWriter) write(data []byte) error {
	padded := make([]byte, (len(data)+vmdkSector-1)/vmdkSector*vmdkSector)
	copy(padded, data)
	if _, err := w.out.Write(padded); err != nil {
		return fmt.Errorf("writing the disk: %w", err)
	}
	w.sector += int64(len(padded) / vmdkSector)
	return nil
}

// grain writes one piece: its place in sectors, its packed size, and itself.
func (w *vmdkWriter) grain(i int64, data []byte) error {
	var packed bytes.Buffer
	packed.Write(make([]byte, 12))
	z := zlib.NewWriter(&packed)
	if _, err := z.Write(data); err != nil {
		return fmt.Errorf("packing the disk: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("packing the disk: %w", err)
	}
	b := packed.Bytes()
	binary.LittleEndian.PutUint64(b, uint64(i*vmdkGrain/vmdkSector))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-12))
	w.table[i%vmdkTable] = uint32(w.sector)
	return w.write(b)
}

func (w *vmdkWriter) marker(kind uint32, content []byte) error {
	mark := make([]byte, vmdkSector)
	binary.LittleEndian.PutUint64(mark, uint64((len(content)+vmdkSector-1)/vmdkSector))
	binary.LittleEndian.PutUint32(mark[12:], kind)
	if err := w.write(mark); err != nil {
		return err
	}
	return w.write(content)
}

func numbers(list []uint32) []byte {
	raw := make([]byte, 4*len(list))
	for i, n := range list {
		binary.LittleEndian.PutUint32(raw[4*i:], n)
	}
	return raw
}

// endTable writes the table of the grains since the last one; none when all were zero.
func (w *vmdkWriter) endTable() error {
	raw := numbers(w.table)
	if isZero(raw) {
		w.directory = append(w.directory, 0)
		return nil
	}
	w.directory = append(w.directory, uint32(w.sector+1)) // behind its marker
	clear(w.table)
	return w.marker(vmdkMarkTable, raw)
}

func (w *vmdkWriter) end(size int64) error {
	at := w.sector + 1
	if err := w.marker(vmdkMarkDirectory, numbers(w.directory)); err != nil {
		return err
	}
	if err := w.marker(vmdkMarkFooter, w.header(size, uint64(at))); err != nil {
		return err
	}
	return w.marker(vmdkMarkEnd, nil)
}

// header is the first sector, and again near the end with the place of the directory.
func (w *vmdkWriter) header(size int64, directory uint64) []byte {
	const newlineTest, packed, markers = 1, 1 << 16, 1 << 17
	h, le := make([]byte, vmdkSector), binary.LittleEndian
	copy(h, "KDMV")
	le.PutUint32(h[4:], 3)
	le.PutUint32(h[8:], newlineTest|packed|markers)
	le.PutUint64(h[12:], uint64((size+vmdkGrain-1)/vmdkGrain*vmdkGrain/vmdkSector))
	le.PutUint64(h[20:], vmdkGrain/vmdkSector)
	le.PutUint64(h[28:], 1)  // where the descriptor is
	le.PutUint64(h[36:], 20) // sectors it may have
	le.PutUint32(h[44:], vmdkTable)
	le.PutUint64(h[56:], directory)
	le.PutUint64(h[64:], vmdkHeader)
	copy(h[73:], "\n \r\n")
	le.PutUint16(h[77:], 1) // deflate
	return h
}

func vmdkDescriptor(size int64, name string) string {
	const heads, sectors = 255, 63
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=686f6c64
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "19"
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
`, (size+vmdkGrain-1)/vmdkGrain*vmdkGrain/vmdkSector, path.Base(name), size/vmdkSector/heads/sectors, heads, sectors)
}
