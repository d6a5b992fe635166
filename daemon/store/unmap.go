package store

import "golang.org/x/sys/unix"

// many files in one transaction touch so much of the database that it is worth
// letting go of it.
const many = 500

// Unmap lets go of the pages of the file that were touched. bbolt maps the file, and
// what it has looked at counts as this process' memory from then on. It stays in the
// kernel's cache, from where it comes back page by page when it is looked at again.
func (s *Store) Unmap() {
	_ = s.view("let go of pages", func(t *txn) error { // if it fails, nothing is lost but memory
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, s.db.Info().Data, uintptr(t.tx.Size()), unix.MADV_DONTNEED)
		return nil
	})
}
