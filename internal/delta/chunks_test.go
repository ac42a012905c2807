package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func mustChunk(t testing.TB, data []byte) (Index, []byte, []byte) {
	t.Helper()
	var index, pack bytes.Buffer
	x, err := MakeChunks(context.Background(), bytes.NewReader(data), &index, &pack)
	if err != nil {
		t.Fatal(err)
	}
	return x, index.Bytes(), pack.Bytes()
}

func mustScan(t testing.TB, data []byte) Local {
	t.Helper()
	places, err := Scan(context.Background(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return Local{Base: bytes.NewReader(data), Places: places}
}

// from serves a pack as a server would, and notes what it was asked for.
func from(pack []byte, asked *[]Range) Fetcher {
	return func(_ context.Context, r Range) (io.ReadCloser, error) {
		*asked = append(*asked, r)
		end := min(r.Offset+r.Length, int64(len(pack)))
		return io.NopCloser(bytes.NewReader(pack[min(r.Offset, end):end])), nil
	}
}

func assemble(x Index, local Local, fetch Fetcher, result []byte) (outcome, error) {
	var out bytes.Buffer
	err := Assemble(context.Background(), x, local, fetch, &out, fileOf(result))
	return outcome{out.Len(), bytes.HasPrefix(result, out.Bytes()), kind(err)}, err
}

// Nodes and publishers of all versions cut the same way, or nothing is found again. So
// the table and the cuts never change. The first numbers of SplitMix64 from the seed 0 are
// published with the generator.
func TestCut_AnyVersion_CutsTheSame(t *testing.T) {
	if diff := cmp.Diff([]uint64{0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f}, gear[:3]); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	var lengths []int64
	x, _, _ := mustChunk(t, append(random(1, 600_000), make([]byte, 600_000)...))
	for _, c := range x.Chunks {
		lengths = append(lengths, c.Length)
	}
	want := []int64{58450, 68991, 78208, 74221, 65723, 46421, 68645, 77861, 262144, 262144, 137192}
	if diff := cmp.Diff(want, lengths); diff != "" {
		t.Errorf("lengths (-want +got):\n%s", diff)
	}
}

// What the constants promise about the size of chunks holds.
func TestEachChunk_RandomContent_HasThePromisedSizes(t *testing.T) {
	const size = 16 << 20
	count, total := 0, 0
	err := eachChunk(bytes.NewReader(random(3, size)), func(chunk []byte) error {
		count++
		total += len(chunk)
		if len(chunk) > ChunkMax || (len(chunk) < ChunkMin && total < size) {
			t.Errorf("chunk %d has %d bytes", count, len(chunk))
		}
		return nil
	})
	if err != nil || total != size {
		t.Fatalf("%d bytes in chunks, %v", total, err)
	}
	if average := size / count; average < ChunkAverage*3/4 || average > ChunkAverage*5/4 {
		t.Errorf("a chunk has %d bytes on average, want about %d", average, ChunkAverage)
	}
}

// A file in the middle of an image has grown: only what is near to it is fetched.
func TestPlanChunks_OneByteInserted_FetchesOneChunk(t *testing.T) {
	old := random(1, 2<<20)
	result := slices.Concat(old[:1<<20], []byte("x"), old[1<<20:])
	x, _, _ := mustChunk(t, result)
	fetch := PlanChunks(x, mustScan(t, old).Has)
	if len(fetch.Ranges) != 1 || fetch.Bytes > ChunkMax+64 || fetch.Local < int64(len(result))-ChunkMax {
		t.Errorf("got %+v", fetch)
	}
}

// Ranges are requests: near ones are one, far ones are not paid for with content.
func TestPlanChunks_Ranges_AreMergedOverSmallGaps(t *testing.T) {
	var x Index
	at := int64(0)
	for i, packed := range []int64{100, maxGap, 200, maxGap + 1, 300, 400} {
		x.Chunks = append(x.Chunks, Chunk{Offset: at, Packed: packed, Length: 1000, SHA256: Sum{byte(i)}})
		at += packed
	}
	have := func(s Sum) bool { return s[0] == 1 || s[0] == 3 }
	want := Fetch{
		Ranges: []Range{{0, 100 + 16384 + 200}, {100 + 16384 + 200 + 16385, 700}},
		Bytes:  100 + 16384 + 200 + 700,
		Local:  2000,
	}
	if diff := cmp.Diff(want, PlanChunks(x, have)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An image is full of empty pages: they are packed once and fetched once.
func TestAssemble_RepeatedContent_IsFetchedOnce(t *testing.T) {
	result := slices.Concat(make([]byte, 10*ChunkMax), random(1, 1<<20), make([]byte, 10*ChunkMax))
	x, _, pack := mustChunk(t, result)
	var asked []Range
	got, err := assemble(x, Local{}, from(pack, &asked), result)
	if diff := cmp.Diff(outcome{len(result), true, ""}, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]Range{{0, int64(len(pack))}}, asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

// What is repeated and has no room in memory is fetched again, and the plan says so.
func TestAssemble_MoreRepeatedThanHeld_IsFetchedAgain(t *testing.T) {
	var half []byte // 80 different chunks of the greatest length; 64 of them have room
	for i := range 80 {
		half = append(half, bytes.Repeat([]byte{byte(i)}, ChunkMax)...)
	}
	late := slices.Concat(bytes.Repeat([]byte("x"), ChunkMax), bytes.Repeat([]byte("y"), ChunkMax))
	// What was held is let go once it is not needed, so that there is room for late.
	result := slices.Concat(half, half, late, late)
	x, _, pack := mustChunk(t, result)
	var asked []Range
	got, err := assemble(x, Local{}, from(pack, &asked), result)
	if diff := cmp.Diff(outcome{len(result), true, ""}, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	plan := PlanChunks(x, func(Sum) bool { return false })
	if diff := cmp.Diff(plan.Ranges, asked); diff != "" {
		t.Errorf("planned and asked for (-want +got):\n%s", diff)
	}
	refetched := Range{Offset: x.Chunks[64].Offset, Length: int64(len(pack)) - x.Chunks[64].Offset}
	if diff := cmp.Diff([]Range{{0, x.Chunks[160].Offset}, refetched}, plan.Ranges); diff != "" {
		t.Errorf("planned (-want +got):\n%s", diff)
	}
}

// The way from an old file to the new one, however little they share.
func TestAssemble_AnyOldFile_GivesTheNewFile(t *testing.T) {
	result := random(1, 3<<20)
	for name, old := range map[string][]byte{
		"none":        nil,
		"the same":    result,
		"the end":     result[1<<20:],
		"another one": random(2, 1<<20),
		"rearranged":  slices.Concat(result[2<<20:], []byte("x"), result[:2<<20]),
	} {
		t.Run(name, func(t *testing.T) {
			made, index, pack := mustChunk(t, result)
			x, err := ReadIndex(bytes.NewReader(index))
			if diff := cmp.Diff(made, x); diff != "" || err != nil {
				t.Fatalf("%v, index written and read (-want +got):\n%s", err, diff)
			}
			local := mustScan(t, old)
			var asked []Range
			got, err := assemble(x, local, from(pack, &asked), result)
			if diff := cmp.Diff(outcome{len(result), true, ""}, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if diff := cmp.Diff(PlanChunks(x, local.Has).Ranges, asked); diff != "" {
				t.Errorf("planned and asked for (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("an empty result", func(t *testing.T) {
		x, _, _ := mustChunk(t, nil)
		if got, err := assemble(x, Local{}, nil, nil); got != (outcome{0, true, ""}) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// A torn chunk must stop the update before it reaches the slot, and say which it was.
func TestAssemble_WrongChunk_IsRefusedByName(t *testing.T) {
	result := random(1, 2<<20)
	x, _, pack := mustChunk(t, result)
	bad := x.Chunks[5]
	const before = 58450 + 68991 + 78208 + 74221 + 65723 // the chunks that are well
	flipped := bytes.Clone(pack)
	flipped[bad.Offset+bad.Packed/2] ^= 1
	rotten := bytes.Clone(result)
	rotten[before] ^= 1 // its first byte
	local := mustScan(t, result)
	rot := Local{Base: bytes.NewReader(rotten), Places: local.Places}
	short := Local{Base: bytes.NewReader(result[:before+1]), Places: local.Places}
	for name, c := range map[string]struct {
		local Local
		pack  []byte
		want  outcome
	}{
		"changed":              {Local{}, flipped, outcome{before, true, "ErrMismatch"}},
		"torn":                 {Local{}, pack[:bad.Offset+1], outcome{before, true, "ErrMismatch"}},
		"zeros":                {Local{}, append(bytes.Clone(pack[:bad.Offset]), make([]byte, 4<<20)...), outcome{before, true, "ErrMismatch"}},
		"changed in old file":  {rot, nil, outcome{before, true, "ErrBase"}},
		"old file not opened":  {Local{Places: local.Places}, nil, outcome{0, true, "ErrBase"}},
		"old file cut shorter": {short, nil, outcome{before, true, "ErrBase"}},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []Range
			got, err := assemble(x, c.local, from(c.pack, &asked), result)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if name := x.Chunks[min(5, got.Written)].SHA256.String(); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("the chunk is not named: %v", err)
			}
		})
	}
}

// An index from a stolen key, or for another part, makes nothing.
func TestAssemble_AnotherResult_IsErrMismatch(t *testing.T) {
	result, other := random(1, 300_000), random(2, 300_000)
	x, _, pack := mustChunk(t, result)
	y, _, _ := mustChunk(t, other)
	y.Result = fileOf(result) // says it makes the right file, and has the chunks of another
	y.Chunks, y.PackSize = x.Chunks[:len(x.Chunks)-1], x.PackSize
	swapped := x
	swapped.Chunks = slices.Clone(x.Chunks)
	swapped.Result.SHA256 = sha256.Sum256(other)
	var asked []Range
	var got []outcome
	for _, c := range []struct {
		x    Index
		want []byte
	}{{x, other}, {y, result}, {swapped, other}, {Index{Result: File{0, Sum{1}}}, nil}} {
		var out bytes.Buffer
		promised := fileOf(c.want)
		if c.want == nil {
			promised = c.x.Result
		}
		err := Assemble(context.Background(), c.x, Local{}, from(pack, &asked), &out, promised)
		got = append(got, outcome{Written: out.Len(), Err: kind(err)})
	}
	last := int(x.Chunks[len(x.Chunks)-1].Length)
	want := []outcome{{0, false, "ErrMismatch"}, {0, false, "ErrDamaged"}, {300_000 - last, false, "ErrMismatch"}, {0, false, "ErrMismatch"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A connection that breaks is tried again; a wrong chunk is not.
func TestAssemble_LostConnection_IsTheConnectionsError(t *testing.T) {
	result := random(1, 1<<20)
	x, _, pack := mustChunk(t, result)
	reset := errors.New("connection reset by peer")
	for name, fetch := range map[string]Fetcher{
		"at once": func(context.Context, Range) (io.ReadCloser, error) { return nil, reset },
		"midway": func(context.Context, Range) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(pack[:500_000]), lost{reset})), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := assemble(x, Local{}, fetch, result)
			if !errors.Is(err, reset) || errors.Is(err, ErrMismatch) || !got.Right {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// counted tells whether all that was opened was closed.
type counted struct {
	io.Reader
	open *int
}

func (c counted) Close() error { *c.open--; return nil }

// A node that updates for years must not collect connections.
func TestAssemble_Ranges_AreClosed(t *testing.T) {
	result := random(1, 4<<20)
	x, _, pack := mustChunk(t, result)
	local := mustScan(t, slices.Concat(result[1<<20:2<<20], result[3<<20:]))
	open, most, total := 0, 0, 0
	fetch := func(_ context.Context, r Range) (io.ReadCloser, error) {
		open++
		total++
		most = max(most, open)
		return counted{bytes.NewReader(pack[r.Offset : r.Offset+r.Length]), &open}, nil
	}
	got, err := assemble(x, local, fetch, result)
	if diff := cmp.Diff(outcome{len(result), true, ""}, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if open != 0 || most != 1 || total != 2 {
		t.Errorf("%d ranges opened, %d at once, %d left open; want 2, 1 and 0", total, most, open)
	}
}

// What cannot be an index is refused before memory is taken for its chunks.
func TestReadIndex_ForgedIndex_IsErrDamaged(t *testing.T) {
	c := func(offset, packed, length int64, sum byte) Chunk { return Chunk{offset, packed, length, Sum{sum}} }
	x := func(size, pack int64, chunks ...Chunk) []byte {
		return Index{Result: File{Size: size}, PackSize: pack, Chunks: chunks}.encode()
	}
	good := x(30, 18, c(0, 9, 10, 1), c(9, 9, 10, 2), c(0, 9, 10, 1))
	many := seal(indexMagic, append(x(0, 0)[envelopeStart:envelopeStart+48], 0xff, 0xff, 0xff, 0xff))
	flipped := bytes.Clone(good)
	flipped[70] ^= 1
	got := map[string]string{}
	for name, data := range map[string][]byte{
		"good":               good,
		"empty":              nil,
		"cut":                good[:len(good)-1],
		"garbage behind":     append(bytes.Clone(good), 0),
		"changed":            flipped,
		"a patch":            header{}.encode(),
		"4 billion chunks":   many,
		"a gap":              x(20, 19, c(0, 9, 10, 1), c(10, 9, 10, 2)),
		"an overlap":         x(20, 18, c(0, 9, 10, 1), c(8, 9, 10, 2)),
		"two places":         x(20, 18, c(0, 9, 10, 1), c(9, 9, 10, 1)),
		"two lengths":        x(21, 9, c(0, 9, 10, 1), c(0, 9, 11, 1)),
		"too long a chunk":   x(ChunkMax+1, 9, c(0, 9, ChunkMax+1, 1)),
		"an empty chunk":     x(0, 9, c(0, 9, 0, 1)),
		"nothing packed":     x(10, 0, c(0, 0, 10, 1)),
		"packed far too big": x(10, 2000, c(0, 2000, 10, 1)),
		"other size":         x(31, 9, c(0, 9, 30, 1)),
		"other pack size":    x(30, 10, c(0, 9, 30, 1)),
		"beyond any file":    x(10, 9, c(-1, 9, 10, 1)),
	} {
		_, err := ReadIndex(bytes.NewReader(data))
		got[name] = kind(err)
	}
	want := map[string]string{}
	for name := range got {
		want[name] = "ErrDamaged"
	}
	want["good"] = ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The tree of a release is the same, whoever publishes it.
func TestMakeChunks_Twice_GivesTheSameFiles(t *testing.T) {
	data := append(bytes.Repeat([]byte("some text that can be packed\n"), 50_000), random(1, 1<<20)...)
	_, index1, pack1 := mustChunk(t, data)
	_, index2, pack2 := mustChunk(t, data)
	if !bytes.Equal(index1, index2) || !bytes.Equal(pack1, pack2) {
		t.Error("index or pack differ")
	}
	if len(pack1) > 1<<20+20_000 {
		t.Errorf("the pack has %d bytes: it is not packed", len(pack1))
	}
}

// FuzzReadIndex: whatever is accepted is written the same again, and can be planned and
// followed to an error without a panic.
func FuzzReadIndex(f *testing.F) {
	_, index, _ := mustChunk(f, append(random(1, 100_000), make([]byte, 800_000)...))
	f.Add(index[envelopeStart : len(index)-sha256.Size])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		data := seal(indexMagic, body)
		x, err := ReadIndex(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
			return
		}
		if !bytes.Equal(x.encode(), data) {
			t.Error("an index that was accepted is not written the same again")
		}
		var asked []Range
		var out bytes.Buffer
		err = Assemble(context.Background(), x, Local{}, from(nil, &asked), &out, x.Result)
		if err == nil && fileOf(out.Bytes()) != x.Result {
			t.Error("another result, and no error")
		}
	})
}

// FuzzAssemble: a pack of any content makes the file or an error, and never a wrong byte.
func FuzzAssemble(f *testing.F) {
	result := append(bytes.Repeat([]byte("text\n"), 20_000), random(1, 60_000)...)
	x, _, pack := mustChunk(f, result)
	f.Add(pack)
	f.Fuzz(func(t *testing.T, pack []byte) {
		var asked []Range
		got, err := assemble(x, Local{}, from(pack, &asked), result)
		if !got.Right || (err == nil) != (got.Written == len(result)) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// A publisher packs each week what has hardly changed: what it has packed before it takes
// from there, and the result is the same to the last byte. An earlier pack that lies is as
// good as none.
func TestMakeChunks_EarlierPack_GivesTheSameFiles(t *testing.T) {
	before := random(3, 2_000_000)
	after := append(append(append([]byte{}, before[:900_000]...), random(4, 50_000)...), before[900_000:]...)
	_, index, pack := mustChunk(t, after)
	earlier, _, earlierPack := mustChunk(t, before)
	damaged := slices.Clone(earlierPack)
	for i := range damaged {
		damaged[i] ^= 0x55
	}
	for name, from := range map[string]*lookups{
		"right": {Reader: bytes.NewReader(earlierPack)}, "damaged": {Reader: bytes.NewReader(damaged)}, "too short": {Reader: bytes.NewReader(earlierPack[:1000])},
	} {
		var gotIndex, gotPack bytes.Buffer
		if _, err := MakeChunks(t.Context(), bytes.NewReader(after), &gotIndex, &gotPack, Earlier{Index: earlier, Pack: from}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotIndex.Bytes(), index) || !bytes.Equal(gotPack.Bytes(), pack) {
			t.Errorf("%s: other files than without an earlier pack", name)
		}
		// Two cuts differ around what was put in, and each of them touches a chunk or two.
		if from.reads < len(earlier.Chunks)-4 {
			t.Errorf("%s: %d chunks of %d were looked up", name, from.reads, len(earlier.Chunks))
		}
	}

	// What was packed in another way stays so: it is copied, not made again.
	var other Index
	var otherPack []byte
	for _, c := range earlier.Chunks {
		stored := stored(t, before[other.Result.Size:other.Result.Size+c.Length])
		other.Chunks = append(other.Chunks, Chunk{Offset: int64(len(otherPack)), Packed: int64(len(stored)), Length: c.Length, SHA256: c.SHA256})
		otherPack, other.Result.Size = append(otherPack, stored...), other.Result.Size+c.Length
	}
	var gotIndex, gotPack bytes.Buffer
	if _, err := MakeChunks(t.Context(), bytes.NewReader(before), &gotIndex, &gotPack, Earlier{Index: other, Pack: bytes.NewReader(otherPack)}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(gotPack.Bytes(), otherPack) {
		t.Error("chunks that were packed before are packed anew")
	}
}

// lookups counts reads.
type lookups struct {
	*bytes.Reader
	reads int
}

func (c *lookups) ReadAt(p []byte, offset int64) (int, error) {
	c.reads++
	return c.Reader.ReadAt(p, offset)
}

// stored is a frame of zstd with its content as it is.
func stored(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}
