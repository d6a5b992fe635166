package change

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// withoutPath is the cause of an error about a file that the message names
// anyway.
func withoutPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}

// advice is what to do about err, where that is known.
func advice(err error) string {
	for _, a := range []struct {
		cause error
		text  string
	}{
		{syscall.EROFS, "name the directory that this node's runtime uses, on a file system that can be written; in a container, mount it writable"},
		{syscall.ENOSPC, "free some space; the old file is still in place"},
		{syscall.EDQUOT, "free some space; the old file is still in place"},
		{fs.ErrPermission, "be root; if you are, AppArmor or SELinux forbids it (run the container unconfined) or the file is immutable (chattr -i)"},
		{fs.ErrNotExist, "make the directory, or name the one that this node's runtime uses"},
	} {
		if errors.Is(err, a.cause) {
			return " (" + a.text + ")"
		}
	}
	return ""
}
