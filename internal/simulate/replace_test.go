package simulate_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

// replaced is a node that restarts, with a client of it.
type replaced struct {
	t   *testing.T
	dir string
	up  chan struct{}
	*client.Client
}

func replaceable(t *testing.T, faults ...simulate.Fault) *replaced {
	t.Helper()
	r, _ := replaceableIn(t, folder(t), faults...)
	return r
}

// replaceableIn is a node in a folder that may have been one before. stop ends it.
func replaceableIn(t *testing.T, dir string, faults ...simulate.Fault) (r *replaced, stop func()) {
	t.Helper()
	r = &replaced{t: t, dir: dir, up: make(chan struct{}, 16)}
	node, err := simulate.New(simulate.Options{Dir: r.dir, Faults: faults, Ready: func(string) { r.up <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	})
	t.Cleanup(stop)
	<-r.up
	if r.Client, err = client.New(client.Options{Endpoint: r.path("unix.socket")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.ready()
	return r, stop
}

func (r *replaced) path(name string) string { return filepath.Join(r.dir, name) }

func (r *replaced) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// until asks again and again.
func (r *replaced) until(what string, is func() bool) {
	r.t.Helper()
	again, end := time.NewTicker(10*time.Millisecond), time.After(30*time.Second)
	defer again.Stop()
	for !is() {
		select {
		case <-again.C:
		case <-end:
			r.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// ready waits until every phase of boot has ended well.
func (r *replaced) ready() {
	r.t.Helper()
	r.until("the node is ready", func() bool {
		server, err := r.Server(r.t.Context())
		return err == nil && server.Environment.SystemIsReady
	})
}

// ended waits for the end of an operation with this description, and gives its error.
func (r *replaced) ended(description string) (failure string) {
	r.t.Helper()
	r.until(description, func() bool {
		list, err := r.Operations(r.t.Context())
		r.must(err)
		for _, op := range list {
			if op.Description == description && op.StatusCode >= osapi.OperationSuccess {
				failure = op.Err
				return true
			}
		}
		return false
	})
	return failure
}

func (r *replaced) read(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(r.path(name))
	r.must(err)
	return string(text)
}

func (r *replaced) channel() string {
	r.t.Helper()
	update, _, err := r.Update(r.t.Context())
	r.must(err)
	return update.Config.Channel
}

func (r *replaced) setChannel(name string) {
	r.t.Helper()
	update, etag, err := r.Update(r.t.Context())
	r.must(err)
	update.Config.Channel = name
	r.must(r.SetUpdate(r.t.Context(), update.Config, etag))
}

// What a backup holds is what the node is after its restore, and its pool's key with it.
func TestRestore_OfTheSystem_BringsBackWhatWasKept(t *testing.T) {
	r, ctx := replaceable(t), t.Context()
	r.setChannel("testing")
	var archive bytes.Buffer
	r.must(r.BackupSystem(ctx, osapi.BackupPost{}, &archive))
	r.setChannel("stable")
	key := r.read("kept/zpool.local.key")
	r.must(r.RestoreSystem(ctx, &archive, nil, nil))
	<-r.up
	r.ready()
	if got := r.channel(); got != "testing" || r.read("kept/zpool.local.key") != key || key == "" {
		t.Errorf("channel %q, key %q", got, r.read("kept/zpool.local.key"))
	}
}

// A key of another node's pool would lose the pool of this one.
func TestRestore_WithAKeyThatOpensNoPool_IsRefusedUnlessLeftOut(t *testing.T) {
	from, to, ctx := replaceable(t), replaceable(t), t.Context()
	from.setChannel("testing")
	var archive bytes.Buffer
	from.must(from.BackupSystem(ctx, osapi.BackupPost{}, &archive))
	key := to.read("kept/zpool.local.key")
	err := to.RestoreSystem(ctx, bytes.NewReader(archive.Bytes()), nil, nil)
	if !client.IsCode(err, http.StatusBadRequest) || to.channel() == "testing" {
		t.Fatalf("%v, channel %s", err, to.channel())
	}
	to.must(to.RestoreSystem(ctx, &archive, []string{"local-data-encryption-key"}, nil))
	<-to.up
	to.ready()
	if got := to.channel(); got != "testing" || to.read("kept/zpool.local.key") != key {
		t.Errorf("channel %q", got)
	}
}

// The data of an application goes back with its backup, and stays when it does not start with it.
func TestRestore_OfAnApplication_TakesItsDataUnlessItDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		faults []simulate.Fault
		want   string
	}{
		"it starts":         {nil, "of the backup"},
		"it does not start": {[]simulate.Fault{{On: "apps.data-start", Error: "a wrong database", Times: 1}}, "of now"},
	} {
		r, ctx := replaceable(t, c.faults...), t.Context()
		file := "root/var/lib/incus/data"
		r.must(os.WriteFile(r.path(file), []byte("of the backup"), 0o600))
		var archive bytes.Buffer
		r.must(r.BackupApplication(ctx, "incus", osapi.BackupPost{}, &archive))
		r.must(os.WriteFile(r.path(file), []byte("of now"), 0o600))
		r.must(r.RestoreApplication(ctx, "incus", &archive))
		failure := r.ended("Restoring the application incus")
		if got := r.read(file); got != c.want || (failure != "") != (c.faults != nil) {
			t.Errorf("%s: %q, %q", name, got, failure)
		}
	}
}

// A node that is reset is another one: nothing of before is there but its seed and its cards.
func TestFactoryReset_WithASeed_IsANewNodeWithIt(t *testing.T) {
	r, ctx := replaceable(t), t.Context()
	r.setChannel("testing")
	r.must(os.WriteFile(r.path("root/var/lib/incus/data"), []byte("a secret"), 0o600))
	before, err := r.Network(ctx)
	r.must(err)
	id, key := r.read("machine-id"), r.read("kept/zpool.local.key")
	r.must(r.FactoryReset(ctx, osapi.FactoryResetPost{Seeds: map[string]json.RawMessage{"update": json.RawMessage(`{"channel": "edge"}`)}}))
	<-r.up
	r.ready()
	names, err := r.Applications(ctx)
	r.must(err)
	after, err := r.Network(ctx)
	r.must(err)
	_, gone := os.Stat(r.path("root/var/lib/incus/data"))
	type node struct {
		SameID, SameKey, SameCards, DataGone bool
		Channel                              string
		Applications                         []string
	}
	got := node{id == r.read("machine-id"), key == r.read("kept/zpool.local.key"), cmp.Equal(hwaddrs(before), hwaddrs(after)), os.IsNotExist(gone), r.channel(), names}
	if diff := cmp.Diff(node{SameCards: true, DataGone: true, Channel: "edge", Applications: []string{"incus"}}, got); diff != "" {
		t.Error(diff)
	}
}

func hwaddrs(n osapi.Network) (list []string) {
	for _, i := range n.State.Interfaces {
		list = append(list, i.Hwaddr)
	}
	slices.Sort(list)
	return list
}

// A TPM that cannot be cleared leaves the node as it is, unless that is allowed.
func TestFactoryReset_TPMFails_ChangesNothingUnlessAllowed(t *testing.T) {
	r, ctx := replaceable(t, simulate.Fault{On: "reset.tpm", Error: "it is locked out"}), t.Context()
	id := r.read("machine-id")
	if err := r.FactoryReset(ctx, osapi.FactoryResetPost{}); err == nil || !strings.Contains(err.Error(), "locked out") {
		t.Fatal(err)
	}
	r.ready()
	if _, err := os.Stat(r.path("esp/holdfast/reset.json")); !os.IsNotExist(err) || id != r.read("machine-id") {
		t.Fatalf("the reset is not forgotten: %v", err)
	}
	r.must(r.FactoryReset(ctx, osapi.FactoryResetPost{AllowTPMResetFailure: true}))
	<-r.up
	r.ready()
	if id == r.read("machine-id") {
		t.Error("the node is the same")
	}
}

// A power cut in the middle of a reset must not leave half a node: the next start goes on.
func TestFactoryReset_CutBeforeItsEnd_GoesOnAtTheNextStart(t *testing.T) {
	r, ctx := replaceable(t, simulate.Fault{On: "reset.partitions", Error: "the power is gone", Times: 1}), t.Context()
	id := r.read("machine-id")
	r.must(r.FactoryReset(ctx, osapi.FactoryResetPost{}))
	if failure := r.ended("Resetting the node"); !strings.Contains(failure, "the power is gone") {
		t.Fatal(failure)
	}
	r.must(r.Reboot(ctx))
	<-r.up
	r.ready()
	if id == r.read("machine-id") {
		t.Error("the node is the same")
	}
}

// Updates of keys that are signed with the machine's own go into the firmware, one in each
// start, and the TPM opens the volumes at each of them.
func TestSecureBoot_SignedArchive_IsInTheFirmwareAfterItsRestarts(t *testing.T) {
	r := replaceable(t)
	pk, kek := r.signer("PK"), r.signer("KEK")
	archive := tarOf(t, sign(t, pk, secureboot.KEK, pk.Certificate.Raw), sign(t, kek, secureboot.DB, kek.Certificate.Raw))
	dialer := net.Dialer{}
	raw := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", r.path("unix.socket"))
	}}}
	defer raw.CloseIdleConnections()
	answer, err := raw.Post("http://node/1.0/debug/secureboot/:update", "application/x-tar", bytes.NewReader(archive))
	r.must(err)
	text, err := io.ReadAll(answer.Body)
	r.must(err)
	r.must(answer.Body.Close())
	if answer.StatusCode != 200 {
		t.Fatalf("%d %s", answer.StatusCode, text)
	}
	var state *osapi.SecureBootState
	for range 3 { // two variables, and a start to see that they are there
		security, err := r.Security(t.Context())
		r.must(err)
		if state = security.State.SecureBoot; state != nil && state.FullyApplied {
			break
		}
		r.must(r.Reboot(t.Context()))
		<-r.up
		for len(r.up) > 0 {
			<-r.up
		}
		r.ready()
	}
	if state == nil || !state.FullyApplied {
		t.Fatalf("%+v", state)
	}
	answer, err = raw.Get("http://node/internal/secureboot")
	r.must(err)
	var keys struct{ Metadata osapi.SecureBootKeys }
	r.must(json.NewDecoder(answer.Body).Decode(&keys))
	r.must(answer.Body.Close())
	type counts struct{ KEK, DB, DBX int }
	if diff := cmp.Diff(counts{2, 2, 0}, counts{len(keys.Metadata.KEK), len(keys.Metadata.DB), len(keys.Metadata.DBX)}); diff != "" {
		t.Error(diff)
	}
}

func (r *replaced) signer(name string) secureboot.Signer {
	r.t.Helper()
	private, _ := pem.Decode([]byte(r.read("secureboot-" + name + ".key")))
	key, err := x509.ParsePKCS8PrivateKey(private.Bytes)
	r.must(err)
	public, _ := pem.Decode([]byte(r.read("secureboot-" + name + ".crt")))
	certificate, err := x509.ParseCertificate(public.Bytes)
	r.must(err)
	return secureboot.Signer{Key: key.(*rsa.PrivateKey), Certificate: certificate}
}

func sign(t *testing.T, by secureboot.Signer, variable secureboot.Name, certificate []byte) secureboot.Auth {
	t.Helper()
	auth, err := secureboot.Sign(by, variable, [16]byte{}, certificate, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

func tarOf(t *testing.T, updates ...secureboot.Auth) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, u := range updates {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: u.File, Mode: 0o600, Size: int64(len(u.Raw))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(u.Raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}
