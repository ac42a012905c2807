package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func listFAT(t testing.TB, raw []byte) (map[string]string, error) {
	t.Helper()
	files, err := readFAT(bytes.NewReader(raw), int64(len(raw)))
	found := map[string]string{}
	for _, f := range files {
		data, err := io.ReadAll(f.data)
		if err != nil {
			t.Fatal(err)
		}
		found[f.path] = string(data)
	}
	return found, err
}

// Names longer than 8 letters, files longer than a cluster, folders in folders.
func TestReadFAT_LongNamesAndFolders_AreRead(t *testing.T) {
	long := string(bytes.Repeat([]byte("0123456789abcdef"), 1000))
	want := map[string]string{"EFI/Linux/Holdfast_202611220104.efi": long, "EFI/BOOT/BOOTX64.EFI": "loader", "loader/keys/auto/PK.auth": "", "a": "b"}
	files := map[string][]byte{}
	for path, content := range want {
		files[path] = []byte(content)
	}
	got, err := listFAT(t, fatImage(files))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A chain in a circle, a folder in itself and a size that the file does not have end in an
// error, and soon.
func TestReadFAT_Damaged_IsAnError(t *testing.T) {
	const table, root = 2 * 4096, 3 * 4096
	le := binary.LittleEndian
	files := map[string][]byte{"folder/file": make([]byte, 10_000)}
	for name, change := range map[string]func(raw []byte){
		"no signature":  func(raw []byte) { raw[510] = 0 },
		"sector":        func(raw []byte) { le.PutUint16(raw[11:], 513) },
		"reserved":      func(raw []byte) { le.PutUint16(raw[14:], 65535) },
		"table":         func(raw []byte) { le.PutUint32(raw[36:], 0xffffffff) },
		"total":         func(raw []byte) { le.PutUint32(raw[32:], 0xffffffff) },
		"root":          func(raw []byte) { le.PutUint32(raw[44:], 0x0ffffff0) },
		"chain outside": func(raw []byte) { le.PutUint32(raw[table+8:], 0x0ffffff0) },
		"chain ends":    func(raw []byte) { le.PutUint32(raw[table+8:], 0x0fffffff) },
		"folder in self": func(raw []byte) {
			r := raw[le.Uint32(raw[44:])*4096+4096:]
			le.PutUint16(r[32+26:], uint16(le.Uint32(raw[44:])))
		},
		"file in circle": func(raw []byte) {
			i := bytes.Index(raw, append([]byte("F0000000EFI"), 0)) // the file in the folder
			first := le.Uint16(raw[i+26:])
			le.PutUint32(raw[i+28:], 0xffffffff)
			le.PutUint32(raw[table+4*int(first):], uint32(first))
		},
		"root in circle": func(raw []byte) {
			first := le.Uint32(raw[44:])
			le.PutUint32(raw[table+4*first:], first)
			clusterOf := raw[root+4096*(first-2):]
			copy(clusterOf[64:4096], bytes.Repeat(clusterOf[:64], 63))
		},
	} {
		raw := fatImage(files)
		change(raw)
		if _, err := readFAT(bytes.NewReader(raw), int64(len(raw))); err == nil || !errors.Is(err, errFAT) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Anybody can write the ESP of a medium.
func FuzzReadFAT(f *testing.F) {
	f.Add(fatImage(map[string][]byte{"folder/a long name": []byte("x"), "b": make([]byte, 5000)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		files, err := readFAT(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		for _, file := range files[:min(len(files), 16)] {
			if _, err := io.ReadAll(io.NewSectionReader(file.data, 0, 1<<16)); err != nil {
				t.Fatalf("%q was listed and cannot be read: %v", file.path, err)
			}
		}
	})
}
