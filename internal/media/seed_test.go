package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

const seedAt = 2148532224

var region = Region{seedAt, 100 << 20}

// A change of one document leaves the others as their owner wrote them.
func TestArchive_AddAndRemove_KeepTheRest(t *testing.T) {
	old := archive(t, "install.yaml", "{}", "provider.yml", "name: images # mine\n", "note", "text")
	change := Change{Add: &seed.Set{Network: &api.Network{Version: "2"}}, Remove: []string{"install"}}
	got, err := change.Archive(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"provider.yml name: images # mine\n", "note text", "network.json {\n  \"version\": \"2\"\n}\n"}
	if diff := cmp.Diff(want, members(t, got)); diff != "" {
		t.Error(diff)
	}
	change.Only = true
	change.Remove = nil
	if got, err = change.Archive(bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[2:], members(t, got)); diff != "" {
		t.Error(diff)
	}
}

// What nodes would refuse is found here, at a desk, and not in front of the machine.
func TestArchive_NodeWouldRefuse_IsAnError(t *testing.T) {
	bad := archive(t, "network.yaml", "interfaces: [{name: eth0, mtu: 12, hwaddr: enp1s0}]\n")
	for name, c := range map[string]struct {
		change Change
		old    []byte
		want   string
	}{
		"misspelt":     {Change{Remove: []string{"instal"}}, nil, `removing seed "instal": there is no such document: known are install, applications, incus, migration-manager, operations-center, network, provider, update, security, services, kernel`},
		"not there":    {Change{Remove: []string{"install"}}, nil, "removing seed install: the image does not have it"},
		"old is bad":   {Change{}, archive(t, "install.yaml", "forse: 1"), "the seed that is there cannot stay: install.yaml:1: forse: there is no such field: known are version, force_install, force_install_confirmation, force_reboot, security, target"},
		"meaning":      {Change{}, bad, "network: interfaces[0].mtu: 12 is outside 1280 to 9000; leave it out for the default"},
		"half written": {Change{}, append(halfWritten(), make([]byte, 4096)...), "changing the seed: the archive is damaged: write it again"},
	} {
		_, err := c.change.Archive(bytes.NewReader(c.old))
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		sameText(t, name+": "+err.Error(), name+": "+c.want)
	}
	// Whoever replaces all of it is not asked about what was there.
	if _, err := (Change{Only: true}).Archive(bytes.NewReader(bad)); err != nil {
		t.Error(err)
	}
}

// An earlier, longer seed may have held a password.
func TestWriteSeed_LongerOldSeed_IsWipedBehindTheNew(t *testing.T) {
	image, want := newImage(t, nil), newImage(t, nil)
	write(t, image, archive(t, "incus.yaml", string(bytes.Repeat([]byte("password"), 1<<17))), seedAt)
	write(t, image, []byte("far behind"), seedAt+99<<20)
	fresh := archive(t, "install.yaml", "{}")
	write(t, want, fresh, seedAt)
	if err := WriteSeed(image, region, fresh); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.content(), image.content()); diff != "" {
		t.Error(diff)
	}
}

// Whatever write the power goes at, a node finds the old seed, the new one, or one that it
// refuses: never a part of one, and never none.
func TestWriteSeed_PowerCutAtAnyWrite_NeverLeavesHalfASeed(t *testing.T) {
	old := archive(t, "install.yaml", "{}", "network.yaml", "{}", "update.yaml", "channel: "+string(bytes.Repeat([]byte("a"), 900<<10)))
	fresh := archive(t, "provider.yaml", "name: images", "update.yaml", "channel: "+string(bytes.Repeat([]byte("b"), 1000<<10)), "kernel.yaml", "console: []")
	start := newImage(t, nil)
	write(t, start, old, seedAt)
	seen := map[string]bool{}
	for allowed := 0; ; allowed++ {
		image := start.copyOf()
		cut := &cutDisk{memory: image, left: allowed}
		err := WriteSeed(cut, region, fresh)
		set, read := ReadSeed(image, region)
		switch {
		case read != nil:
			var problems Problems
			if !errors.As(read, &problems) || problems[0].Rule != "archive" {
				t.Fatalf("after %d writes: %v", allowed, read)
			}
			seen["refused"] = true
		case set.Install != nil && set.Network != nil && set.Update != nil && set.Provider == nil:
			seen["old"] = true
		case set.Provider != nil && set.Kernel != nil && set.Update != nil && set.Install == nil:
			seen["new"] = true
		default:
			t.Fatalf("after %d writes half a seed is left: %+v", allowed, set)
		}
		if err == nil {
			break
		}
	}
	if diff := cmp.Diff(map[string]bool{"old": true, "refused": true, "new": true}, seen); diff != "" {
		t.Error(diff)
	}
}

// cutDisk is a disk whose power goes: no write succeeds any more.
type cutDisk struct {
	*memory
	left int
}

func (c *cutDisk) WriteAt(p []byte, offset int64) (int, error) {
	if c.left == 0 {
		return 0, errDisk
	}
	c.left--
	return c.memory.WriteAt(p, offset)
}

// A stick that fails once keeps what it had.
func TestWriteSeed_OneWriteFails_PutsTheOldSeedBack(t *testing.T) {
	for failing := range 2 {
		image := newImage(t, nil)
		write(t, image, archive(t, "install.yaml", "{}"), seedAt)
		before := image.copyOf().content()
		err := WriteSeed(&flakyDisk{memory: image, failing: failing}, region, archive(t, "network.yaml", "{}"))
		if !errors.Is(err, errDisk) {
			t.Fatalf("write %d: got %v", failing, err)
		}
		if diff := cmp.Diff(before, image.content()); diff != "" {
			t.Errorf("write %d: %s", failing, diff)
		}
	}
}

type flakyDisk struct {
	*memory
	failing, count int
}

func (f *flakyDisk) WriteAt(p []byte, offset int64) (int, error) {
	f.count++
	if f.count-1 == f.failing {
		return 0, errDisk
	}
	return f.memory.WriteAt(p, offset)
}

func TestWriteSeed_TooLarge_IsRefusedBeforeAnyWrite(t *testing.T) {
	image := newMemory(1 << 20)
	image.allowed = 0
	err := WriteSeed(image, Region{0, 1024}, make([]byte, 2048))
	if err == nil {
		t.Fatal("no error")
	}
	sameText(t, err.Error(), "writing the seed: it has 2048 bytes, and there is room for 1024")
}

// smallStream is an image of 256 KiB with a region in its middle.
func smallStream(t *testing.T) (in []byte, at Region) {
	_, image := small(t, 512)
	at = Region{100 << 10, 8 << 10}
	copy(image[at.Offset:], archive(t, "install.yaml", "{}"))
	return image, at
}

// A packed image is changed on its way; all but the region stays as it is.
func TestStream_Rewrite_ChangesTheRegionAlone(t *testing.T) {
	image, at := smallStream(t)
	fresh := []byte("fresh")
	var out bytes.Buffer
	table, err := Stream(context.Background(), bytes.NewReader(image), &out, func(Table) (Plan, error) {
		return Plan{Rewrites: []Rewrite{{at, func([]byte) ([]byte, error) { return fresh, nil }}}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(image)
	clear(want[at.Offset : at.Offset+at.Size])
	copy(want[at.Offset:], fresh)
	if !bytes.Equal(want, out.Bytes()) || len(table.Partitions) != 2 {
		t.Error("something else changed")
	}
}

func TestStream_Size_CutsAndPads(t *testing.T) {
	image, _ := smallStream(t)
	for _, size := range []int64{200 << 10, 300 << 10} {
		var out bytes.Buffer
		tail := Rewrite{Region{size - 512, 512}, func([]byte) ([]byte, error) { return []byte("end"), nil }}
		if _, err := Stream(context.Background(), bytes.NewReader(image), &out, func(Table) (Plan, error) { return Plan{[]Rewrite{tail}, size}, nil }); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		copy(want, image)
		clear(want[size-512:])
		copy(want[size-512:], "end")
		if !bytes.Equal(want, out.Bytes()) {
			t.Errorf("%d: differs", size)
		}
	}
}

// A download that broke off must not become an image that seems whole.
func TestStream_InputEndsEarly_IsNoImage(t *testing.T) {
	image, at := smallStream(t)
	plan := func(table Table) (Plan, error) {
		return Plan{Rewrites: []Rewrite{{at, func(old []byte) ([]byte, error) { return old, nil }}}}, nil
	}
	asCD := func(table Table) (Plan, error) {
		p, err := plan(table)
		return Plan{p.Rewrites, 4 << 20}, err
	}
	for _, image := range [][]byte{image, flashable(t, 3<<20)} {
		whole := int64(len(image))
		for _, length := range []int64{at.Offset - 1, at.Offset + 1, at.Offset + at.Size - 1, at.Offset + at.Size, whole - 32<<10, whole - 512, whole - 1} {
			for name, plan := range map[string]func(Table) (Plan, error){"as it is": plan, "of another size": asCD} {
				_, err := Stream(context.Background(), bytes.NewReader(image[:length]), io.Discard, plan)
				if !errors.Is(err, ErrCut) {
					t.Errorf("%d of %d bytes, %s: got %v", length, whole, name, err)
				}
			}
		}
	}
	// A packed one can be cut so that all of it is there, but its sum.
	if _, err := Stream(context.Background(), io.MultiReader(bytes.NewReader(image), cutReader{}), io.Discard, plan); !errors.Is(err, ErrCut) {
		t.Errorf("packed: got %v", err)
	}
	broken := io.MultiReader(bytes.NewReader(image), failingReader{})
	if _, err := Stream(context.Background(), broken, io.Discard, plan); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
}

// cutReader is what is read of packed data behind the place where they were cut.
type cutReader struct{}

func (cutReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errDisk }
