package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/system/sysext"
)

func imageInspectCommand(env *Env) *cobra.Command {
	var asJSON, quick bool
	var trust []string
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what is in an image, and check its signatures",
		Long: "Show what is in an image (raw, .gz, a CD, qcow2, vhdx), or on a medium, and check its\n" +
			"signatures. Secrets of the seed are left out. The exit code is 1 when something is wrong.\n\n" +
			"Without --trust an image is held against the certificates that it brings itself: then it is\n" +
			"known to be whole, and not to be anybody's.",
		Example: "  holdfast image inspect Holdfast.img.gz\n" +
			"  holdfast image inspect /dev/sdb --trust secureboot.crt --json",
		Args: args("IMAGE"),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "the same as -f json")
	c.Flags().BoolVar(&quick, "quick", false, "leave /usr unread, which takes most of the time")
	c.Flags().StringArrayVar(&trust, "trust", nil, "PEM certificate that must have signed; may be repeated (default those of the image)")
	out := addFormats(env, c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if asJSON {
			out.format = "json"
		}
		trusted, err := readCertificates(trust)
		if err != nil {
			return err
		}
		image, err := openImage(c.Context(), env, args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, image.close()) }()
		report, err := media.Inspect(c.Context(), image, image.size, prover{}, media.Options{Trusted: trusted, Quick: quick})
		if err != nil {
			return fmt.Errorf("looking into %s: %w", args[0], err)
		}
		text, err := json.Marshal(report)
		if err != nil {
			return fmt.Errorf("encoding the report: %w", err)
		}
		if err := out.print(text, as(reportView)); err != nil {
			return err
		}
		if len(report.Problems) > 0 {
			return exitError(ExitError)
		}
		return nil
	}
	return c
}

// readCertificates reads PEM files, each with one certificate.
func readCertificates(paths []string) ([][]byte, error) {
	var found [][]byte
	for _, path := range paths {
		text, err := readFile(path, maxChoice)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate: %w", err)
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("reading %s: it is no PEM certificate", path)
		}
		found = append(found, block.Bytes)
	}
	return found, nil
}

// prover checks signatures with the code that nodes use.
type prover struct{}

func (prover) Program(r io.ReaderAt, size int64) (media.Program, error) {
	image, err := pe.Read(r, size)
	if err != nil {
		return media.Program{}, err
	}
	p := media.Program{SHA256: hex.EncodeToString(image.SHA256[:]), Sections: map[string]media.Region{}}
	for _, s := range image.Sections {
		p.Sections[s.Name] = media.Region{Offset: int64(s.Offset), Size: int64(min(s.Size, s.Stored))}
	}
	for _, s := range image.Signatures {
		p.Signers = append(p.Signers, s.Chain[0])
	}
	return p, nil
}

func (prover) Verity(ctx context.Context, image io.ReaderAt, size int64, certificates [][]byte) (string, string, error) {
	found, err := sysext.VerifyReader(ctx, image, size, certificates)
	return found.RootHash, found.Signer, err
}

func (prover) Certificates(lists []byte) ([][]byte, error) { return efi.ParseOnlyCertificates(lists) }

func reportView(r media.Report) view {
	usr := "not checked"
	if r.Usr.Valid {
		usr = "whole, signed by " + short(r.Usr.Signer)
	}
	v := view{fields: []field{{"Release", r.Version}, {"Architecture", r.Architecture}, {"Variant", r.Variant}, {"Form", r.Form},
		{"Size", bytesText(uint64(max(r.Size, 0)))}, {"Usr", usr}, {"Root hash", r.Usr.RootHash}}}
	partitions := table{title: "Partitions", head: []string{"NUMBER", "LABEL", "START", "SIZE"}}
	for _, p := range r.Partitions {
		partitions.rows = append(partitions.rows, []string{strconv.Itoa(p.Number), p.Label, strconv.FormatInt(p.Start, 10), bytesText(uint64(p.Size))})
	}
	keys := table{title: "Keys", head: []string{"VARIABLE", "SUBJECT", "FINGERPRINT"}}
	for _, k := range r.Keys {
		keys.rows = append(keys.rows, []string{k.Variable, k.Subject, k.Fingerprint})
	}
	programs := table{title: "Programs", head: []string{"PATH", "SIGNED BY", "AUTHENTICODE SHA256"}}
	for _, p := range r.Programs {
		var signers []string
		for _, s := range p.Signers {
			signers = append(signers, s.Subject+" "+short(s.Fingerprint))
		}
		programs.rows = append(programs.rows, []string{p.Path, strings.Join(signers, ", "), p.SHA256})
	}
	seeds := table{title: "Seed", head: []string{"DOCUMENT", "CONTENT"}}
	for _, name := range slices.Sorted(maps.Keys(r.Seed)) {
		text, err := json.Marshal(r.Seed[name])
		if err != nil {
			text = []byte(err.Error())
		}
		seeds.rows = append(seeds.rows, []string{name, string(text)})
	}
	problems := table{title: "Problems", head: []string{"WHAT"}}
	for _, p := range r.Problems {
		problems.rows = append(problems.rows, []string{p})
	}
	v.tables = []table{partitions, keys, programs, seeds, problems}
	return v
}

// short is the beginning of a fingerprint, enough to tell two apart.
func short(fingerprint string) string { return fingerprint[:min(16, len(fingerprint))] }
