package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/publisher"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func releaseCommand(env *Env) *cobra.Command {
	return group("release", "Publish, serve and verify releases",
		"  holdfast release publish .build/release\n  holdfast release serve .build/release",
		releasePublishCommand(env), releasePromoteCommand(env), releaseDemoteCommand(env), releaseSeverityCommand(env),
		releasePruneCommand(env), releaseListCommand(env), releaseVerifyCommand(env), releaseExportCommand(env),
		releaseServeCommand(env), releaseKeysCommand(env), releaseRefreshCommand(env), releaseRotateCommand(env),
		releaseSecureBootCommand(env))
}

func releasePublishCommand(env *Env) *cobra.Command {
	o := release.PublishOptions{}
	var severity string
	c := &cobra.Command{
		Use:   "publish TREE",
		Short: "Bring a build into a release tree and sign the index",
		Long: "Bring a build into a release tree and sign the index. Publishing the same build again\n" +
			"changes nothing; nodes see a release only once it is complete.\n\n" +
			"With the package lists of the build come, for each component, the list itself and a bill\n" +
			"of materials (SPDX), and for each channel a changelog against the release before.\n\n" +
			"The signing key may lie in a token behind PKCS#11. Keep its PIN in a file of mode 0600\n" +
			"and name it in the URI: pkcs11:token=T;object=O;type=private?pin-source=file:/path",
		Example: "  holdfast release publish .build/release\n" +
			"  holdfast release publish /srv/releases --channel testing --medium\n" +
			"  holdfast release publish /srv/releases --sign-key pkcs11:object=update --sign-cert update.crt",
		Args: args("TREE"),
	}
	f := c.Flags()
	f.StringVar(&o.BuildDir, "build", "", "folder of the build (default .build/out of the project)")
	f.StringVar(&o.Version, "version", "", "the release (default what the build says)")
	f.StringSliceVar(&o.Channels, "channel", []string{"stable"}, "channel to publish in; may be repeated")
	f.StringVar(&severity, "severity", "none", "none, low, medium, high or critical")
	f.StringVar(&o.Arch, "arch", "x86_64", "x86_64 or aarch64")
	f.BoolVar(&o.IncludeMedium, "medium", false, "publish the install medium too")
	f.StringVar(&o.SecureBootKeys, "secureboot-keys", "", "archive of updates for the firmware's keys, which the release brings (holdfast release secureboot-update makes one)")
	f.IntVar(&o.DeltaBases, "deltas", 5, "make deltas from this many releases before; 0 makes none, and no chunks")
	signer := addSigner(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		o.Tree, o.Severity = args[0], api.Severity(severity)
		if !o.Severity.Valid() {
			return usage(c, fmt.Errorf("--severity %q: want none, low, medium, high or critical", severity))
		}
		if o.Signer, err = signer.open(c, "--build, --sign-key and --sign-cert", &o.BuildDir); err != nil {
			return err
		}
		if o.DeltaBases > 0 {
			o.Extras = publisher.Extras{Run: run.Host, Workers: runtime.NumCPU()}
		}
		o.Metadata = publisher.Metadata{Tree: o.Tree, Keys: signer.keys()}
		update, err := release.Publish(c.Context(), o)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Release %s is published in %s (%s)\n", update.Version, args[0], strings.Join(update.Channels, ", "))
		return err
	}
	return c
}

// signerFlags are the flags of every command that signs a tree.
type signerFlags struct {
	sign.OpenSSL
	keyDir string
}

func addSigner(c *cobra.Command) *signerFlags {
	s := &signerFlags{OpenSSL: sign.OpenSSL{Run: run.Host}}
	f := c.Flags()
	f.StringVar(&s.keyDir, "keys", "", "folder with the keys of the trusted metadata (default .keys/releases of the project)")
	f.StringVar(&s.Key, "sign-key", "", "PEM file or pkcs11: URI of the signing key (default .keys/update.key of the project)")
	f.StringVar(&s.Certificate, "sign-cert", "", "PEM file of the signing certificate (default .keys/update.crt of the project)")
	f.StringVar(&s.Chain, "sign-chain", "", "PEM file of the certificates above it")
	f.StringVar(&s.Module, "sign-module", "", "PKCS#11 library of the token (default what openssl's configuration names)")
	return s
}

// open gives the signer, with what was not named taken from the project: the keys, and the
// folder of the build for a command that has one. flags is what else a person can name.
func (s *signerFlags) open(c *cobra.Command, flags string, build *string) (release.Signer, error) {
	if (s.Key == "") != (s.Certificate == "") {
		return nil, usage(c, errors.New("--sign-key and --sign-cert belong together: want both, or neither"))
	}
	if s.Key != "" && s.keyDir != "" && (build == nil || *build != "") {
		return s.OpenSSL, nil
	}
	root, err := projectRoot()
	if err != nil {
		return nil, withTry(err, flags+", or run this within the project")
	}
	if s.Key == "" {
		s.Key, s.Certificate = filepath.Join(root, ".keys/update.key"), filepath.Join(root, ".keys/update.crt")
	}
	if s.keyDir == "" {
		s.keyDir = filepath.Join(root, projectKeys)
	}
	if build != nil && *build == "" {
		*build = filepath.Join(root, ".build/out")
	}
	return s.OpenSSL, nil
}

// keys are those of the trusted metadata; open was called before.
func (s *signerFlags) keys() publisher.Keys { return publisher.Keys{Dir: s.keyDir} }

func releaseServeCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve TREE",
		Short: "Serve a release tree over HTTP, until stopped",
		Long: "Serve a release tree over HTTP, until stopped. Any web server can do the same with the\n" +
			"plain files: nothing that it says is believed.",
		Example: "  holdfast release serve .build/release\n  holdfast release serve /srv/releases --listen :8080",
		Args:    args("TREE"),
	}
	address := c.Flags().String("listen", "127.0.0.1:8080", "address and port to listen on")
	c.RunE = func(c *cobra.Command, args []string) error {
		tree, err := release.Serve(args[0])
		if err != nil {
			return err
		}
		listener, err := (&net.ListenConfig{}).Listen(c.Context(), "tcp", *address)
		if err != nil {
			return errors.Join(withTry(fmt.Errorf("listening on %s: %w", *address, err), "--listen with another port"), tree.Close())
		}
		if _, err := fmt.Fprintf(env.Stdout, "Serving %s at http://%s\n", args[0], listener.Addr()); err != nil {
			return errors.Join(err, listener.Close(), tree.Close())
		}
		return errors.Join(serveUntilDone(c.Context(), listener, tree), tree.Close())
	}
	return c
}

// serveUntilDone serves until ctx ends, which is the ordinary end, then lets running downloads
// go on for a moment.
func serveUntilDone(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return server.Close()
	}
	return nil
}
