package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/customizer"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/netboot"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// serveGrace is how long running downloads may go on once the service is told to stop.
const serveGrace = 30 * time.Second

type imageServeFlags struct {
	listen, cert, key, cache, server string
	downloads                        int
	boot                             []string
}

func imageServeCommand(env *Env) *cobra.Command {
	var f imageServeFlags
	c := &cobra.Command{
		Use:   "serve TREE",
		Short: "Serve customized images of a release tree, with a web page, until stopped",
		Long: "Serve customized images of a release tree, with a web page, until stopped. People choose\n" +
			"what a node shall be, and get an image with their choice in it. The API is that of the\n" +
			"customizer of IncusOS.\n\n" +
			"Images are made ready once, in a cache beside the tree, and never packed again. Stopping\n" +
			"lets running downloads go on for half a minute.\n\n" +
			"With --boot machines start from it over the network (HTTP boot of UEFI): the image of the\n" +
			"choice in FILE is at /boot/NAME.img, to be given out by DHCP. FILE is a document as\n" +
			"image customize --options takes it, without secrets, and it has to install.\n\n" +
			"The environment variables LISTEN_ADDRESS, TLS_CERT and TLS_KEY stand for the flags that\n" +
			"are not given.",
		Example: "  holdfast image serve .build/release\n" +
			"  holdfast image serve /srv/releases --server-url https://releases.example.org\n" +
			"  holdfast image serve /srv/releases --tls-cert server.crt --tls-key server.key\n" +
			"  holdfast image serve /srv/releases --boot rack1=rack1.yaml",
		Args: args("TREE"),
	}
	flags := c.Flags()
	flags.StringVar(&f.listen, "listen", "", "address and port to listen on (default :8080, with TLS :8443)")
	flags.StringVar(&f.cert, "tls-cert", "", "PEM file of the server's certificate, with its chain")
	flags.StringVar(&f.key, "tls-key", "", "PEM file of the certificate's private key")
	flags.StringVar(&f.cache, "cache", "", "folder for images made ready (default .customizer in the tree)")
	flags.StringVar(&f.server, "server-url", "", "address where nodes find the tree, which the page begins with (default none: people give it)")
	flags.IntVar(&f.downloads, "max-downloads", 500, "downloads at a time; more are asked to come back")
	flags.StringArrayVar(&f.boot, "boot", nil, "NAME=FILE: serve the image of a choice for a start over the network; may be repeated")
	c.RunE = func(c *cobra.Command, args []string) error {
		for variable, flag := range map[string]*string{"LISTEN_ADDRESS": &f.listen, "TLS_CERT": &f.cert, "TLS_KEY": &f.key} {
			if *flag == "" {
				*flag = env.Getenv(variable)
			}
		}
		if (f.cert == "") != (f.key == "") {
			return usage(c, errors.New("--tls-cert and --tls-key belong together: want both, or neither"))
		}
		if f.downloads < 1 {
			return usage(c, fmt.Errorf("--max-downloads %d: want at least 1", f.downloads))
		}
		return serveImages(c.Context(), env, args[0], f)
	}
	return c
}

func serveImages(ctx context.Context, env *Env, tree string, f imageServeFlags) (err error) {
	scheme, address := "http", ":8080"
	var secure *tls.Config
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return fmt.Errorf("reading the server's certificate: %w", err)
		}
		scheme, address = "https", ":8443"
		secure = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	if f.listen != "" {
		address = f.listen
	}
	log := slog.New(slog.NewTextHandler(env.Stderr, nil))
	boot, err := bootChoices(f.boot)
	if err != nil {
		return err
	}
	service, err := customizer.New(customizer.Options{
		Tree: tree, Cache: f.cache, Boot: boot, ServerURL: f.server, MaxDownloads: f.downloads, PKCS12: pkcs12(env.Run), Now: env.Now, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return withTry(fmt.Errorf("listening on %s: %w", address, err), "--listen with another port")
	}
	if _, err := fmt.Fprintf(env.Stdout, "Serving images of %s at %s://%s\n", tree, scheme, listener.Addr()); err != nil {
		return errors.Join(err, listener.Close())
	}
	for _, name := range slices.Sorted(maps.Keys(boot)) {
		url := fmt.Sprintf("%s://%s%s", scheme, listener.Addr(), customizer.BootPath(name, boot[name]))
		err := netboot.CheckURL(url)
		if err == nil {
			_, err = fmt.Fprintf(env.Stdout, "Machines start from %s\n", url)
		}
		if err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	go keepPrepared(ctx, service, log)
	return serveImagesUntilDone(ctx, listener, secure, service)
}

// bootChoices reads the choices that machines start from, given as NAME=FILE.
func bootChoices(given []string) (map[string]customizer.Choice, error) {
	all := map[string]customizer.Choice{}
	for _, word := range given {
		name, file, ok := strings.Cut(word, "=")
		if _, twice := all[name]; !ok || twice {
			return nil, fmt.Errorf("--boot %q: want NAME=FILE, each name once", word)
		}
		options, err := readOptions(file)
		var problems media.Problems
		if err != nil && !errors.As(err, &problems) {
			return nil, err
		}
		if err != nil {
			return nil, &listedError{fmt.Sprintf("the choice in %s cannot be served:\n  %s", file, strings.ReplaceAll(err.Error(), "\n", "\n  ")), err}
		}
		if all[name], err = options.Choice(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// keepPrepared makes new releases ready before somebody asks for them.
func keepPrepared(ctx context.Context, service *customizer.Service, log *slog.Logger) {
	for {
		if err := service.Prepare(ctx); err != nil && ctx.Err() == nil {
			log.Error("making images ready", "error", err)
		}
		if wait(ctx, time.Minute) != nil {
			return
		}
	}
}

func serveImagesUntilDone(ctx context.Context, listener net.Listener, secure *tls.Config, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         secure,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	ended := make(chan error, 1)
	go func() {
		if secure != nil {
			ended <- server.ServeTLS(listener, "", "")
			return
		}
		ended <- server.Serve(listener)
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), serveGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return server.Close()
	}
	return nil
}

// pkcs12 packs a certificate and its key with openssl: no library of the project writes
// PKCS #12. The key goes through a pipe, never through arguments or files.
func pkcs12(runner run.Runner) func(ctx context.Context, certificate, key []byte) ([]byte, error) {
	return func(ctx context.Context, certificate, key []byte) (packed []byte, err error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		f, err := os.CreateTemp("", "holdfast-certificate-*")
		if err != nil {
			return nil, fmt.Errorf("handing a certificate to openssl: %w", err)
		}
		defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
		_, err = f.Write(certificate)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("handing a certificate to openssl: %w", err)
		}
		result, err := runner(ctx, run.Command{
			Name: "openssl",
			Args: []string{"pkcs12", "-export", "-passout", "pass:", "-name", "Holdfast client certificate",
				"-in", f.Name(), "-inkey", "/dev/stdin"},
			Stdin: bytes.NewReader(key),
		})
		if err != nil {
			return nil, fmt.Errorf("packing a certificate as PKCS #12: %w", err)
		}
		return result.Stdout, nil
	}
}
