package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast-os/holdfast/api/os"
)

// waitStep is how long one request waits for an operation: less than what proxies on the
// way cut off.
const waitStep = 30 * time.Second

// OperationError is an operation that ended without success.
type OperationError struct {
	// Operation is its last state.
	Operation os.Operation
}

func (e *OperationError) Error() string {
	text := e.Operation.Err
	if text == "" {
		text = "no reason given"
	}
	return fmt.Sprintf("operation %s (%s) ended with %s: %s", e.Operation.ID, e.Operation.Description, e.Operation.Status, text)
}

// Operations lists what goes on and what ended a short while ago, the oldest first.
func (c *Client) Operations(ctx context.Context) ([]os.Operation, error) {
	byStatus, _, err := get[map[string][]os.Operation](ctx, c, "/1.0/operations", url.Values{"recursion": {"1"}})
	if err != nil {
		return nil, err
	}
	list := []os.Operation{}
	for _, some := range byStatus {
		list = append(list, some...)
	}
	slices.SortFunc(list, func(a, b os.Operation) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// OperationPath is the path of one operation, for Do and Raw.
func OperationPath(id string) (string, error) { return memberPath("/1.0/operations", "operation", id) }

// Operation shows one.
func (c *Client) Operation(ctx context.Context, id string) (os.Operation, error) {
	p, err := OperationPath(id)
	if err != nil {
		return os.Operation{}, err
	}
	value, _, err := get[os.Operation](ctx, c, p, nil)
	return value, err
}

// WaitOperation waits until an operation has ended, however it ends, or the context does.
func (c *Client) WaitOperation(ctx context.Context, id string) (os.Operation, error) {
	p, err := OperationPath(id)
	if err != nil {
		return os.Operation{}, err
	}
	query := url.Values{"timeout": {strconv.Itoa(int(waitStep.Seconds()))}}
	for {
		value, _, err := get[os.Operation](ctx, c, p+"/wait", query)
		if err != nil || value.StatusCode >= os.OperationSuccess {
			return value, err
		}
		// A node that does not wait is not asked without a pause.
		select {
		case <-ctx.Done():
			return value, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// CancelOperation asks an operation to end; it may take a while (WaitOperation).
func (c *Client) CancelOperation(ctx context.Context, id string) error {
	p, err := OperationPath(id)
	if err != nil {
		return err
	}
	_, err = c.Do(ctx, Request{Method: http.MethodDelete, Path: p})
	return err
}

// settle waits for the operation behind an answer, if there is one; one that does not end
// well is an *OperationError.
func (c *Client) settle(ctx context.Context, answer Answer) error {
	if answer.Operation == "" {
		return nil
	}
	operation, err := c.WaitOperation(ctx, answer.Operation)
	if err != nil {
		return fmt.Errorf("waiting for operation %s: %w", answer.Operation, err)
	}
	if operation.StatusCode != os.OperationSuccess {
		return &OperationError{Operation: operation}
	}
	return nil
}

// decodeAnswer reads the metadata of an answer into a T.
func decodeAnswer[T any](path string, answer Answer) (T, error) {
	var value T
	if err := json.Unmarshal(answer.Metadata, &value); err != nil {
		return value, fmt.Errorf("decoding the answer for %s: %w", path, err)
	}
	return value, nil
}
