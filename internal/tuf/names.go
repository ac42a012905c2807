package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

var (
	versionForm = regexp.MustCompile(`^[0-9]{12}$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*$`)
	sumForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	channelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
)

var (
	architectures = []string{"x86_64", "aarch64"}
	topRoles      = []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
)

// CheckChannel refuses a name that no channel can have: other than small letters,
// digits, dot, dash and underscore, longer than 64, or that of one of TUF's own roles.
func CheckChannel(name string) error {
	if !channelForm.MatchString(name) {
		return fmt.Errorf("channel %q: small letters, digits, dot, dash and underscore are allowed, at most 64", name)
	}
	if slices.Contains(topRoles, name) {
		return fmt.Errorf("channel %q: the name belongs to a role of the metadata: choose another", name)
	}
	return nil
}

// folder is where the metadata lie in a tree.
const folder = "tuf/"

const timestampFile = "timestamp.json"

// metaFile is the name of a version of a role, relative to the folder.
func metaFile(role string, version int64) string {
	return fmt.Sprintf("%d.%s.json", version, role)
}

// metaName is how snapshot and timestamp call a role.
func metaName(role string) string { return role + ".json" }

// targetPath is how a channel's role calls a release.
func targetPath(channel, arch, version string) string {
	return channel + "/" + arch + "/" + version + ".json"
}

// splitTarget takes a target's path apart; ok is false for anything else than the
// release of a channel.
func splitTarget(path string) (channel, arch, version string, ok bool) {
	parts := strings.Split(path, "/")
	if len(parts) != 3 {
		return "", "", "", false
	}
	version, isJSON := strings.CutSuffix(parts[2], ".json")
	ok = isJSON && CheckChannel(parts[0]) == nil && slices.Contains(architectures, parts[1]) && versionForm.MatchString(version)
	return parts[0], parts[1], version, ok
}

// targetFile is the name of the file of a target, relative to the folder.
func targetFile(channel, arch, version string, sum []byte) string {
	return fmt.Sprintf("targets/%s/%s/%s.%s.json", channel, arch, hex.EncodeToString(sum), version)
}

// delegatedPath is what a channel's role may list.
func delegatedPath(channel string) string { return channel + "/*/*" }

// described is how snapshot and timestamp name a document.
func described(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}
