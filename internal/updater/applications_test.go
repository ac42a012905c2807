package updater

import "testing"

// A server that nobody vouches for could send a few megabytes that become terabytes: the
// node must give up early, yet take every application of a real size.
func TestUnpackedLimit_PackedSizes_LeaveRoomForImagesOnly(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for name, c := range map[string]struct{ packed, want int64 }{
		"an empty file":            {0, 67108860},
		"a small application":      {mib, 64*mib - 4},
		"a bomb of 10 MiB":         {10 * mib, 200 * mib},
		"Incus as it is published": {150 * mib, 3000 * mib},
		"a very large one":         {4 * gib, 8 * gib},
	} {
		if got := unpackedLimit(c.packed); got != c.want {
			t.Errorf("%s: a file of %d bytes may become %d, want %d", name, c.packed, got, c.want)
		}
	}
}
