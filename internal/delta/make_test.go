package delta

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Most of a patch is what it saves: content that only moved must be found again. Each
// segment begins 123 bytes into a block of the base: of its last page, 123 bytes lie in a
// block that is not worth reading for them.
func TestMake_MovedContent_IsInTheWindow(t *testing.T) {
	old := random(1, 4<<20)
	moved := append(bytes.Clone(old[2<<20+123:]), old[:2<<20+123]...)
	var pages []int
	o := small()
	o.Compress = func(_ context.Context, window, segment []byte) ([]byte, error) {
		missing := 0
		for at := 0; at+4096 <= len(segment); at += 4096 {
			if !bytes.Contains(window, segment[at:at+4096]) {
				missing++
			}
		}
		pages = append(pages, missing)
		return pack(context.Background(), window, segment)
	}
	mustMake(t, old, moved, o)
	if diff := cmp.Diff([]int{1, 1, 1, 1}, pages); diff != "" {
		t.Errorf("pages that are not in the segment's window (-want +got):\n%s", diff)
	}
}

// Publishing twice gives the same tree, however many processors there are.
func TestMake_MoreWorkers_GiveTheSamePatch(t *testing.T) {
	old := random(1, 2<<20)
	result := append(random(2, 100_000), old...)
	one, _ := mustMake(t, old, result, small())
	o := small()
	o.Workers = 4
	four, _ := mustMake(t, old, result, o)
	if !bytes.Equal(one, four) {
		t.Error("the patches differ")
	}
}

// A full disk is told as a full disk, and nothing half is published.
func TestMake_FailingCompressor_IsTheReason(t *testing.T) {
	disk := errors.New("no space left on device")
	for name, workers := range map[string]int{"one worker": 1, "three workers": 3} {
		t.Run(name, func(t *testing.T) {
			o := small()
			o.Workers = workers
			o.Compress = func(ctx context.Context, window, segment []byte) ([]byte, error) {
				if segment[0] == 'x' {
					return nil, disk
				}
				if workers > 1 { // the segments before it are given up, which is not the reason
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return pack(ctx, window, segment)
			}
			result := make([]byte, 5<<20)
			result[2<<20] = 'x'
			var patch bytes.Buffer
			_, err := Make(context.Background(), section(nil), section(result), &patch, o)
			if !errors.Is(err, disk) || patch.Len() > 0 {
				t.Errorf("got %v and %d bytes", err, patch.Len())
			}
		})
	}
}

// What is wrong with an order comes out before an hour of work.
func TestMake_OptionsOutsideTheFormat_AreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"no compressor":   {},
		"segment too big": {Compress: pack, Segment: MaxSegment + 1},
		"window too big":  {Compress: pack, Window: MaxWindow + 1},
		"negative window": {Compress: pack, Window: -1},
		"too many":        {Compress: pack, Segment: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var patch bytes.Buffer
			if _, err := Make(context.Background(), section(nil), section(make([]byte, 20_000)), &patch, o); err == nil {
				t.Errorf("made a patch of %d bytes", patch.Len())
			}
		})
	}
}
