package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func releaseCommand(env *Env) *cobra.Command {
	return group("release", "Publish, serve and verify releases",
		"  holdfast release publish .build/release\n  holdfast release serve .build/release",
		releasePublishCommand(env), releaseServeCommand(env), releaseVerifyCommand(env))
}

func releasePublishCommand(env *Env) *cobra.Command {
	o := release.PublishOptions{}
	signer := sign.OpenSSL{Run: run.Host}
	var severity string
	c := &cobra.Command{
		Use:   "publish TREE",
		Short: "Bring a build into a release tree and sign the index",
		Long: "Bring a build into a release tree and sign the index. Publishing the same build again\n" +
			"changes nothing; nodes see a release only once it is complete.\n\n" +
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
	f.StringVar(&signer.Key, "sign-key", "", "PEM file or pkcs11: URI of the signing key (default .keys/update.key of the project)")
	f.StringVar(&signer.Certificate, "sign-cert", "", "PEM file of the signing certificate (default .keys/update.crt of the project)")
	f.StringVar(&signer.Chain, "sign-chain", "", "PEM file of the certificates above it")
	f.StringVar(&signer.Module, "sign-module", "", "PKCS#11 library of the token (default what openssl's configuration names)")
	c.RunE = func(c *cobra.Command, args []string) error {
		o.Tree, o.Severity = args[0], api.Severity(severity)
		if !o.Severity.Valid() {
			return usage(c, fmt.Errorf("--severity %q: want none, low, medium, high or critical", severity))
		}
		if (signer.Key == "") != (signer.Certificate == "") {
			return usage(c, errors.New("--sign-key and --sign-cert belong together: want both, or neither"))
		}
		if err := publishDefaults(&o, &signer); err != nil {
			return err
		}
		o.Signer = signer
		update, err := release.Publish(c.Context(), o)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Release %s is published in %s (%s)\n", update.Version, args[0], strings.Join(update.Channels, ", "))
		return err
	}
	return c
}

// publishDefaults looks into the project for what was not named.
func publishDefaults(o *release.PublishOptions, signer *sign.OpenSSL) error {
	if o.BuildDir != "" && signer.Key != "" && signer.Certificate != "" {
		return nil
	}
	root, err := projectRoot()
	if err != nil {
		return withTry(err, "--build, --sign-key and --sign-cert, or run this within the project")
	}
	for value, path := range map[*string]string{
		&o.BuildDir:         ".build/out",
		&signer.Key:         ".keys/update.key",
		&signer.Certificate: ".keys/update.crt",
	} {
		if *value == "" {
			*value = filepath.Join(root, path)
		}
	}
	return nil
}

func releaseServeCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:     "serve TREE",
		Short:   "Serve a release tree over HTTP, until stopped",
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

func releaseVerifyCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify URL",
		Short: "Check the signature of a release tree as a node does, and list its releases",
		Example: "  holdfast release verify http://127.0.0.1:8080\n" +
			"  holdfast release verify https://releases.example.org --ca update.crt --all",
		Args: args("URL"),
	}
	ca := c.Flags().String("ca", "", "PEM file of the certificate that must have signed it (default .keys/update.crt of the project)")
	all := c.Flags().Bool("all", false, "download every file too, and check its size and sum")
	out := addFormat(env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		source, err := openSource(args[0], *ca)
		if err != nil {
			return err
		}
		index, err := source.Index(c.Context())
		if err != nil {
			return err
		}
		if *all {
			if err := fetchAll(c.Context(), source, index); err != nil {
				return err
			}
		}
		return printIndex(out, index)
	}
	return c
}

func openSource(url, ca string) (*release.Source, error) {
	if ca == "" {
		root, err := projectRoot()
		if err != nil {
			return nil, withTry(err, "--ca FILE")
		}
		ca = filepath.Join(root, ".keys", "update.crt")
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, withTry(fmt.Errorf("reading the update certificate: %w", err), "--ca FILE")
	}
	return release.NewSource(release.Options{ServerURL: url, UpdateCA: pem, UserAgent: "holdfast/" + Version})
}

// fetchAll downloads each file once, unpacks it and throws it away.
func fetchAll(ctx context.Context, source *release.Source, index api.Index) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-verify-")
	if err != nil {
		return fmt.Errorf("making a place for downloads: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "file")
	for _, update := range index.Updates {
		for _, f := range update.Files {
			if err := source.Fetch(ctx, update, f, file, nil); err != nil {
				return fmt.Errorf("release %s, file %s: %w", update.Version, f.Filename, err)
			}
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("removing a checked download: %w", err)
			}
		}
	}
	return nil
}

func printIndex(out *output, index api.Index) error {
	raw, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encoding the index: %w", err)
	}
	return out.print(raw, as(indexView))
}

func indexView(index api.Index) view {
	t := table{head: []string{"VERSION", "CHANNELS", "SEVERITY", "PUBLISHED", "FILES", "SIZE"}}
	for _, u := range index.Updates {
		var size uint64
		for _, f := range u.Files {
			size += uint64(max(f.Size, 0))
		}
		t.rows = append(t.rows, []string{u.Version, strings.Join(u.Channels, " "), string(u.Severity),
			timeText(u.PublishedAt), strconv.Itoa(len(u.Files)), bytesText(size)})
	}
	return view{tables: []table{t}}
}
