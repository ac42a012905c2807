package tuf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// go-tuf decodes with encoding/json, follows pointers that a document leaves null, and
// takes sizes, sums and versions as given. So every document passes here first:
//
//   - one object, no key twice (not even in other case: encoding/json would take the
//     last), no null, valid UTF-8, at most maxDepth deep
//     (what stands behind its end, json.Unmarshal refuses);
//   - version from 1, specification 1.x, at most maxSignatures signatures;
//   - keys of a kind and size that verifying is safe with (crypto/ed25519 panics on a
//     key of another length), thresholds that the role's keys can reach;
//   - size and SHA-256 for every document that is named, where TUF leaves them optional.

const maxDepth = 16

// issuedField is the time of signing in a timestamp, in RFC 3339. It is ours: TUF lets
// documents have more fields, and they are signed with the rest.
const issuedField = "holdfast_issued"

// checkText refuses JSON that two readers could understand in two ways.
func checkText(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("it is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a float would be taken for another number
	first, err := d.Token()
	if err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	if first != json.Delim('{') {
		return errors.New("it is no JSON object")
	}
	return checkMembers(d, '}', 1)
}

// checkMembers reads to the end of an object or a list.
func checkMembers(d *json.Decoder, end json.Delim, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it is more than %d deep", maxDepth)
	}
	seen := map[string]bool{}
	for d.More() {
		if end == '}' {
			key, err := d.Token()
			if err != nil {
				return fmt.Errorf("it is no JSON: %w", err)
			}
			// Lower-casing the upper case makes all that encoding/json takes for equal equal.
			folded := strings.ToLower(strings.ToUpper(key.(string)))
			if seen[folded] {
				return fmt.Errorf("the key %q stands in it twice", key)
			}
			seen[folded] = true
		}
		value, err := d.Token()
		if err != nil {
			return fmt.Errorf("it is no JSON: %w", err)
		}
		if err := checkValue(d, value, depth); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	return nil
}

func checkValue(d *json.Decoder, value json.Token, depth int) error {
	switch v := value.(type) {
	case json.Delim:
		if v == '{' {
			return checkMembers(d, '}', depth+1)
		}
		return checkMembers(d, ']', depth+1)
	case nil:
		return errors.New("a null stands in it")
	}
	return nil
}

// parse reads a document of the kind T that is at most max bytes. It says nothing about
// who signed it.
func parse[T metadata.Roles](data []byte, max int64) (*metadata.Metadata[T], error) {
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%w of %d bytes", ErrLimit, max)
	}
	if err := checkText(data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	var envelope struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	// Counted first: go-tuf compares each with each.
	if n := len(envelope.Signatures); n > maxSignatures {
		return nil, fmt.Errorf("%w: %d signatures, at most %d", ErrLimit, n, maxSignatures)
	}
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	if err := checkShape(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	return m, nil
}

func checkShape[T metadata.Roles](m *metadata.Metadata[T]) error {
	switch signed := any(&m.Signed).(type) {
	case *metadata.RootType:
		return errors.Join(checkHead(signed.SpecVersion, signed.Version, signed.Expires), checkRoot(signed))
	case *metadata.TimestampType:
		return errors.Join(checkHead(signed.SpecVersion, signed.Version, signed.Expires), checkTimestamp(signed))
	case *metadata.SnapshotType:
		return errors.Join(checkHead(signed.SpecVersion, signed.Version, signed.Expires), checkSnapshot(signed))
	case *metadata.TargetsType:
		return errors.Join(checkHead(signed.SpecVersion, signed.Version, signed.Expires), checkTargets(signed))
	}
	return errors.New("it is of an unknown kind")
}

func checkHead(spec string, version int64, expires time.Time) error {
	if !strings.HasPrefix(spec, "1.") {
		return fmt.Errorf("specification %q, 1.x is understood", spec)
	}
	if version < 1 {
		return fmt.Errorf("version %d", version)
	}
	if expires.IsZero() {
		return errors.New("it does not say when it expires")
	}
	return nil
}

func checkRoot(root *metadata.RootType) error {
	if !root.ConsistentSnapshot {
		return errors.New("the tree has no consistent snapshots")
	}
	if err := checkKeys(root.Keys); err != nil {
		return err
	}
	for _, name := range topRoles {
		role, ok := root.Roles[name]
		if !ok {
			return fmt.Errorf("the role %s is missing", name)
		}
		if err := checkThreshold(name, role.KeyIDs, role.Threshold, root.Keys); err != nil {
			return err
		}
	}
	return nil
}

func checkKeys(keys map[string]*metadata.Key) error {
	if len(keys) > maxKeys*maxRoles {
		return fmt.Errorf("%d keys", len(keys))
	}
	for id, key := range keys {
		if err := checkKey(key); err != nil {
			return fmt.Errorf("key %.16s: %w", id, err)
		}
	}
	return nil
}

// checkKey allows Ed25519, ECDSA on P-256, and RSA-PSS from 2048 to 8192 bits.
func checkKey(key *metadata.Key) error {
	if key.Type == metadata.KeyTypeEd25519 && len(key.Value.PublicKey) != 2*ed25519.PublicKeySize {
		return errors.New("an Ed25519 key has 32 bytes")
	}
	public, err := key.ToPublicKey()
	if err != nil {
		return err
	}
	scheme := ""
	switch public := public.(type) {
	case ed25519.PublicKey:
		scheme = metadata.KeySchemeEd25519
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return errors.New("the curve is not P-256")
		}
		scheme = metadata.KeySchemeECDSA_SHA2_P256
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < 2048 || bits > 8192 {
			return fmt.Errorf("an RSA key of %d bits, 2048 to 8192 are accepted", bits)
		}
		scheme = metadata.KeySchemeRSASSA_PSS_SHA256
	}
	if key.Scheme != scheme {
		return fmt.Errorf("the scheme %.32q does not belong to the key", key.Scheme)
	}
	return nil
}

func checkThreshold(role string, ids []string, threshold int, keys map[string]*metadata.Key) error {
	if len(ids) > maxKeys || threshold < 1 || threshold > len(ids) {
		return fmt.Errorf("the role %s asks for %d of %d keys", role, threshold, len(ids))
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if keys[id] == nil || seen[id] {
			return fmt.Errorf("the role %s names the key %.16s that is not there, or twice", role, id)
		}
		seen[id] = true
	}
	return nil
}

func checkTimestamp(timestamp *metadata.TimestampType) error {
	if err := checkMeta(timestamp.Meta, metadata.SNAPSHOT, maxSnapshot); err != nil {
		return err
	}
	issued, err := issuedAt(timestamp)
	if err != nil {
		return err
	}
	if issued.After(timestamp.Expires) {
		return errors.New("it was signed after its end")
	}
	return nil
}

// issuedAt is the time of signing; the zero time when the document does not say.
func issuedAt(timestamp *metadata.TimestampType) (time.Time, error) {
	value, ok := timestamp.UnrecognizedFields[issuedField]
	if !ok {
		return time.Time{}, nil
	}
	text, ok := value.(string)
	if !ok {
		return time.Time{}, fmt.Errorf("%s is no text", issuedField)
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", issuedField, err)
	}
	return at.UTC(), nil
}

func checkSnapshot(snapshot *metadata.SnapshotType) error {
	if len(snapshot.Meta) > maxRoles+1 {
		return fmt.Errorf("it names %d roles, at most %d", len(snapshot.Meta), maxRoles+1)
	}
	if _, ok := snapshot.Meta[metaName(metadata.TARGETS)]; !ok {
		return errors.New("it does not name targets")
	}
	for name := range snapshot.Meta {
		role, _ := strings.CutSuffix(name, ".json")
		if role != metadata.TARGETS && CheckChannel(role) != nil {
			return fmt.Errorf("it names the role %.80q", name)
		}
		if err := checkMeta(snapshot.Meta, role, maxTargets); err != nil {
			return err
		}
	}
	return nil
}

// checkMeta wants version, size and sum for a document that another one names.
func checkMeta(meta map[string]*metadata.MetaFiles, role string, max int64) error {
	file, ok := meta[metaName(role)]
	if !ok {
		return fmt.Errorf("it does not name %s", role)
	}
	if file.Version < 1 || file.Length < 1 || file.Length > max || len(file.Hashes["sha256"]) != sha256.Size {
		return fmt.Errorf("it names %s without version, size (at most %d bytes) or SHA-256", role, max)
	}
	return nil
}

func checkTargets(targets *metadata.TargetsType) error {
	if len(targets.Targets) > maxReleases {
		return fmt.Errorf("it lists %d files, at most %d", len(targets.Targets), maxReleases)
	}
	for path, file := range targets.Targets {
		if file.Length < 1 || len(file.Hashes["sha256"]) != sha256.Size {
			return fmt.Errorf("it lists %.80q without size or SHA-256", path)
		}
	}
	delegations := targets.Delegations
	if delegations == nil {
		return nil
	}
	if delegations.SuccinctRoles != nil || len(delegations.Roles) > maxRoles {
		return fmt.Errorf("it delegates to hashed bins, or to more than %d roles", maxRoles)
	}
	if err := checkKeys(delegations.Keys); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, role := range delegations.Roles {
		if err := CheckChannel(role.Name); err != nil || seen[role.Name] {
			return fmt.Errorf("it delegates to the role %.80q, or twice to it", role.Name)
		}
		seen[role.Name] = true
		if err := checkThreshold(role.Name, role.KeyIDs, role.Threshold, delegations.Keys); err != nil {
			return err
		}
	}
	return nil
}
