package packages_test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/holdfast-os/holdfast/internal/packages"
	"github.com/holdfast-os/holdfast/test/needs"
)

func sign(n int) int { return min(max(n, -1), 1) }

// A wrong order hides the CVEs of an update, or shows those of years.
func TestCompareVersions_KnownPairs_AreInDpkgsOrder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0-1", "1.0-1", 0},
		{"1.0-1", "1.0-2", -1},
		{"1.9", "1.10", -1},
		{"1.0~rc1", "1.0", -1},
		{"1.0~~", "1.0~", -1},
		{"1.0", "1.0+b1", -1},
		{"1.0-1", "1.0-1+b1", -1},
		{"1.0-1~bpo13+1", "1.0-1", -1},
		{"1:1.0", "2.0", 1},
		{"0:1.0", "1.0", 0},
		{"1.0-0", "1.0", 0},
		{"001.0", "1.0", 0},
		{"1.0a", "1.0+", -1},
		{"1.0Z", "1.0a", -1},
		{"1.0-1-2", "1.0-2", 1},
		{"6.12.116-1", "6.12.116+1", -1},
		{"3.5.7-1~deb13u2", "3.5.7-1~deb13u10", -1},
		{"257.13-1~deb13u1", "257.9-1~deb13u1", 1},
		{"99999999999999999999", "100000000000000000000", -1},
	} {
		if got := sign(packages.CompareVersions(c.a, c.b)); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := sign(packages.CompareVersions(c.b, c.a)); got != -c.want {
			t.Errorf("%s and %s: %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

// dpkg itself says what its order is.
func TestCompareVersions_RandomPairs_AgreeWithDpkg(t *testing.T) {
	needs.Programs(t, "dpkg")
	random := rand.New(rand.NewPCG(1, 2))
	const alphabet = "0019aZ~~+.-"
	version := func() string {
		out := ""
		if random.IntN(4) == 0 {
			out = fmt.Sprintf("%d:", random.IntN(2))
		}
		out += fmt.Sprint(random.IntN(3))
		for range random.IntN(6) {
			out += string(alphabet[random.IntN(len(alphabet))])
		}
		return out + "0"
	}
	for range 400 {
		a, b := version(), version()
		word := []string{"lt", "eq", "gt"}[sign(packages.CompareVersions(a, b))+1]
		if err := exec.Command("dpkg", "--compare-versions", a, word, b).Run(); err != nil {
			t.Errorf("dpkg does not say %s %s %s: %v", a, word, b, err)
		}
	}
}
