package earlyboot

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// No clock is before the release that runs, and none that is behind it is set back.
func TestAdvanceClock_BehindTheRelease_IsSetToItAndNoOther(t *testing.T) {
	made := time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC)
	const release = "ID=holdfast\nIMAGE_VERSION=202611220104\n"
	for name, c := range map[string]struct {
		text string
		now  time.Time
		want []time.Time
		fail bool
	}{
		"no battery":         {release, time.Unix(0, 0), []time.Time{made}, false},
		"a minute before":    {release, made.Add(-time.Minute), []time.Time{made}, false},
		"at that time":       {release, made, nil, false},
		"after it":           {release, made.AddDate(1, 0, 0), nil, false},
		"no version":         {"ID=holdfast\n", time.Unix(0, 0), nil, true},
		"a version of words": {"IMAGE_VERSION=new\n", time.Unix(0, 0), nil, true},
	} {
		host, dir, _ := testHost(t, healthy)
		write(t, filepath.Join(dir, "sysusr/usr/lib/os-release"), c.text)
		var set []time.Time
		err := host.advanceClock(c.now, func(to time.Time) error { set = append(set, to); return nil })
		if diff := cmp.Diff(c.want, set); diff != "" || (err != nil) != c.fail {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}
