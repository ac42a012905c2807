package tpm2selftest_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/holdfast-os/holdfast/internal/system/tpm2selftest"
)

// answering is a TPM with one answer.
type answering struct {
	asked  []byte
	answer []byte
}

func (a *answering) Send(command []byte) ([]byte, error) { a.asked = command; return a.answer, nil }
func (a *answering) Close() error                        { return nil }

// The codes are those of TPM 2.0 Library, part 2, 6.6.3.
func TestRun_Answers_AreToldApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []byte
		failed bool
		bad    bool
	}{
		{"it works", []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0}, false, false},
		{"the test goes on", []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x0a}, false, false},
		{"it is broken", []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01}, true, true},
		{"it waits for the end of an update", []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x2d}, true, true},
		{"half an answer", []byte{0x80, 0x01}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			chip := &answering{answer: c.answer}
			err := tpm2selftest.TPM{Open: func() (transport.TPMCloser, error) { return chip, nil }}.Run()
			if errors.Is(err, tpm2selftest.ErrFailed) != c.failed || (err != nil) != c.bad {
				t.Errorf("got %v", err)
			}
			if len(chip.asked) != 11 || chip.asked[5] != 11 {
				t.Errorf("the TPM was asked % x", chip.asked)
			}
		})
	}
}

func TestRun_NoDevice_SaysSo(t *testing.T) {
	err := tpm2selftest.TPM{Open: func() (transport.TPMCloser, error) { return nil, fs.ErrNotExist }}.Run()
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, tpm2selftest.ErrFailed) {
		t.Errorf("got %v", err)
	}
}
