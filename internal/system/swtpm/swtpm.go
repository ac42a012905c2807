// Package swtpm runs software TPMs for virtual machines.
//
// A TPM is a folder with its state and, while a machine runs, a process that serves
// a control socket to QEMU. The process ends by itself when QEMU closes that socket.
// Only the SHA-256 bank of PCRs is active: it is the one that counts, and every other
// bank costs the firmware time for each thing it measures.
package swtpm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Tools says how to run a program of the tools tree.
type Tools interface {
	Command(name string, args ...string) run.Command
}

// TPM names the files of one TPM.
type TPM struct {
	// Dir holds the state: keys and counters. Copying it while no process serves it
	// copies the TPM.
	Dir string
	// Socket is the control socket QEMU connects to.
	Socket string
	// PIDFile holds the number of the serving process.
	PIDFile string
}

// settings switches off certificates for the endorsement key: no machine of the lab
// is asked to prove who made its TPM.
const settings = `create_certs_tool = /bin/false
create_certs_tool_config = /dev/null
create_certs_tool_options = /dev/null
active_pcr_banks = sha256
`

// Setup makes a new TPM in t.Dir; one that is there is overwritten.
func Setup(ctx context.Context, runner run.Runner, tools Tools, t TPM) error {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return fmt.Errorf("making the TPM folder: %w", err)
	}
	config := filepath.Join(t.Dir, "setup.conf")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		return fmt.Errorf("writing the TPM settings: %w", err)
	}
	command, err := setupCommand(tools, t.Dir, config)
	if err != nil {
		return fmt.Errorf("making a TPM: %w", err)
	}
	if _, err := runner(ctx, command); err != nil {
		return fmt.Errorf("making a TPM in %s: %w", t.Dir, err)
	}
	return nil
}

// setupCommand hands swtpm_setup the words that start the server. It splits them at
// spaces and knows no quoting.
func setupCommand(tools Tools, dir, config string) (run.Command, error) {
	server := tools.Command("swtpm", "socket")
	words := append([]string{server.Name}, server.Args...)
	for _, word := range words {
		if strings.ContainsAny(word, " \t\n") {
			return run.Command{}, fmt.Errorf("the path %q has a space, which swtpm_setup cannot take: move the cache folder (HOLDFAST_CACHE)", word)
		}
	}
	return tools.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", config,
		"--pcr-banks", "sha256", "--createek", "--overwrite", "--tpm", strings.Join(words, " ")), nil
}

// Start serves the TPM in a process that outlives the caller. It returns once the
// socket is there.
func Start(ctx context.Context, runner run.Runner, tools Tools, t TPM) error {
	if err := os.Remove(t.Socket); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing the old TPM socket: %w", err)
	}
	if _, err := runner(ctx, startCommand(tools, t)); err != nil {
		return fmt.Errorf("starting the TPM in %s: %w", t.Dir, err)
	}
	return nil
}

func startCommand(tools Tools, t TPM) run.Command {
	return tools.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+t.Dir,
		"--ctrl", "type=unixio,path="+t.Socket+",mode=0600",
		"--pid", "file="+t.PIDFile,
		"--daemon", "--terminate")
}
