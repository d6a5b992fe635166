package source

import (
	"cmp"
	"errors"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/kubepolicy"
)

// Problems takes the errors that were joined in err apart. object is whom they are
// about where they don't say it.
func Problems(object string, err error) []api.Problem {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var list []api.Problem
		for _, err := range many.Unwrap() {
			list = append(list, Problems(object, err)...)
		}
		return list
	}
	var fe *kubepolicy.FieldError
	if errors.As(err, &fe) {
		return []api.Problem{{Object: cmp.Or(fe.Object, object), Field: fe.Field, Message: fe.Err.Error()}}
	}
	return []api.Problem{{Object: object, Message: err.Error()}}
}
