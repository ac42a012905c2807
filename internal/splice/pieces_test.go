package splice_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/splice"
)

// filled is a rewrite with n bytes of c.
func filled(offset, n int64, c string) media.Rewrite {
	return media.Rewrite{Region: media.Region{Offset: offset, Size: n}, New: func([]byte) ([]byte, error) {
		return bytes.Repeat([]byte(c), int(n)), nil
	}}
}

// cutAt prepares an image that is cut there, in a folder of its own.
func cutAt(t *testing.T, raw []byte, cuts ...int64) *splice.Image {
	t.Helper()
	from := publish(t, raw)
	from.Cuts = func(beginning []byte) []int64 {
		if !bytes.Equal(beginning, raw[:64*kib]) {
			t.Error("the beginning is another one")
		}
		return cuts
	}
	m, err := splice.Prepare(t.Context(), from, region, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A CD is a disk image with another beginning and another end: it must be the same as one that
// was made out of the unpacked image, and never pass for it.
func TestWith_PlanOfEveryLength_IsTheImageThatThePlanMakes(t *testing.T) {
	const size = 5 * mib
	seed := []byte("a seed")
	for name, plan := range map[string]media.Plan{
		"shorter":     {Size: 4*mib + 1024, Rewrites: []media.Rewrite{filled(0, 64*kib, "a"), filled(4*mib, 1024, "z")}},
		"longer":      {Size: size + 1000, Rewrites: []media.Rewrite{filled(0, 64*kib, "a"), filled(4*mib, mib+1000, "z")}},
		"the same":    {Rewrites: []media.Rewrite{filled(0, 64*kib, "a")}},
		"only looked": {Rewrites: []media.Rewrite{{Region: media.Region{Offset: 3, Size: 5}, New: func(old []byte) ([]byte, error) { return old, nil }}}},
	} {
		raw := image(size)
		m := cutAt(t, raw, 64*kib, 4*mib)
		changed, err := m.With(plan)
		if err != nil {
			t.Fatal(name, err)
		}
		want := slices.Clone(raw)
		clear(want[region.Offset : region.Offset+region.Size])
		copy(want[region.Offset:], seed)
		var out bytes.Buffer
		if err := applied(plan, want, &out); err != nil {
			t.Fatal(name, err)
		}
		packed, err := changed.Packed(seed)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(unpackOne(t, readAll(t, packed)), out.Bytes()) {
			t.Errorf("%s: unpacked, it is another image", name)
		}
		plain, err := changed.Raw(seed)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(readAll(t, plain), out.Bytes()) {
			t.Errorf("%s: it is another image", name)
		}
		if before, err := m.Raw(seed); err != nil || (before.Tag() == plain.Tag()) != (name == "only looked") {
			t.Errorf("%s: the entity tag is %s, of the image before %s (%v)", name, plain.Tag(), before.Tag(), err)
		}
	}
}

// applied writes what a plan makes of an image, byte by byte.
func applied(plan media.Plan, image []byte, out *bytes.Buffer) error {
	size := plan.Size
	if size == 0 {
		size = int64(len(image))
	}
	result := append(slices.Clone(image), make([]byte, max(size-int64(len(image)), 0))...)[:size]
	for _, r := range plan.Rewrites {
		fresh, err := r.New(slices.Clone(result[r.Offset : r.Offset+r.Size]))
		if err != nil {
			return err
		}
		copy(result[r.Offset:r.Offset+r.Size], fresh)
	}
	out.Write(result)
	return nil
}

// What the pieces cannot give is an error, and never half an image.
func TestWith_PlanThatDoesNotFitThePieces_IsRefused(t *testing.T) {
	m := cutAt(t, image(5*mib), 64*kib, 4*mib)
	refused := errors.New("refused")
	for name, plan := range map[string]media.Plan{
		"not cut there":     {Rewrites: []media.Rewrite{filled(0, 32*kib, "a")}},
		"in the region":     {Rewrites: []media.Rewrite{filled(region.Offset, 512, "a")}},
		"over the region":   {Rewrites: []media.Rewrite{filled(64*kib, region.Offset+region.Size-64*kib, "a")}},
		"ends in a piece":   {Size: 4*mib - 5},
		"ends in nothing":   {Size: 6 * mib},
		"too much":          {Rewrites: []media.Rewrite{{Region: media.Region{Size: 4}, New: func([]byte) ([]byte, error) { return make([]byte, 5), nil }}}},
		"refused by itself": {Rewrites: []media.Rewrite{{Region: media.Region{Size: 4}, New: func([]byte) ([]byte, error) { return nil, refused }}}},
	} {
		_, err := m.With(plan)
		if err == nil || errors.Is(err, refused) != (name == "refused by itself") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A caller that cuts too often would fill the index.
func TestPrepare_CutTooOften_IsRefused(t *testing.T) {
	from := publish(t, image(5*mib))
	from.Cuts = func([]byte) []int64 { return make([]int64, 99) }
	if _, err := splice.Prepare(t.Context(), from, region, t.TempDir()); err == nil {
		t.Error("no error")
	}
}
