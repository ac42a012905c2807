package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
)

// watched notes the largest heap seen while a file is written.
type watched struct{ peak uint64 }

func (w *watched) Write(p []byte) (int, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.peak = max(w.peak, m.HeapInuse)
	return len(p), nil
}

// heap gives what is in use when all that can be is given back.
func heap() uint64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// worstPatch is a patch as large as the format allows: each of three segments has the
// greatest length and needs the greatest window, and does not shrink. It lies in a file.
func worstPatch(t *testing.T) (string, Limits) {
	t.Helper()
	part, window := random(7, MaxSegment), make([]byte, MaxWindow)
	frame := mustPack(t, window, part)
	s := segment{Length: MaxSegment, Packed: int64(len(frame)), Frame: sha256.Sum256(frame), Result: sha256.Sum256(part),
		Pieces: []piece{{0, MaxWindow}}}
	whole := sha256.New()
	for range 3 {
		whole.Write(part)
	}
	h := header{Base: File{Size: MaxWindow}, Result: File{3 * MaxSegment, Sum(whole.Sum(nil))}, Segments: []segment{s, s, s}}
	path := filepath.Join(t.TempDir(), "patch")
	if err := os.WriteFile(path, bytes.Join([][]byte{h.encode(), frame, frame, frame}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, Limits{h.Base, h.Result}
}

// zeros is a base without end.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// An update must not push instances out of memory, whatever patch is served: the largest
// that is accepted needs a frame, a window and a segment of memory, and little else.
func TestApply_LargestPatch_StaysWithinItsMemory(t *testing.T) {
	path, limits := worstPatch(t)
	patch, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = patch.Close() }() // read only
	before := heap()
	var out watched
	if err := Apply(context.Background(), patch, zeros{}, &out, limits); err != nil {
		t.Fatal(err)
	}
	const allowed = MaxSegment + MaxWindow + MaxSegment + 8<<20 // window, frame, segment, and the decoder
	if used := out.peak - before; used > allowed {
		t.Errorf("%d MiB in use, allowed are %d", used>>20, uint64(allowed)>>20)
	} else {
		t.Logf("%d MiB in use", used>>20)
	}
}

// A frame of some kilobytes can say that it unpacks to 20 MiB. Nothing is taken for it.
func TestApply_Bomb_TakesNoMemory(t *testing.T) {
	bomb := mustPack(t, nil, make([]byte, 20<<20))
	result := []byte("the new file")
	h := header{Result: fileOf(result), Segments: []segment{{Length: 12, Result: sha256.Sum256(result)}}}
	// The frame must look small enough for its segment, so it is as long as it may be.
	if limit := maxFrame(12); int64(len(bomb)) > limit {
		bomb = bomb[:limit]
	}
	patch := forged(h, bomb)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := apply(patch, nil, result, Limits{Result: h.Result})
	runtime.ReadMemStats(&after)
	if got.Err != "ErrDamaged" {
		t.Errorf("got %+v", got)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 4<<20 {
		t.Errorf("%d MiB taken", taken>>20)
	}
}
