package swap_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/swap"
)

// A phase that is tried again must not fail because its first half worked.
func TestOn_CalledAgain_LeavesWhatIsInUse(t *testing.T) {
	cases := map[string]struct {
		swaps string
		want  []string
	}{
		"not in use": {"Filename Type Size Used Priority\n", []string{"swapon --discard -- /dev/mapper/swap"}},
		"in use":     {"Filename Type Size Used Priority\n/dev/dm-1 partition 1048572 0 -2\n", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, dir := range []string{"proc", "dev/mapper"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for path, text := range map[string]string{"proc/swaps": c.swaps, "dev/dm-1": ""} {
				if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink("../dm-1", filepath.Join(root, "dev/mapper/swap")); err != nil {
				t.Fatal(err)
			}
			var ran []string
			host := swap.Host{Root: root, Run: func(_ context.Context, c run.Command) (run.Result, error) {
				ran = append(ran, c.Name+" "+strings.Join(c.Args, " "))
				return run.Result{}, nil
			}}
			if err := host.On(context.Background(), "/dev/mapper/swap"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, ran); diff != "" {
				t.Error(diff)
			}
		})
	}
}
