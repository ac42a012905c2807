package delta

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
)

// The reason is what an administrator reads in the plan of an update.
func TestCheapest_WhatTheNodeHas_DecidesTheWay(t *testing.T) {
	sum := func(digit string) string { return strings.Repeat(digit, 64) }
	file := func(size int64, digit string) File {
		s, err := ParseSum(sum(digit))
		if err != nil {
			t.Fatal(err)
		}
		return File{size, s}
	}
	deltas := []release.Delta{
		{From: "202611220104", BaseSize: 700, BaseSHA256: sum("a"), Patch: release.Blob{Size: 12_300_000}},
		{From: "202611150104", BaseSize: 600, BaseSHA256: sum("b"), Patch: release.Blob{Size: 28_000_000}},
		{From: "202601010104", BaseSize: 500, BaseSHA256: sum("c"), Patch: release.Blob{Size: 149_200_000}},
		{From: "202501010104", BaseSize: 400, BaseSHA256: "not a sum", Patch: release.Blob{Size: 1}},
	}
	full := release.Blob{Size: 149_200_000}
	part := release.Part{Full: full, Chunks: &release.Chunks{}, Deltas: deltas}
	plain := release.Part{Full: full}
	for name, c := range map[string]struct {
		part   release.Part
		bases  []File
		chunks int64
		want   Choice
	}{
		"the release before": {part, []File{file(700, "a")}, UnknownChunks,
			Choice{KindDelta, 12_300_000, &deltas[0], "delta from 202611220104, 12.3 MB instead of 149.2 MB"}},
		"two releases at hand": {part, []File{file(600, "b"), file(700, "a")}, 50_000_000,
			Choice{KindDelta, 12_300_000, &deltas[0], "delta from 202611220104, 12.3 MB instead of 149.2 MB"}},
		"right sum, wrong size": {part, []File{file(701, "a")}, UnknownChunks,
			Choice{KindFull, 149_200_000, nil, "full file, 149.2 MB, no delta from what is installed"}},
		"no sum in the manifest": {part, []File{{Size: 400}}, UnknownChunks,
			Choice{KindFull, 149_200_000, nil, "full file, 149.2 MB, no delta from what is installed"}},
		"chunks beat the delta": {part, []File{file(600, "b")}, 27_999_999,
			Choice{KindChunks, 27_999_999, nil, "chunks, smaller than any delta, 28.0 MB instead of 149.2 MB"}},
		"as much as the delta": {part, []File{file(600, "b")}, 28_000_000,
			Choice{KindDelta, 28_000_000, &deltas[1], "delta from 202611150104, 28.0 MB instead of 149.2 MB"}},
		"no delta": {part, []File{file(1, "d")}, 64_400_000,
			Choice{KindChunks, 64_400_000, nil, "chunks, no delta from what is installed, 64.4 MB instead of 149.2 MB"}},
		"almost nothing": {part, nil, 99_949,
			Choice{KindChunks, 99_949, nil, "chunks, no delta from what is installed, 99.9 kB instead of 149.2 MB"}},
		"nothing in common": {part, nil, 150_000_000,
			Choice{KindFull, 149_200_000, nil, "full file, 149.2 MB, no delta from what is installed, and chunks would not be smaller"}},
		"a delta as large": {part, []File{file(500, "c")}, UnknownChunks,
			Choice{KindFull, 149_200_000, nil, "full file, 149.2 MB, a delta would not be smaller"}},
		"nothing published": {plain, []File{file(700, "a")}, 5,
			Choice{KindFull, 149_200_000, nil, "full file, 149.2 MB, no delta from what is installed"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Cheapest(c.part, c.bases, c.chunks)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Sums come out of manifests: what is none must not count as one.
func TestParseSum_AnythingElse_IsAnError(t *testing.T) {
	for _, text := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("0", 66), strings.Repeat("x", 64)} {
		if s, err := ParseSum(text); err == nil {
			t.Errorf("%q is %s", text, s)
		}
	}
}
