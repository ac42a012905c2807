package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// random gives the same n bytes for the same seed.
func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(data) // cannot fail
	return data
}

func fileOf(data []byte) File { return File{int64(len(data)), sha256.Sum256(data)} }

func section(data []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
}

// pack does in memory what the zstd program does when a release is published.
func pack(_ context.Context, window, segment []byte) ([]byte, error) {
	options := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true)}
	if len(window) > 0 {
		options = append(options, zstd.WithEncoderDictRaw(0, window))
	}
	encoder, err := zstd.NewWriter(nil, options...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = encoder.Close() }()
	return encoder.EncodeAll(segment, nil), nil
}

// small makes segments of 1 MiB, so that a test has several.
func small() Options { return Options{Compress: pack, Segment: 1 << 20, Window: 2 << 20} }

func mustMake(t testing.TB, base, result []byte, o Options) ([]byte, Limits) {
	t.Helper()
	var patch bytes.Buffer
	limits, err := Make(context.Background(), section(base), section(result), &patch, o)
	if err != nil {
		t.Fatal(err)
	}
	return patch.Bytes(), limits
}

// outcome is what a user sees of one Apply.
type outcome struct {
	Written int
	// Right is true when what was written is the result or a beginning of it.
	Right bool
	Err   string
}

func apply(patch, base, result []byte, limits Limits) outcome {
	var out bytes.Buffer
	err := Apply(context.Background(), bytes.NewReader(patch), bytes.NewReader(base), &out, limits)
	return outcome{out.Len(), bytes.HasPrefix(result, out.Bytes()), kind(err)}
}

// kind names the error by what a caller can ask of it.
func kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrBase):
		return "ErrBase"
	case errors.Is(err, ErrDamaged):
		return "ErrDamaged"
	case errors.Is(err, ErrMismatch):
		return "ErrMismatch"
	}
	return err.Error()
}

// A patch has one job: the new file, to the byte, whatever has happened to the old one.
func TestApply_AnyChange_GivesTheNewFile(t *testing.T) {
	old := random(1, 3<<20+17)
	changed := bytes.Clone(old)
	copy(changed[1<<20:], "something else")
	for name, c := range map[string]struct{ base, result []byte }{
		"nothing changed":        {old, old},
		"some bytes changed":     {old, changed},
		"all moved by one":       {old, append([]byte("x"), old...)},
		"halves swapped":         {old, append(bytes.Clone(old[2<<20:]), old[:2<<20]...)},
		"shorter":                {old, old[:5]},
		"longer":                 {old[:5], old},
		"nothing in common":      {old, random(2, 2<<20)},
		"old file empty":         {nil, old},
		"new file empty":         {old, nil},
		"a whole segment":        {old, old[:1<<20]},
		"zeros behind the end":   {old, append(bytes.Clone(old), make([]byte, 4<<20)...)},
		"one byte out of nobody": {nil, []byte("x")},
	} {
		t.Run(name, func(t *testing.T) {
			patch, limits := mustMake(t, c.base, c.result, small())
			want := Limits{Base: fileOf(c.base), Result: fileOf(c.result)}
			if diff := cmp.Diff(want, limits); diff != "" {
				t.Errorf("what Make says of the files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(outcome{len(c.result), true, ""}, apply(patch, c.base, c.result, limits)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A node whose slot is not what its records say must not end up with a broken system.
func TestApply_AnotherBase_IsErrBase(t *testing.T) {
	old := random(1, 4<<20)
	result := bytes.Clone(old)
	copy(result[100:], "changed")
	patch, limits := mustMake(t, old, result, small())
	other := bytes.Clone(old)
	other[3<<20+5]++ // needed by the last segment only
	wrong := limits
	wrong.Base = fileOf(other)
	got := []outcome{
		apply(patch, other, result, limits),       // the disk has rotted
		apply(patch, old[:3<<20], result, limits), // and is too short
		apply(patch, other, result, wrong),        // the patch is for another release
	}
	want := []outcome{{3 << 20, true, "ErrBase"}, {3 << 20, true, "ErrBase"}, {0, true, "ErrBase"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever is wrong with a download, not one wrong byte is written, and never the last.
func TestApply_DamagedPatch_WritesNothingWrong(t *testing.T) {
	old := random(1, 2<<20)
	result := append([]byte("moved"), old...)
	patch, limits := mustMake(t, old, result, small())
	head := len(patch) - framesOf(t, patch)
	flipped := func(at int) []byte { p := bytes.Clone(patch); p[at] ^= 1; return p }
	other := limits
	other.Result.SHA256[0]++
	longer := limits
	longer.Result.Size++
	for name, c := range map[string]struct {
		patch  []byte
		limits Limits
		want   outcome
	}{
		"empty":                  {nil, limits, outcome{0, true, "ErrDamaged"}},
		"other magic":            {flipped(0), limits, outcome{0, true, "ErrDamaged"}},
		"other format":           {flipped(7), limits, outcome{0, true, "ErrDamaged"}},
		"header length":          {flipped(8), limits, outcome{0, true, "ErrDamaged"}},
		"header too long":        {flipped(11), limits, outcome{0, true, "ErrDamaged"}},
		"header":                 {flipped(60), limits, outcome{0, true, "ErrDamaged"}},
		"first frame":            {flipped(head), limits, outcome{0, true, "ErrDamaged"}},
		"last frame":             {flipped(len(patch) - 1), limits, outcome{2 << 20, true, "ErrDamaged"}},
		"garbage behind":         {append(bytes.Clone(patch), 0), limits, outcome{2 << 20, true, "ErrDamaged"}},
		"a second patch behind":  {append(bytes.Clone(patch), patch...), limits, outcome{2 << 20, true, "ErrDamaged"}},
		"a captive portal":       {[]byte("<!DOCTYPE html><title>Please log in</title>"), limits, outcome{0, true, "ErrDamaged"}},
		"promised another sum":   {patch, other, outcome{0, true, "ErrMismatch"}},
		"promised another size":  {patch, longer, outcome{0, true, "ErrMismatch"}},
		"promised nothing":       {patch, Limits{}, outcome{0, true, "ErrBase"}},
		"whole and right, again": {patch, limits, outcome{len(result), true, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, apply(c.patch, old, result, c.limits)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func framesOf(t *testing.T, patch []byte) int {
	t.Helper()
	rest := bytes.NewReader(patch)
	if _, err := readHeader(rest); err != nil {
		t.Fatal(err)
	}
	return rest.Len()
}

// A connection is cut anywhere.
func TestApply_CutAnywhere_IsErrDamaged(t *testing.T) {
	old := random(1, 3000)
	result := append([]byte("moved"), old...)
	o := small()
	o.Segment = 1000
	patch, limits := mustMake(t, old, result, o)
	for n := range len(patch) {
		if got := apply(patch[:n], old, result, limits); got.Err != "ErrDamaged" || !got.Right || got.Written >= len(result) {
			t.Fatalf("cut at %d of %d: %+v", n, len(patch), got)
		}
	}
}

// forged is a patch whose header and frames say what they like, with the right sums.
func forged(h header, frames ...[]byte) []byte {
	return append(forgedHeader(h, frames...), bytes.Join(frames, nil)...)
}

func forgedHeader(h header, frames ...[]byte) []byte {
	for i := range h.Segments {
		h.Segments[i].Frame = sha256.Sum256(frames[i])
		h.Segments[i].Packed = int64(len(frames[i]))
	}
	return h.encode()
}

// body is what lies in an envelope.
func body(sealed []byte) []byte {
	return bytes.Clone(sealed[envelopeStart : len(sealed)-sha256.Size])
}

func mustPack(t testing.TB, window, data []byte) []byte {
	t.Helper()
	frame, err := pack(context.Background(), window, data)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// A patch may come from a broken publisher, or through a key that was stolen: sums that
// fit do not make it harmless.
func TestApply_ForgedPatch_IsRefused(t *testing.T) {
	base, good := random(1, 1000), []byte("the new file")
	limits := Limits{fileOf(base), fileOf(good)}
	one := func(s segment) header { return header{limits.Base, limits.Result, []segment{s}} }
	right := segment{Length: 12, Result: sha256.Sum256(good)}
	frame := mustPack(t, nil, good)
	pieces := func(p ...piece) segment { s := right; s.Pieces = p; return s }
	bad := []byte("the bad file")
	var many []piece
	for i := range int64(maxPieces + 1) {
		many = append(many, piece{i, 1})
	}
	skipped := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0x0f, 0, 0}, make([]byte, 0xfff)...) // RFC 8878, 3.1.2
	crowd := header{Result: File{Size: maxSegments + 1}}
	for range maxSegments + 1 {
		crowd.Segments = append(crowd.Segments, segment{Length: 1})
	}
	for name, c := range map[string]struct {
		patch []byte
		want  string
	}{
		"none of this":                   {forged(one(right), frame), ""},
		"right size, wrong sum":          {forged(one(segment{Length: 12, Result: sha256.Sum256(bad)}), mustPack(t, nil, bad)), "ErrMismatch"},
		"frame of something else":        {forged(one(right), mustPack(t, nil, bad)), "ErrBase"},
		"frame unpacks to more":          {forged(one(right), mustPack(t, nil, make([]byte, 1<<20))), "ErrDamaged"},
		"two frames for one":             {forged(one(right), append(bytes.Clone(frame), frame...)), "ErrDamaged"},
		"frame unpacks to less":          {forged(one(right), mustPack(t, nil, good[:5])), "ErrDamaged"},
		"no frame":                       {forged(one(right), []byte("not a frame")), "ErrDamaged"},
		"segment without bytes":          {forged(header{limits.Base, limits.Result, []segment{right, {}}}, frame, frame), "ErrDamaged"},
		"segment too long":               {forged(header{limits.Base, File{Size: MaxSegment + 1}, []segment{{Length: MaxSegment + 1}}}, frame), "ErrDamaged"},
		"fewer bytes than promised":      {forged(header{limits.Base, limits.Result, nil}), "ErrDamaged"},
		"more bytes than promised":       {forged(header{limits.Base, limits.Result, []segment{right, right}}, frame, frame), "ErrDamaged"},
		"piece behind the base":          {forged(one(pieces(piece{999, 2})), frame), "ErrDamaged"},
		"piece far behind the base":      {forged(one(pieces(piece{MaxFile, 1})), frame), "ErrDamaged"},
		"piece without bytes":            {forged(one(pieces(piece{5, 0})), frame), "ErrDamaged"},
		"pieces that overlap":            {forged(one(pieces(piece{0, 600}, piece{599, 100})), frame), "ErrDamaged"},
		"pieces out of order":            {forged(one(pieces(piece{500, 10}, piece{0, 10})), frame), "ErrDamaged"},
		"more pieces than allowed":       {forged(one(pieces(many...)), frame), "ErrDamaged"},
		"a file larger than any":         {forged(header{File{MaxFile + 1, limits.Base.SHA256}, limits.Result, []segment{right}}, frame), "ErrDamaged"},
		"frame longer than zstd's worst": {forged(one(right), append(bytes.Clone(frame), skipped...)), "ErrDamaged"},
		"more segments than allowed":     {forged(crowd, slices.Repeat([][]byte{frame}, maxSegments+1)...), "ErrDamaged"},
		"a later format":                 {append(seal("HFDELTA2", body(forgedHeader(one(right), frame))), frame...), "ErrDamaged"},
		"header with something behind":   {append(seal(patchMagic, append(body(forgedHeader(one(right), frame)), 0)), frame...), "ErrDamaged"},
	} {
		t.Run(name, func(t *testing.T) {
			want := outcome{Right: true, Err: c.want}
			if c.want == "" {
				want.Written = len(good)
			}
			if diff := cmp.Diff(want, apply(c.patch, base, good, limits)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The window of a segment is bounded however it is put together.
func TestApply_WindowTooLarge_IsErrDamaged(t *testing.T) {
	h := header{Base: File{Size: MaxFile}, Result: File{Size: 1}, Segments: []segment{{
		Length: 1, Pieces: []piece{{0, MaxWindow}, {MaxWindow, 1}},
	}}}
	if got := apply(forged(h, []byte("x")), nil, nil, Limits{h.Base, h.Result}); got.Err != "ErrDamaged" {
		t.Errorf("got %+v", got)
	}
}

// lost is a connection that breaks.
type lost struct{ err error }

func (l lost) Read([]byte) (int, error) { return 0, l.err }

// A lost connection is tried again; only a damaged file is given up. So they must differ.
func TestApply_LostConnection_IsTheConnectionsError(t *testing.T) {
	old := random(1, 2<<20)
	patch, limits := mustMake(t, old, old, small())
	reset := errors.New("connection reset by peer")
	err := Apply(context.Background(), io.MultiReader(bytes.NewReader(patch[:len(patch)-3]), lost{reset}), bytes.NewReader(old), io.Discard, limits)
	if !errors.Is(err, reset) || errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// stopAt ends the context after so many bytes.
type stopAt struct {
	left   int
	cancel context.CancelFunc
}

func (s *stopAt) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left <= 0 {
		s.cancel()
	}
	return len(p), nil
}

// Somebody gives up an update: it stops at the next MiB and not at the end of a segment.
func TestApply_ContextEnds_StopsWriting(t *testing.T) {
	old := random(1, 6<<20)
	o := small()
	o.Segment = 8 << 20
	patch, limits := mustMake(t, old, old, o)
	ctx, cancel := context.WithCancel(context.Background())
	out := &stopAt{left: 2 << 20, cancel: cancel}
	err := Apply(ctx, bytes.NewReader(patch), bytes.NewReader(old), out, limits)
	if !errors.Is(err, context.Canceled) || out.left != 0 {
		t.Errorf("got %v, and %d bytes written behind the end", err, -out.left)
	}
}

// endless is a download that does not end, and stops the context at the first byte.
type endless struct {
	start  []byte
	read   int
	cancel context.CancelFunc
}

func (e *endless) Read(p []byte) (int, error) {
	if e.cancel != nil {
		e.cancel()
	}
	n := copy(p, e.start)
	e.start = e.start[n:]
	if n == 0 {
		clear(p)
		n = len(p)
	}
	e.read += n
	return n, nil
}

// The same while a download is read.
func TestApply_ContextEnds_StopsReading(t *testing.T) {
	old := random(1, 1<<20)
	patch, limits := mustMake(t, old, old, small())
	ctx, cancel := context.WithCancel(context.Background())
	in := &endless{start: patch, cancel: cancel}
	err := Apply(ctx, in, bytes.NewReader(old), io.Discard, limits)
	if !errors.Is(err, context.Canceled) || in.read != envelopeStart {
		t.Errorf("got %v after %d bytes", err, in.read)
	}
}

// A server promises a header of 4 GB and sends for ever: nothing of it is read.
func TestApply_EndlessHeader_IsRefusedUnread(t *testing.T) {
	in := &endless{start: []byte(patchMagic + "\xff\xff\xff\xff")}
	err := Apply(context.Background(), in, bytes.NewReader(nil), io.Discard, Limits{})
	if !errors.Is(err, ErrDamaged) || in.read != envelopeStart {
		t.Errorf("got %v after %d bytes", err, in.read)
	}
}

// FuzzApply feeds a header and frames of any content, under sums that fit. Whatever
// comes, it ends without a panic, and what was written is right.
func FuzzApply(f *testing.F) {
	base := random(1, 5000)
	result := append([]byte("moved"), base[:3000]...)
	o := small()
	o.Segment = 1000
	patch, limits := mustMake(f, base, result, o)
	frames := 0
	if h, err := readHeader(bytes.NewReader(patch)); err == nil {
		for _, s := range h.Segments {
			frames += int(s.Packed)
		}
	}
	f.Add(body(patch[:len(patch)-frames]), patch[len(patch)-frames:])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, body, frames []byte) {
		data := append(seal(patchMagic, body), frames...)
		var out bytes.Buffer
		err := Apply(context.Background(), bytes.NewReader(data), bytes.NewReader(base), &out, limits)
		if err == nil && !bytes.Equal(out.Bytes(), result) {
			t.Error("another result, and no error")
		}
		if out.Len() > len(result) || (err != nil && limits.Result.Size > 0 && out.Len() == len(result)) {
			t.Errorf("%d bytes written, error %v", out.Len(), err)
		}
		h, err := readHeader(bytes.NewReader(data))
		if err == nil && !bytes.Equal(h.encode(), data[:len(data)-len(frames)]) {
			t.Error("a header that was accepted is not written the same again")
		}
	})
}

func ExampleSum_String() {
	fmt.Println(Sum(sha256.Sum256(nil)))
	// Output: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
}
