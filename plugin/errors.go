package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/conf"
	"github.com/podwall/podwall/internal/api"
)

// An envError is about a variable of the environment, which it names.
type envError struct {
	name string
	err  error
}

func (e *envError) Error() string { return e.name + ": " + e.err.Error() }
func (e *envError) Unwrap() error { return e.err }

// An applyError says that rules could not be installed. Whatever its cause, it is
// no unavailability of the daemon: it does not match api.ErrUnavailable, so
// failurePolicy open does not let it pass.
type applyError struct {
	attachment api.Attachment
	cause      error
}

func (e *applyError) Error() string {
	return fmt.Sprintf("install rules of %s on %s in %s: %v", e.attachment.Pod(), e.attachment.Interface, e.attachment.Netns, e.cause)
}

// cniError gives err the code of the CNI specification that tells the runtime
// what to do about it. away is the verb's code for a daemon that can't serve.
func cniError(err error, away uint) error {
	var (
		ce *conf.Error
		ee *envError
		pe *fs.PathError
	)
	code := types.ErrInternal
	switch {
	case err == nil:
		return nil
	case errors.Is(err, conf.ErrUnknown):
		code = types.ErrUnsupportedField
	case errors.As(err, &ce):
		code = types.ErrInvalidNetworkConfig
	case errors.As(err, &ee):
		code = types.ErrInvalidEnvironmentVariables
	case errors.Is(err, api.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		code = away
	case errors.As(err, &pe):
		code = types.ErrIOFailure
	}
	return types.NewError(code, oneLine(err), "")
}

// oneLine is err's text without line breaks, which errors.Join puts in.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
