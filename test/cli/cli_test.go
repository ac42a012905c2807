// Package cli_test runs the real `holdfast` command against a node made of canned
// answers. Each script under this folder reads like a page of the manual: what is
// typed, and what comes back.
//
// A script finds a node at $HOLDFAST_ENDPOINT, with its certificates in the
// environment. A file node/PATH.json of the script is the answer to GET /PATH; what a
// script does not bring comes from world.go. What the commands change is written to
// requests.txt, one line for each request.
package cli_test

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-os/holdfast/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"holdfast": func() { os.Exit(cli.Main(context.Background(), os.Args[1:])) },
	})
}

// What a person types and reads is a promise like any other.
func TestHoldfast_TypedAsInTheScripts_AnswersAsWritten(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		RequireExplicitExec: false,
		Setup:               startNode,
	})
}
